"""Read the images of zip archives in memory, with bounded time and memory."""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from cnnClassifier.imaging.dicom_header import is_dicom
from cnnClassifier.imaging.file_names import has_suffix, is_image
from cnnClassifier.serving.errors import RequestError

# A file with its path or name, as the client sent it, or why it can't be used.
File = tuple[str, bytes | RequestError]

_MAGIC, _DIRECTORY_ENTRY = b"PK\x03\x04", b"PK\x01\x02"
# Of all archives of a request. Some directories of a few MB take zipfile many seconds.
_MAX_ENTRIES, _MAX_DIRECTORY_BYTES = 10_000, 3_000_000
# Others, such as LZMA, need as much memory as their header says.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1  # one of the flags
_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError),
    *(NotImplementedError, RuntimeError, IndexError, OverflowError),
)


@dataclass
class _Budget:
    """What the archives of a request may still have, all together, whether they are usable or not.

    Attributes:
        image_bytes: of unpacked images.
        entries: folders and other files included.
        directory_bytes: of their names and extra fields.
    """

    image_bytes: int
    entries: int
    directory_bytes: int


class _Archive(io.BytesIO):
    """A zip archive in memory, whose directory is charged to a budget while zipfile opens it."""

    is_open = False

    def __init__(self, data: bytes, budget: _Budget) -> None:
        super().__init__(data)
        self._budget = budget

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        if not self.is_open:
            self._budget.directory_bytes -= len(content)
            if self._budget.directory_bytes < 0:
                raise RequestError(413, "too_large", "the names in the zip archives are too long")
        return content


def unpack_archives(files: Iterable[File], max_bytes: int) -> list[File]:
    """Replace zip archives by their images, sorted by path; the archive's name is their folder.

    Files in an archive that are hidden or aren't named like images are skipped.

    Args:
        files: what the client sent.
        max_bytes: of all unpacked images together.
    """
    budget = _Budget(max_bytes, _MAX_ENTRIES, _MAX_DIRECTORY_BYTES)
    unpacked: list[File] = []
    for path, data in files:
        if isinstance(data, RequestError) or not data.startswith(_MAGIC):
            unpacked.append((path, data))
            continue
        archive = PurePosixPath(path)
        folder = archive.parent / (archive.stem or "archive")
        try:
            images = _unpack(data, budget)
        except RequestError as error:
            unpacked.append((path, error))
            continue
        unpacked += [(str(folder / name), images[name]) for name in sorted(images)]
    return unpacked


def _unpack(data: bytes, budget: _Budget) -> dict[str, bytes | RequestError]:
    """Return the images of an archive by their path in it; there is at least one.

    Raises:
        RequestError: 413 or 422.
    """
    budget.entries -= data.count(_DIRECTORY_ENTRY)
    if budget.entries < 0:
        message = f"the zip archives have more than {_MAX_ENTRIES:,} files"
        raise RequestError(413, "too_many_images", message)
    images = {}
    stream = _Archive(data, budget)
    try:
        with zipfile.ZipFile(stream) as archive:
            stream.is_open = True
            for entry in archive.infolist():
                path = PurePosixPath(entry.filename.replace("\\", "/").lstrip("/"))
                if entry.is_dir() or not is_image(path):
                    continue
                budget.image_bytes -= entry.file_size
                if budget.image_bytes < 0:
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
