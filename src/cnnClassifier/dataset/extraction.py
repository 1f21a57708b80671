"""Extract the images of an untrusted zip or tar archive."""

import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Self

from cnnClassifier.imaging.file_names import is_image
from cnnClassifier.utils.common import create_directories, format_size
from cnnClassifier.utils.errors import SourceError
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.progress import progress
from cnnClassifier.utils.storage import disk_errors

MAX_RATIO = 200  # extracted bytes for each byte of the archive
_SMALL_BYTES = 1_000_000  # an archive that extracts to less is no bomb, whatever its ratio
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


# Path in the archive; extracted bytes (the libraries never return more); function that opens a file
# for reading, or None for folders, links and devices.
_Member = tuple[str, int, Callable[[], IO[bytes]] | None]


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

    Links are skipped: the image that one refers to is in the archive once already.

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
    total = skipped = 0
    try:
        with (
            disk_errors(folder),
            archive.open("rb") as file,
            progress(total=archive_bytes, desc="extract", unit="B", unit_scale=True) as bar,
        ):
            for name, size, open_file in list_members(file):
                path = safe_path(name, archive)
                total += size
                if total > limit:
                    raise SourceError(
                        f"{archive}: extracts to more than {format_size(limit)}, which is "
                        f"data_ingestion.max_unpacked_bytes or {MAX_RATIO} times its size; "
                        f"if you trust it, raise that limit or {_HINT}"
                    )
                bar.update(file.tell() - bar.n)
                if name.endswith(("/", "\\")) or not is_image(path):
                    continue
                if open_file:
                    create_directories((folder / path).parent)
                    with open_file() as source, (folder / path).open("wb") as target:
                        shutil.copyfileobj(source, target)
                else:
                    skipped += 1
    except _ARCHIVE_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SourceError(
            f"{archive}: damaged, truncated, encrypted or of an unknown compression ({reason}); "
            "get it again, or create it as a plain zip or tar.gz"
        ) from error
    if skipped:
        logger.warning("%s: skipped %d links to images", archive, skipped)


def safe_path(name: str, source: object) -> PurePosixPath:
    """Return the name of a member of `source` as a path below a folder.

    Slashes and backslashes separate; `..`, absolute paths and drive letters are refused.
    """
    path = PureWindowsPath(name)
    if path.anchor or ".." in path.parts or "\0" in name:
        raise SourceError(f"{source}: {name!r} is a path outside of the folder; {_HINT}")
    return PurePosixPath(*path.parts)


def _zip_members(file: IO[bytes]) -> Iterator[_Member]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            is_regular = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)
            content = partial(archive.open, info) if is_regular else None
            yield info.filename, info.file_size, content


def _tar_members(file: IO[bytes]) -> Iterator[_Member]:
    with tarfile.open(fileobj=file, mode="r:*", tarinfo=_TarHeader) as archive:
        for info in archive:
            if info.size < 0:  # from an extended header
                raise tarfile.ReadError("a header has an invalid size")
            content = partial(archive.extractfile, info) if info.isreg() else None
            name = f"{info.name}/" if info.isdir() else info.name
            yield name, info.size, content  # type: ignore[misc]
        # tarfile takes a damaged header for the end. The real end is two blocks of zeros, of which
        # it has read one.
        end = archive.fileobj.read(tarfile.BLOCKSIZE) if archive.fileobj else b""
        if end != bytes(tarfile.BLOCKSIZE):
            raise EOFError("the end is missing")


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except (EOFError, zlib.error, lzma.LZMAError, ValueError):
        return False
