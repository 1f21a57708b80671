import contextlib
import random
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from cnnClassifier.dataset.extraction import archive_error, extract_images
from cnnClassifier.utils.errors import SourceError, StorageError
from tests.archives import IMAGES, read_files, tar_of, zip_of

LIMIT = 10**9


def write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "archive"
    path.write_bytes(content)
    return path


def error_of(tmp_path: Path, content: bytes, max_bytes: int = LIMIT) -> str:
    with pytest.raises(SourceError) as raised:
        extract_images(write(tmp_path, content), tmp_path / "out", max_bytes)
    message = str(raised.value)
    assert "\n" not in message
    assert str(tmp_path) in message
    assert not [p for p in tmp_path.rglob("*") if p.is_symlink() or p.name == "evil.png"]
    return message


def info(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0
) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, size
    return member


@pytest.mark.parametrize(
    "pack", [zip_of, *(lambda f, c=c: tar_of(f, c) for c in ("", "gz", "bz2", "xz"))]
)
def test_only_images_are_extracted(tmp_path, pack):
    other_files = {
        "scans/README.md": b"hello",
        "__MACOSX/scans/normal/._a.png": b"x",
        "scans/normal/.hidden.png": b"x",
    }
    archive = write(tmp_path, pack(IMAGES | other_files | {"./scans//normal\\windows.PNG": b"w"}))
    assert archive_error(archive) is None
    extract_images(archive, tmp_path / "out", LIMIT)
    assert read_files(tmp_path / "out") == IMAGES | {"scans/normal/windows.PNG": b"w"}


@pytest.mark.parametrize(
    "name", ["../evil.png", "a/../../evil.png", "/evil.png", "C:\\evil.png", "a\\..\\..\\evil.png"]
)
@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_a_member_outside_of_the_folder_is_refused(tmp_path, name, pack):
    assert "outside of the folder" in error_of(tmp_path, pack(IMAGES | {name: b"x"}))


def test_another_file_outside_of_the_folder_is_refused_too(tmp_path):
    assert "outside of the folder" in error_of(tmp_path, tar_of(IMAGES | {"../evil.sh": b"x"}))


@pytest.mark.parametrize("target", ["a.png", "../../../evil.png", "/etc/passwd"])
@pytest.mark.parametrize(
    "kind", ["zip", *(getattr(tarfile, f"{k}TYPE") for k in ("SYM", "LNK", "CHR", "BLK", "FIFO"))]
)
def test_links_devices_and_pipes_are_skipped(tmp_path, caplog, kind, target):
    name = "scans/normal/z.png"
    link = zipfile.ZipInfo(name)
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    if kind == "zip":
        content = zip_of(IMAGES | {link: target.encode()})
    else:
        content = tar_of(IMAGES, more=(info(name, kind, target),))
    extract_images(write(tmp_path, content), tmp_path / "out", LIMIT)
    assert read_files(tmp_path / "out") == IMAGES
    assert "skipped 1 links to images" in caplog.text


def test_an_encrypted_zip_is_reported(tmp_path):
    content = bytearray(zip_of(IMAGES))
    content[content.index(b"PK\1\2") + 8] |= 1
    assert "password required" in error_of(tmp_path, bytes(content))


@pytest.mark.parametrize("name", ["a/bomb.png", "a/bomb.bin"])
@pytest.mark.parametrize(
    "pack", [zip_of, lambda files: tar_of(files, "gz"), lambda files: tar_of(files, "xz")]
)
def test_bombs_are_refused(tmp_path, pack, name):
    content = pack({name: bytes(12_000_000)})
    assert "200 times its size" in error_of(tmp_path, content)
    assert "more than 500.0 kB" in error_of(tmp_path, content, max_bytes=500_000)
    assert sum(map(len, read_files(tmp_path / "out").values())) <= 1_500_000


def test_a_wrong_size_in_a_zip_is_damage(tmp_path):
    content = zip_of({"a/bomb.png": bytes(12_000_000)}).replace(
        (12_000_000).to_bytes(4, "little"), b"\x10\0\0\0"
    )
    assert "damaged" in error_of(tmp_path, content)
    assert sum(map(len, read_files(tmp_path / "out").values())) <= 16


@pytest.mark.parametrize(
    "header",
    [
        info("a/x.png", size=-512),
        info("a", tarfile.GNUTYPE_LONGNAME, size=10**10),
        info("a", b"x", size=-512),
    ],
)
def test_invalid_tar_headers_are_refused(tmp_path, header):
    block = header.tobuf(tarfile.GNU_FORMAT)
    content = tar_of(IMAGES)
    end = content.rindex(b"c" * 800) + 1024
    assert "a header has an invalid size" in error_of(
        tmp_path, content[: end - end % 512] + block + bytes(2048)
    )


@pytest.mark.parametrize(
    "pack", [tar_of, *(lambda f, c=c: tar_of(f, c) for c in ("gz", "bz2", "xz"))]
)
@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.9])
def test_a_truncated_tar_is_damaged(tmp_path, pack, fraction):
    noise = random.Random(1)
    content = pack({f"normal/{n}.png": noise.randbytes(20_000) for n in range(8)})
    assert "damaged, truncated" in error_of(tmp_path, content[: int(len(content) * fraction)])


CUT = tar_of(IMAGES).rstrip(b"\0")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CUT + bytes(-len(CUT) % 512), "damaged, truncated"),  # between two members
        (zip_of(IMAGES, zipfile.ZIP_STORED).replace(b"cc", b"cd", 1), "CRC"),
    ],
)
def test_damage_is_reported(tmp_path, content, message):
    assert message in error_of(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a complete archive"),
        (b"just text", "not a complete archive"),
        (b"\n<!-- x -->\n<HTML lang='en'>", "web page"),
        (zip_of(IMAGES)[:-30], "not a complete archive"),
        (tar_of(IMAGES, "gz")[:15], "not a complete archive"),
        (tar_of(IMAGES, "xz")[:80], "not a complete archive"),
    ],
    ids=["empty", "text", "web page", "zip", "tar.gz", "tar.xz"],  # the bytes have the time in them
)
def test_other_files_are_no_archives(tmp_path, content, message):
    assert message in archive_error(write(tmp_path, content))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_no_damage(tmp_path):
    target = tmp_path / "out/scans/normal/a.png"
    target.parent.mkdir(parents=True)
    target.symlink_to("/dev/full")
    with pytest.raises(StorageError, match="No space left on device; free some space"):
        extract_images(write(tmp_path, zip_of(IMAGES)), tmp_path / "out", LIMIT)


def test_any_damage_is_one_line(tmp_path):
    """Flip bytes all over: only known errors, and nothing outside of the folder."""
    noise = random.Random(3)
    for pack in (zip_of, tar_of, lambda files: tar_of(files, "gz")):
        content = pack(IMAGES)
        for _ in range(50):
            damaged = bytearray(content)
            for _ in range(4):
                damaged[noise.randrange(len(damaged))] = noise.randrange(256)
            path = write(tmp_path, bytes(damaged))
            if archive_error(path) is None:
                with contextlib.suppress(SourceError):
                    extract_images(path, tmp_path / "out", LIMIT)
    assert {path.name for path in tmp_path.iterdir()} <= {"archive", "out"}
