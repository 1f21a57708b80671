"""Unpack the images of a zip or tar archive that nobody vouches for."""

import codecs
import functools
import io
import lzma
import posixpath
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Self

from cnnClassifier.dataset.layout import is_image
from cnnClassifier.dataset.storage import check_free, disk_errors, write_all
from cnnClassifier.utils.common import create_directories, format_size
from cnnClassifier.utils.errors import SourceError
from cnnClassifier.utils.progress import progress

MAX_RATIO = 200  # bytes unpacked for each byte packed
_HARMLESS = 1_000_000  # bytes; no archive that unpacks to less is called a bomb for its ratio
_CHUNK = 1 << 18
_LONGEST_LINK = 4096
_ABOUT_OTHERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    struct.error,
    ValueError,
    OverflowError,
)


@dataclass(frozen=True)
class _Member:
    """What zip and tar have in common.

    Attributes:
        name: as the archive says it.
        size: in bytes, as the archive says it.
        kind: `file`, `folder`, `link`, `encrypted` or `special` (devices, pipes).
        link: of a link, where it leads, from the archive's top.
        open: gives the bytes of a file.
    """

    name: str
    size: int
    kind: str
    link: str = ""
    open: Callable[[], IO[bytes] | None] = lambda: None


class _Budget:
    """Count what is unpacked, and stop a bomb."""

    def __init__(self, archive: Path, max_bytes: int) -> None:
        packed = archive.stat().st_size
        self._archive = archive
        self._max_bytes = max_bytes
        self._max_by_ratio = max(_HARMLESS, MAX_RATIO * packed)
        self.spent = 0

    def spend(self, count: int) -> None:
        self.spent += count
        self.check(self.spent)

    def check(self, total: int) -> None:
        if total > self._max_bytes:
            raise SourceError(
                f"{self._archive}: unpacks to more than {format_size(self._max_bytes)}; if you trust it, raise "
                "data_ingestion.max_unpacked_bytes"
            )
        if total > self._max_by_ratio:
            raise SourceError(
                f"{self._archive}: unpacks to more than {MAX_RATIO} times its size, as no images do; if you trust it, "
                "unpack it yourself and name the folder in data_ingestion.source_URL"
            )


