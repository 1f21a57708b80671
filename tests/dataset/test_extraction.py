import io
import random
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from cnnClassifier.dataset.extraction import archive_trouble, unpack
from cnnClassifier.dataset.storage import write_all
from cnnClassifier.utils.errors import SourceError
from tests.archives import IMAGES, tar_of, zip_of

LIMIT = 10**9


def write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "archive"
    path.write_bytes(content)
    return path


def unpacked(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def refusal(tmp_path: Path, content: bytes, max_bytes: int = LIMIT) -> str:
    with pytest.raises(SourceError) as caught:
        unpack(write(tmp_path, content), tmp_path / "out", max_bytes)
    message = str(caught.value)
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


def zip_link(name: str, target: str) -> bytes:
    member = zipfile.ZipInfo(name)
    member.create_system, member.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return zip_of(IMAGES | {member: target.encode()})


@pytest.mark.parametrize(
    "pack", [zip_of, *(lambda f, c=c: tar_of(f, c) for c in ("", "gz", "bz2", "xz"))]
)
def test_unpacks_images_and_nothing_else(tmp_path, pack):
    litter = {
        "scans/README.md": b"hello",
        "__MACOSX/scans/normal/._a.png": b"x",
        "scans/normal/.hidden.png": b"x",
    }
    archive = write(tmp_path, pack(IMAGES | litter | {"./scans//normal\\windows.PNG": b"w"}))
    assert archive_trouble(archive) is None
    unpack(archive, tmp_path / "out", LIMIT)
    assert unpacked(tmp_path / "out") == IMAGES | {"scans/normal/windows.PNG": b"w"}


@pytest.mark.parametrize(
    "content",
    [
        tar_of(IMAGES, more=[info("scans/normal/z.png", tarfile.LNKTYPE, "scans/normal/a.png")]),
        tar_of(IMAGES, more=[info("scans/normal/z.png", tarfile.SYMTYPE, "../normal/a.png")]),
        zip_link("scans/normal/z.png", "a.png"),
    ],
    ids=["hardlink", "symlink", "zip symlink"],
)
def test_a_link_to_an_image_inside_becomes_a_copy(tmp_path, content):
    unpack(write(tmp_path, content), tmp_path / "out", LIMIT)
    copy = tmp_path / "out/scans/normal/z.png"
    assert copy.read_bytes() == IMAGES["scans/normal/a.png"]
    assert not copy.is_symlink()
    assert copy.stat().st_nlink == 1


@pytest.mark.parametrize(
    "name", ["../evil.png", "a/../../evil.png", "/evil.png", "C:\\evil.png", "a\\..\\..\\evil.png"]
)
@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_refuses_members_that_lead_outside(tmp_path, name, pack):
    assert "outside the folder" in refusal(tmp_path, pack(IMAGES | {name: b"x"}))


def test_refuses_even_other_files_that_lead_outside(tmp_path):
    assert "outside the folder" in refusal(tmp_path, tar_of(IMAGES | {"../evil.sh": b"x"}))


@pytest.mark.parametrize("target", ["../../../evil.png", "/etc/passwd", "..\\..\\..\\evil"])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, "zip"])
def test_refuses_links_that_lead_outside(tmp_path, target, kind):
    name = "scans/normal/z.png"
    content = (
        zip_link(name, target) if kind == "zip" else tar_of(IMAGES, more=[info(name, kind, target)])
    )
    assert "is a link that leads outside" in refusal(tmp_path, content)


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_refuses_devices_and_pipes(tmp_path, kind):
    assert "device or a pipe" in refusal(tmp_path, tar_of(IMAGES, more=[info("scans/x.png", kind)]))


def test_refuses_an_encrypted_zip(tmp_path):
    content = bytearray(zip_of(IMAGES))
    content[content.index(b"PK\1\2") + 8] |= 1
    assert "encrypted" in refusal(tmp_path, bytes(content))


