import io
import random
import struct
import zipfile

import pytest

from cnnClassifier.serving import archive
from cnnClassifier.serving.archive import unpack_archives
from cnnClassifier.serving.errors import RequestError
from tests.archives import zip_of
from tests.dicoms import dicom, lungs

SCAN = dicom(lungs(side=32))
MAX_BYTES = 10_000


def codes(files):
    return [image.code if isinstance(image, RequestError) else None for _, image in files]


def test_images_are_sorted_below_the_name_of_their_archive():
    files = {
        "b/2.png": b"2",
        "b/1.JPG": b"1",
        "a\\x.png": b"x",
        "IM0001": SCAN,
        "scan.17": SCAN,
        "README": b"text",
        "notes.txt": b"text",
        "DICOMDIR": SCAN,
        "b/.hidden.png": b"h",
        "__MACOSX/b/1.png": b"m",
        "../evil.png": b"e",
        "/etc/x.png": b"p",
        "empty/": b"",
    }
    sent = [("first.png", b"f"), ("up/study.zip", zip_of(files)), ("", zip_of({"r.png": b"r"}))]
    unpacked = unpack_archives(sent, MAX_BYTES)
    assert [path for path, _ in unpacked] == [
        *("first.png", "up/study/IM0001", "up/study/a/x.png", "up/study/b/1.JPG"),
        *("up/study/b/2.png", "up/study/etc/x.png", "up/study/scan.17", "archive/r.png"),
    ]
    assert dict(unpacked)["up/study/b/2.png"] == b"2"
    assert dict(unpacked)["up/study/IM0001"] == SCAN


def test_all_archives_of_a_request_share_a_limit():
    half = zip_of({"a.png": bytes(6000)})
    unpacked = unpack_archives([("a.zip", half), ("b.zip", half), ("c", b"image")], MAX_BYTES)
    assert codes(unpacked) == [None, "too_large", None]


def zip_with(name="a.png", content=b"x", comment=b"", **attributes):
    """Return an archive of one file, with attributes of its `ZipInfo`."""
    buffer = io.BytesIO()
    info = zipfile.ZipInfo(name)
    for key, value in attributes.items():
        setattr(info, key, value)
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(info, content, zipfile.ZIP_DEFLATED)
        file.comment = comment
    return buffer.getvalue()


def patched(offset, kind, value, data=None):
    """Return an archive with another value in its directory entry."""
    data = bytearray(data or zip_of({"a.png": bytes(5000)}))
    struct.pack_into(kind, data, data.index(ENTRY) + offset, value)
    return bytes(data)


ENTRY, END = b"PK\x01\x02", b"PK\x05\x06"
GOOD = zip_of({"a.png": b"x"})
ZIP64 = struct.pack("<HHQQ", 1, 16, 2**62, 2**62)  # extra field with both sizes
HOSTILE = {
    "LZMA": (zip_of({"a.png": b"x"}, zipfile.ZIP_LZMA), "unsupported"),
    "BZIP2": (zip_of({"a.png": b"x"}, zipfile.ZIP_BZIP2), "unsupported"),
    "encrypted": (patched(8, "<H", 1), "unsupported"),
    "no image": (zip_of({"a.txt": b"x"}), "not_an_image"),
    "only metadata of macOS": (zip_of({"__MACOSX/a.png": b"x"}), "not_an_image"),
    "archive in an archive": (zip_of({"a.zip": GOOD}), "not_an_image"),
    "wrong CRC": (patched(16, "<L", 1), "corrupt"),
    "bomb": (zip_of({"a.png": bytes(10**6)}), "too_large"),
    "bomb that says less": (patched(24, "<L", 9000, zip_of({"a.png": bytes(10**6)})), "corrupt"),
    "sizes of ZIP64": (patched(24, "<L", 2**32 - 1, zip_with(extra=ZIP64)), "too_large"),
    "no end": (GOOD[:-5], "corrupt"),
    "short directory": (GOOD[:-30] + GOOD[-22:], "corrupt"),
    "directory beyond the end": (GOOD[:-10] + b"\xff" * 8 + GOOD[-2:], "corrupt"),
    "name not in UTF-8": (zip_with("é.png").replace(b"\xc3\xa9", b"\xff\xff"), "corrupt"),
    "ends in the comment": (zip_with(comment=END * 16_000), "corrupt"),
    "100,000 files": (GOOD + 100_000 * ENTRY, "too_many_images"),
    "extra fields": (zip_with(extra=b"\7\7\0\0" * 16_000, comment=bytes(40_000)), "too_large"),
    "link": (zip_with(content=b"/etc/passwd", external_attr=0o120777 << 16), None),
    "a name twice": (zip_of({"a.png": b"1", "A.png": b"2"}).replace(b"A.png", b"a.png"), None),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_in_one_line(monkeypatch, name):
    monkeypatch.setattr(archive, "_MAX_DIRECTORY_BYTES", 100_000)
    data, code = HOSTILE[name]
    ((path, image),) = unpack_archives([("up/x.zip", data)], MAX_BYTES)
    assert path in ("up/x.zip", "up/x/a.png")
    assert codes([(path, image)]) == [code]
    assert "\n" not in str(image)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (patched(24, "<L", 6000, zip_of({"a.png": bytes(10**6)})), ["corrupt", "too_large"]),
        (zip_with(comment=6000 * ENTRY), [None, "too_many_images"]),
        (zip_with(extra=b"\7\7\0\0" * 16_000), [None, "too_large"]),
    ],
)
def test_archives_of_a_request_share_limits_even_if_they_are_unusable(monkeypatch, data, found):
    monkeypatch.setattr(archive, "_MAX_DIRECTORY_BYTES", 100_000)
    assert codes(unpack_archives([("", data)] * 2, MAX_BYTES)) == found


def test_a_file_that_unpacks_to_more_than_it_says_is_damaged():
    ((_, image),) = unpack_archives([("", patched(24, "<L", 10))], MAX_BYTES)
    assert isinstance(image, RequestError) or len(image) == 10


def test_a_damaged_archive_is_an_error_and_nothing_else():
    rng = random.Random(1)
    original = zip_of({"a/b.png": rng.randbytes(300), "c.dcm": SCAN, "d.png": b"d" * 500})
    found = set()
    for _ in range(400):
        data = bytearray(original[: rng.choice([len(original), rng.randrange(4, len(original))])])
        for _ in range(rng.randint(1, 20)):
            data[rng.randrange(4, len(data))] = rng.randrange(256)
        found |= set(codes(unpack_archives([("", bytes(data))], MAX_BYTES)))
    assert {None, "corrupt"} <= found
    assert found <= {None, "corrupt", "unsupported", "too_large", "not_an_image"}
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    assert unpack_archives([("", empty.getvalue())], MAX_BYTES) == [("", empty.getvalue())]
