"""Extract the images of an untrusted zip or tar archive."""

import lzma
import posixpath
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, NamedTuple, Self

from cnnClassifier.dataset.layout import is_image
from cnnClassifier.utils.common import create_directories, format_size
from cnnClassifier.utils.errors import SourceError
from cnnClassifier.utils.progress import progress
from cnnClassifier.utils.storage import disk_errors

MAX_RATIO = 200  # extracted bytes for each byte of the archive
_SMALL_BYTES = 1_000_000  # an archive that extracts to less is no bomb, whatever its ratio
_MAX_LINK_BYTES = 4096
# Headers whose content is read into memory.
_EXTENDED_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
# What the libraries raise for damaged, encrypted (RuntimeError) and unsupported archives.
_ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
    OverflowError,
)
_HINT = "extract it yourself and set data_ingestion.source_URL to the folder"


class _Member(NamedTuple):
    """A member of a zip or tar archive.

    Attributes:
        name: its path.
        size: extracted bytes; the libraries never return more.
        open: opens a regular file for reading; None for others.
        link: target of a link, relative to the archive's top; empty for others.
    """

    name: str
    size: int
    open: Callable[[], IO[bytes] | None] | None = None
    link: str = ""


class _TarHeader(tarfile.TarInfo):
    """Refuse sizes that make tarfile loop forever or read gigabytes into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or (header.type in _EXTENDED_HEADERS and header.size > _SMALL_BYTES):
            raise tarfile.ReadError("a header has an invalid size")
        return header


def archive_error(path: Path) -> str | None:
    """Check by its content whether a file can be an archive.

    Returns:
        None for a zip or a file that tarfile reads; otherwise the reason, to follow its name.
    """
    if _is_tar(path) or zipfile.is_zipfile(path):
        return None
    with path.open("rb") as file:
        head = file.read(1024).lower()
    if b"<html" in head or b"<!doctype html" in head:
        return "is a web page, not an archive"
    return "is not a complete archive (zip, tar, tar.gz, …)"


def extract_images(archive: Path, folder: Path, max_bytes: int) -> None:
    """Extract the images of an archive; other files are skipped, but checked as well.

    Links are never created: a link to an image in the archive becomes a copy of it.

    Args:
        archive: a file without an `archive_error`.
        folder: created if necessary.
        max_bytes: fail if all files together are larger.

    Raises:
        SourceError: the archive is damaged, encrypted or a bomb, or a member is outside `folder`.
        StorageError: the disk is full.
    """
    create_directories(folder)
    archive_bytes = archive.stat().st_size
    limit = min(max_bytes, max(_SMALL_BYTES, MAX_RATIO * archive_bytes))
    list_members = _tar_members if _is_tar(archive) else _zip_members
    links: list[tuple[PurePosixPath, Path]] = []
    total = 0
    try:
        with (
            disk_errors(folder),
            archive.open("rb") as file,
            progress(total=archive_bytes, desc="extract", unit="B", unit_scale=True) as bar,
        ):
            for member in list_members(file):
                path = _safe_path(member.name, archive)
                total += member.size
                _check_total(total, limit, archive)
                if is_image(path) and member.link:
                    links.append((path, folder / _safe_path(member.link, archive)))
                elif is_image(path) and member.open:
                    _write(member.open(), folder / path)
                bar.update(file.tell() - bar.n)
            for path, target in links:
                if target.is_file():
                    total += target.stat().st_size
                    _check_total(total, limit, archive)
                    _write(target.open("rb"), folder / path)
    except _ARCHIVE_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SourceError(
            f"{archive}: damaged, truncated, encrypted or of an unknown compression ({reason}); "
            "get it again, or create it as a plain zip or tar.gz"
        ) from error


def _safe_path(name: str, archive: Path) -> PurePosixPath:
    """Return the name of a member, or the target of a link, as a path below the folder.

    Slashes and backslashes separate; `..`, absolute paths and drive letters are refused.
    """
    path = PureWindowsPath(name)
    if path.anchor or ".." in path.parts or "\0" in name:
        raise SourceError(f"{archive}: {name!r} is a path outside of the folder; {_HINT}")
    return PurePosixPath(*path.parts)


def _check_total(total: int, limit: int, archive: Path) -> None:
    if total > limit:
        raise SourceError(
            f"{archive}: extracts to more than {format_size(limit)}, which is "
            f"data_ingestion.max_unpacked_bytes or {MAX_RATIO} times its size; "
            f"if you trust it, raise that limit or {_HINT}"
        )


def _write(source: IO[bytes] | None, target: Path) -> None:
    if source is None:
        raise EOFError("a file without content")
    create_directories(target.parent)
    with source, target.open("wb") as file:
        shutil.copyfileobj(source, file)


def _zip_members(file: IO[bytes]) -> Iterator[_Member]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            file_type = stat.S_IFMT(info.external_attr >> 16)
            if file_type == stat.S_IFLNK:
                target = archive.open(info).read(_MAX_LINK_BYTES).decode()
                link = _resolve_link(info.filename, target)
                yield _Member(info.filename, info.file_size, link=link)
            elif not info.is_dir() and file_type in (0, stat.S_IFREG):
                yield _Member(info.filename, info.file_size, partial(archive.open, info))


def _tar_members(file: IO[bytes]) -> Iterator[_Member]:
    with tarfile.open(fileobj=file, mode="r:*", tarinfo=_TarHeader) as archive:
        for info in archive:
            if info.size < 0:  # from an extended header
                raise tarfile.ReadError("a header has an invalid size")
            if info.islnk():
                yield _Member(info.name, info.size, link=info.linkname)
            elif info.issym():
                yield _Member(info.name, info.size, link=_resolve_link(info.name, info.linkname))
            elif info.isreg():
                yield _Member(info.name, info.size, partial(archive.extractfile, info))
            else:
                yield _Member(info.name, info.size)
        # tarfile takes a damaged header for the end. The real end is two blocks of zeros, of which
        # it has read one.
        end = archive.fileobj.read(tarfile.BLOCKSIZE) if archive.fileobj else b""
        if end != bytes(tarfile.BLOCKSIZE):
            raise EOFError("the end is missing")


def _resolve_link(name: str, target: str) -> str:
    """Return the target of a symbolic link relative to the archive's top."""
    folder = posixpath.dirname(name.replace("\\", "/"))
    return posixpath.normpath(posixpath.join(folder, target.replace("\\", "/")))


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except (EOFError, zlib.error, lzma.LZMAError, ValueError):
        return False
