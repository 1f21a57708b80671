"""Limits on image files, checked before pixels are decoded, so that no file takes long or much.

`python -m benchmarks hostile_uploads` measures time and memory of files at these limits.
"""

import io
import re
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL.TiffImagePlugin import (
    PREFIXES,
    STRIPOFFSETS,
    TILEOFFSETS,
    ImageFileDirectory_v2,
)

from cnnClassifier.utils.errors import ImageError

# Pillow takes memory for each row, and scaling takes time for each.
_MAX_SIDE = 20_000
# A pixel of these formats takes so many times the time or memory of one of a PNG or JPEG.
# BMP 1 and 2 are run-length encoded, which Pillow decodes in Python.
PIXEL_COSTS = {
    "WEBP": 2,
    "DICOM color": 2,
    "JPEG2000": 4,
    "JPEG2000 color": 12,
    "TIFF jpeg": 2,
    "BMP 1": 4,
    "BMP 2": 4,
}
# Pillow reads each small block with a call of its own: a million calls take a second.
_MAX_READS = 250_000
# Each scan of a progressive JPEG visits all pixels, and needs no more than 40 bytes.
_MAX_SCANS = 50
_MAX_STRIPS = 50_000
# Those that a length follows, and the end; not escaped bytes and restarts, which are among pixels.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_JPEG2000_START = b"\xff\x4f\xff\x51"  # of the codestream
_MAX_TILES = 2_000
_JPEG_ARITHMETIC = (0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)


class BoundedFile(io.BytesIO):
    """A file in memory that can be read with a limited number of calls."""

    _reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes.

        Raises:
            ImageError: `corrupt`: too many calls.
        """
        self._reads += 1
        if self._reads > _MAX_READS:
            raise _too_many("blocks")
        return super().read(size)


def check_size(width: int, height: int, max_pixels: int, kind: str = "") -> int:
    """Check the size of an image.

    Args:
        width: in pixels.
        height: in pixels.
        max_pixels: for a format that isn't in `PIXEL_COSTS`.
        kind: the format, and the compression if there are several; see `PIXEL_COSTS`.

    Returns:
        The cost of decoding it, as a number of pixels up to `max_pixels`.

    Raises:
        ImageError: `too_large`.
    """
    size = f"{width}×{height} pixels"
    if max(width, height) > _MAX_SIDE:
        raise ImageError("too_large", f"{size}; a side may have at most {_MAX_SIDE:,}")
    cost = PIXEL_COSTS.get(kind, 1)
    if width * height * cost > max_pixels:
        of_kind = " for this kind of file" if cost > 1 else ""
        limit = f"at most {max_pixels // cost:,} are accepted{of_kind}"
        raise ImageError("too_large", f"{size}; {limit}")
    return width * height * cost


def check_blocks(data: bytes) -> None:
    """Check the scans of a JPEG, the tiles of a JPEG 2000, the strips of a TIFF; others pass.

    Raises:
        ImageError: `corrupt` or `unsupported`.
    """
    if data.startswith(b"\xff\xd8"):
        _check_jpeg(data)
    elif data.startswith(_JPEG2000_START):
        _check_jpeg2000(data)
    elif data.startswith(tuple(PREFIXES)):
        file = BoundedFile(data)
        directory = ImageFileDirectory_v2(file.read(16 if data[2] == 43 else 8))
        file.seek(directory.next)
        directory.load(file)
        if len(directory.get(STRIPOFFSETS, directory.get(TILEOFFSETS, ()))) > _MAX_STRIPS:
            raise _too_many("strips")


def _check_jpeg(data: bytes) -> None:
    position, scans = 2, 0
    for _ in range(_MAX_READS):
        found = _JPEG_MARKER.search(data, position)
        if found is None or data[found.start() + 1] == 0xD9:  # the end of the image
            return
        marker = data[found.start() + 1]
        if marker in _JPEG_ARITHMETIC:
            raise ImageError(
                "unsupported", "JPEG with arithmetic coding isn't supported; save it as PNG"
            )
        scans += marker == 0xDA
        if scans > _MAX_SCANS:
            raise _too_many("scans")
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2])
    raise _too_many("blocks")


def _check_jpeg2000(data: bytes) -> None:
    sizes = data[8:40]
    if len(sizes) == 32:
        x, y, _, _, width, height, left, top = struct.unpack(">8I", sizes)
        columns, rows = -(-(x - left) // max(1, width)), -(-(y - top) // max(1, height))
        if columns * rows > _MAX_TILES:
            raise _too_many("tiles")


def jpeg2000_codestream(data: bytes) -> bytes:
    """Return a JPEG 2000 image without the boxes of a JP2 file.

    DICOM doesn't allow them, some programs write them, and pydicom loops for ever on one of length
    0.

    Raises:
        ImageError: `corrupt`: there is no codestream.
    """
    start = data.find(_JPEG2000_START)
    if start < 0:
        raise ImageError("corrupt", "the JPEG 2000 image has no codestream; save it again")
    return data[start:]


def _too_many(parts: str) -> ImageError:
    return ImageError("corrupt", f"the image has too many {parts}; save it again")


class PixelBudget:
    """Let threads decode no more than a number of pixels at the same time.

    Args:
        max_pixels: the sum over all threads.
    """

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._used = 0
        self._changed = threading.Condition()
        self._turn = threading.Lock()  # no small image overtakes a large one that waits

    @contextmanager
    def use(self, pixels: int) -> Iterator[None]:
        """Wait for that many pixels, at most `max_pixels`, and hold them."""
        with self._turn, self._changed:
            self._changed.wait_for(lambda: self._used + pixels <= self._max_pixels)
            self._used += pixels
        try:
            yield
        finally:
            with self._changed:
                self._used -= pixels
                self._changed.notify_all()


UNLIMITED = PixelBudget(sys.maxsize)
