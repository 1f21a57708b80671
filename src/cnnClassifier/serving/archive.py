"""Read the images of zip archives in memory, with bounded time and memory."""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import PurePosixPath

from cnnClassifier.imaging.dicom_header import is_dicom
from cnnClassifier.imaging.file_names import has_suffix, is_image
from cnnClassifier.serving.errors import RequestError

# A file with its path or name, as the client sent it, or why it can't be used.
File = tuple[str, bytes | RequestError]

_MAGIC, _DIRECTORY_ENTRY = b"PK\x03\x04", b"PK\x01\x02"
_MAX_ENTRIES = 10_000  # of an archive, folders and other files included
# Others, such as LZMA, need as much memory as their header says.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1  # one of the flags
_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError),
    *(NotImplementedError, RuntimeError, IndexError, OverflowError),
)


def unpack_archives(files: Iterable[File], max_bytes: int) -> list[File]:
    """Replace zip archives by their images, sorted by path; the archive's name is their folder.

    Files in an archive that are hidden or aren't named like images are skipped.

    Args:
        files: what the client sent.
        max_bytes: of all unpacked images together.
    """
    unpacked: list[File] = []
    for path, data in files:
        if isinstance(data, RequestError) or not data.startswith(_MAGIC):
            unpacked.append((path, data))
            continue
        archive = PurePosixPath(path)
        folder = archive.parent / (archive.stem or "archive")
        try:
            images = _unpack(data, max_bytes)
        except RequestError as error:
            unpacked.append((path, error))
            continue
        max_bytes -= sum(len(image) for image in images.values() if isinstance(image, bytes))
        unpacked += [(str(folder / name), images[name]) for name in sorted(images)]
    return unpacked


def _unpack(data: bytes, max_bytes: int) -> dict[str, bytes | RequestError]:
    """Return the images of an archive by their path in it; there is at least one.

    Raises:
        RequestError: 413 or 422.
    """
    if data.count(_DIRECTORY_ENTRY) > _MAX_ENTRIES:
        message = f"the zip archive has more than {_MAX_ENTRIES:,} files"
        raise RequestError(413, "too_many_images", message)
    images = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.infolist():
                path = PurePosixPath(entry.filename.replace("\\", "/"))
                if entry.is_dir() or not is_image(path):
                    continue
                max_bytes -= entry.file_size
                if max_bytes < 0:
                    message = "the zip archive unpacks to too many bytes; send fewer images at once"
                    raise RequestError(413, "too_large", message)
                image = _read(archive, entry)
                if has_suffix(path) or (isinstance(image, bytes) and is_dicom(image)):
                    images[str(path)] = image
    except _ERRORS:
        raise RequestError(422, "corrupt", "the zip archive is damaged; pack it again") from None
    if not images:
        raise RequestError(422, "not_an_image", "the zip archive has no image")
    return images


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes | RequestError:
    if entry.flag_bits & _ENCRYPTED or entry.compress_type not in _METHODS:
        message = "encrypted, or not compressed by deflate; pack a plain zip archive"
        return RequestError(422, "unsupported", message)
    try:
        with archive.open(entry) as file:
            return file.read(entry.file_size)
    except _ERRORS:
        return RequestError(422, "corrupt", "the file in the zip archive is damaged; pack it again")