class _Header(tarfile.TarInfo):
    """Refuse headers that make tarfile loop for ever or read gigabytes into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        about_others = header.type in _ABOUT_OTHERS
        if header.size < 0 or (about_others and header.size > _HARMLESS):
            raise tarfile.ReadError("a header with an impossible size")
        return header


def archive_trouble(path: Path) -> str | None:
    """Say why a file can't be an archive, judged by its content.

    Returns:
        None for a zip or something that tarfile reads; else words to follow the file's name.
    """
    if _is_tar(path) or zipfile.is_zipfile(path):
        return None
    with path.open("rb") as file:
        head = file.read(1024)
    if not head:
        return "is empty"
    if head.startswith(b"PK"):
        return "is a zip that is damaged or cut short"
    if head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"<") and re.search(
        rb"<(!doctype )?html", head, re.IGNORECASE
    ):
        return "is a web page, not an archive"
    return "is not an archive (zip, tar, tar.gz, …)"


def safe_path(name: str) -> PurePosixPath | None:
    """Return a member's name as a relative path, or None where it would lead out of the folder.

    Both kinds of slashes separate; `..`, absolute paths and drive letters lead out.
    """
    text = name.replace("\\", "/")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if (
        text.startswith("/")
        or "\0" in text
        or any(part == ".." or re.match("[A-Za-z]:", part) for part in parts)
    ):
        return None
    return PurePosixPath(*parts)


def unpack(archive: Path, folder: Path, max_bytes: int) -> None:
    """Unpack the images of `archive` into `folder`; other files are passed over, but checked all the same.

    No link is ever made: one that leads to an image in the archive becomes a copy of it.

    Args:
        archive: a file in which `archive_trouble` sees no trouble.
        folder: made if need be.
        max_bytes: refuse to unpack more; counted while unpacking, whatever the headers say.

    Raises:
        SourceError: it is damaged, encrypted or a bomb, a member would land outside `folder`, or the disk is full.
    """
    create_directories(folder)
    budget = _Budget(archive, max_bytes)
    links: list[tuple[PurePosixPath, PurePosixPath]] = []
    with (
        archive.open("rb") as packed,
        progress(total=archive.stat().st_size, desc="unpack", unit="B", unit_scale=True) as bar,
        _damage(archive),
    ):
        members = (
            _tar_members
            if _is_tar(archive)
            else functools.partial(_zip_members, budget=budget, folder=folder)
        )
        for member in members(packed):
            path = _checked(archive, member)
            if member.kind == "link":
                links.append((path, _checked(archive, member, member.link)))
            elif member.kind == "file" and is_image(path):
                _copy(member, folder / path, budget, lambda: bar.update(packed.tell() - bar.n))
            else:
                budget.spend(member.size)
        bar.update(packed.seek(0, io.SEEK_END) - bar.n)
        for path, original in links:
            if is_image(path) and (folder / original).is_file():
                _copy_link(folder / original, folder / path, budget)


def _checked(archive: Path, member: _Member, leads_to: str | None = None) -> PurePosixPath:
    """Return the member's path, or its link's, if nothing about it is to be feared."""
    path = safe_path(member.name if leads_to is None else leads_to)
    mend = "don't use this archive, or unpack it yourself and name the folder in data_ingestion.source_URL"
    if path is None:
        how = "would land" if leads_to is None else "is a link that leads"
        raise SourceError(f"{archive}: member {member.name!r} {how} outside the folder; {mend}")
    if member.kind == "special":
        raise SourceError(f"{archive}: member {member.name!r} is a device or a pipe; {mend}")
    if member.kind == "encrypted" and is_image(path):
        raise SourceError(
            f"{archive}: encrypted; unpack it yourself and name the folder in data_ingestion.source_URL, or pack it "
            "without a password"
        )
    return path


def _copy(member: _Member, target: Path, budget: _Budget, tick: Callable[[], object]) -> None:
    source = member.open()
    if source is None:
        raise EOFError(f"{member.name!r} has no content")
    with source:
        with disk_errors(target.parent):
            create_directories(target.parent)
            file = target.open("wb", buffering=0)
        with file:
            while chunk := source.read(_CHUNK):
                budget.spend(len(chunk))
                write_all(file, chunk)
                tick()


def _copy_link(original: Path, target: Path, budget: _Budget) -> None:
    budget.spend(original.stat().st_size)
    with disk_errors(target.parent):
        create_directories(target.parent)
        shutil.copyfile(original, target)


def _zip_members(packed: IO[bytes], budget: _Budget, folder: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(packed) as archive:
        infos = archive.infolist()
        budget.check(sum(info.file_size for info in infos))
        check_free(
            folder, sum(info.file_size for info in infos if is_image(PurePosixPath(info.filename)))
        )
        for info in infos:
            mode = info.external_attr >> 16
            kind, link = "file", ""
            if info.is_dir() or stat.S_ISDIR(mode):
                kind = "folder"
            elif info.flag_bits & 1:
                kind = "encrypted"
            elif stat.S_ISLNK(mode):
                kind, link = (
                    "link",
                    _from_top(info.filename, archive.open(info).read(_LONGEST_LINK).decode()),
                )
            elif stat.S_IFMT(mode) and not stat.S_ISREG(mode):
                kind = "special"
            yield _Member(
                info.filename, info.file_size, kind, link, functools.partial(archive.open, info)
            )


def _tar_members(packed: IO[bytes]) -> Iterator[_Member]:
    with tarfile.open(fileobj=packed, mode="r:*", tarinfo=_Header) as archive:
        for info in archive:
            kind, link = "special", ""
            if info.size < 0:
                raise tarfile.ReadError("a member of negative size")
            if info.isreg():
                kind = "file"
            elif info.isdir():
                kind = "folder"
            elif info.islnk():
                kind, link = "link", info.linkname
            elif info.issym():
                kind, link = "link", _from_top(info.name, info.linkname)
            yield _Member(
                info.name, info.size, kind, link, functools.partial(archive.extractfile, info)
            )
        # tarfile takes a damaged header for the end; the real end is two blocks of zeros, and it has read one
        if archive.fileobj is None or archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(
            tarfile.BLOCKSIZE
        ):
            raise EOFError("its end is missing")


def _from_top(name: str, link: str) -> str:
    """Return where a symbolic link leads, from the archive's top rather than from the link's folder."""
    link = link.replace("\\", "/")
    return posixpath.normpath(posixpath.join(posixpath.dirname(name.replace("\\", "/")), link))


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except (EOFError, zlib.error, lzma.LZMAError, ValueError):
        return False


@contextmanager
def _damage(archive: Path) -> Iterator[None]:
    try:
        yield
    except (NotImplementedError, tarfile.CompressionError) as error:
        raise SourceError(
            f"{archive}: can't be read ({error}); pack it again as a plain zip or tar.gz"
        ) from error
    except _DAMAGE as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise SourceError(
            f"{archive}: damaged or cut short ({detail}); delete it and fetch it again"
        ) from error
