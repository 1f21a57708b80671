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
        "empty/": b"",
    }
    sent = [("first.png", b"f"), ("up/study.zip", zip_of(files)), ("", zip_of({"r.png": b"r"}))]
    unpacked = unpack_archives(sent, MAX_BYTES)
    assert [path for path, _ in unpacked] == [
        *("first.png", "up/study/IM0001", "up/study/a/x.png", "up/study/b/1.JPG"),
        *("up/study/b/2.png", "up/study/scan.17", "archive/r.png"),
    ]
    assert dict(unpacked)["up/study/b/2.png"] == b"2"
    assert dict(unpacked)["up/study/IM0001"] == SCAN


def test_all_archives_of_a_request_share_a_limit():
    half = zip_of({"a.png": bytes(6000)})
    unpacked = unpack_archives([("a.zip", half), ("b.zip", half), ("c", b"image")], MAX_BYTES)
    assert codes(unpacked) == [None, "too_large", None]
    assert codes(unpack_archives([("", zip_of({"a.png": bytes(10**8)}))], MAX_BYTES)) == [
        "too_large"
    ]


def test_an_archive_of_very_many_files_is_not_read(monkeypatch):
    monkeypatch.setattr(archive, "_MAX_ENTRIES", 3)
    files = {f"{number}.txt": b"" for number in range(4)}
    assert codes(unpack_archives([("", zip_of(files))], MAX_BYTES)) == ["too_many_images"]


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_other_compressions_and_encryption_are_refused(method):
    other = zip_of({"a.png": b"x"}, method)
    # A flag in the directory, as in an encrypted archive.
    plain = bytearray(zip_of({"a.png": b"x"}))
    plain[plain.index(b"PK\x01\x02") + 8] |= 1
    for data in (other, bytes(plain)):
        assert codes(unpack_archives([("", data)], MAX_BYTES)) == ["unsupported"]
    assert codes(unpack_archives([("", zip_of({"a.txt": b"x"}))], MAX_BYTES)) == ["not_an_image"]


def test_a_file_that_unpacks_to_more_than_it_says_is_damaged():
    data = bytearray(zip_of({"a.png": bytes(5000)}))
    size = data.index(b"PK\x01\x02") + 24
    data[size : size + 4] = struct.pack("<I", 10)
    ((_, image),) = unpack_archives([("", bytes(data))], MAX_BYTES)
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