@pytest.mark.parametrize("name", ["a/bomb.png", "a/bomb.bin"])
@pytest.mark.parametrize(
    "pack", [zip_of, lambda files: tar_of(files, "gz"), lambda files: tar_of(files, "xz")]
)
def test_refuses_bombs(tmp_path, pack, name):
    content = pack({name: bytes(12_000_000)})
    assert "more than 200 times" in refusal(tmp_path, content)
    assert "more than 500.0 kB" in refusal(tmp_path, content, max_bytes=500_000)
    assert sum(map(len, unpacked(tmp_path / "out").values())) <= 1_500_000


def test_counts_what_is_unpacked_whatever_a_zip_says(tmp_path):
    content = zip_of({"a/bomb.png": bytes(12_000_000)}).replace(
        (12_000_000).to_bytes(4, "little"), b"\x10\0\0\0"
    )
    assert "damaged" in refusal(tmp_path, content)
    assert sum(map(len, unpacked(tmp_path / "out").values())) <= 16


@pytest.mark.parametrize(
    "header",
    [
        info("a/x.png", size=-512),
        info("a", tarfile.GNUTYPE_LONGNAME, size=10**10),
        info("a", b"x", size=-512),
    ],
)
def test_refuses_impossible_tar_headers(tmp_path, header):
    block = header.tobuf(tarfile.GNU_FORMAT)
    content = tar_of(IMAGES)
    end = content.rindex(b"c" * 800) + 1024
    assert "a header with an impossible size" in refusal(
        tmp_path, content[: end - end % 512] + block + bytes(2048)
    )


@pytest.mark.parametrize(
    "pack", [tar_of, *(lambda f, c=c: tar_of(f, c) for c in ("gz", "bz2", "xz"))]
)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_tar_cut_short_is_damaged(tmp_path, pack, share):
    noise = random.Random(1)
    content = pack({f"normal/{n}.png": noise.randbytes(20_000) for n in range(8)})
    assert "damaged or cut short" in refusal(tmp_path, content[: int(len(content) * share)])


def test_a_tar_cut_between_members_is_damaged(tmp_path):
    content = tar_of(IMAGES).rstrip(b"\0")
    assert "damaged or cut short" in refusal(tmp_path, content + bytes(-len(content) % 512))


def test_a_zip_with_flipped_bytes_is_damaged(tmp_path):
    content = bytearray(zip_of(IMAGES, zipfile.ZIP_STORED))
    content[content.index(b"c" * 800) + 5] ^= 255
    assert "CRC" in refusal(tmp_path, bytes(content))


@pytest.mark.parametrize(
    ("content", "trouble"),
    [
        (b"", "empty"),
        (b"just text", "not an archive"),
        (b"<!DOCTYPE html><html>quota exceeded", "web page"),
        (b"\n<!-- x -->\n<HTML lang='en'>", "web page"),
        (zip_of(IMAGES)[:-30], "cut short"),
        (tar_of(IMAGES, "gz")[:15], "not an archive"),
        (tar_of(IMAGES, "xz")[:80], "not an archive"),
    ],
)
def test_says_what_a_file_is_instead_of_an_archive(tmp_path, content, trouble):
    assert trouble in archive_trouble(write(tmp_path, content))


def test_a_disk_that_fills_up_while_unpacking(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    target = tmp_path / "out/scans/normal/a.png"
    target.parent.mkdir(parents=True)
    target.symlink_to("/dev/full")
    with pytest.raises(SourceError, match="the disk is full"):
        unpack(write(tmp_path, zip_of(IMAGES)), tmp_path / "out", LIMIT)


def test_a_disk_that_is_too_small_is_seen_before_unpacking(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 2_000}))
    assert "2.4 kB needed, 2.0 kB free" in refusal(tmp_path, zip_of(IMAGES))
    assert unpacked(tmp_path / "out") == {}


def test_a_disk_that_takes_part_of_a_write_gets_the_rest(tmp_path):
    class Grudging(io.FileIO):
        def write(self, data):
            return super().write(data[:3])

    with Grudging(tmp_path / "file", "wb") as file:
        write_all(file, b"abcdefgh")
    assert (tmp_path / "file").read_bytes() == b"abcdefgh"
