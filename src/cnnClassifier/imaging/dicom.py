"""Turn one frame of a DICOM file into RGB pixels: HU, window, photometric interpretation."""

import io
import itertools
import logging
import struct
from typing import Any

import numpy as np
from PIL import Image

from cnnClassifier.entity.dicom_options import WINDOWS, DicomInfo, DicomOptions
from cnnClassifier.imaging import dicom_header as tags
from cnnClassifier.imaging.dicom_header import Header, read_header
from cnnClassifier.utils.errors import ImageError

_NATIVE = frozenset((tags.IMPLICIT_LITTLE, tags.EXPLICIT_LITTLE, tags.EXPLICIT_BIG))
_RLE = "1.2.840.10008.1.2.5"
_JPEG = frozenset(("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"))  # baseline and extended
_JPEG_2000 = frozenset(("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"))
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


def read_dicom(
    data: bytes, max_pixels: int, reading: DicomOptions
) -> tuple[np.ndarray, str, DicomInfo]:
    """Decode the chosen frame, and only that.

    Grey: stored values become HU by slope and intercept, then grey levels by a linear window; MONOCHROME1 is
    inverted; padding becomes black. `auto` takes the file's own window (its first), else lung. A file that has
    neither window nor HU is scaled from its darkest to its brightest pixel. Colour is taken as it is.

    Args:
        data: the file's bytes.
        max_pixels: refuse a frame with more before any pixel is decoded.
        reading: window and frame.

    Returns:
        uint8 (height, width, 3); the photometric interpretation; what may be told of the file.

    Raises:
        ImageError: `corrupt`, `too_large`, `unsupported`, `no_such_frame` or `not_an_image`. It quotes no value of
            the header but sizes.
    """
    header = read_header(data)
    rows, columns = header.integer(tags.ROWS), header.integer(tags.COLUMNS)
    if rows * columns > max_pixels:
        raise ImageError("too_large", f"{columns}×{rows} pixels; at most {max_pixels:,} are taken")
    frames = _frames(header)
    if not 1 <= reading.frame <= frames:
        raise ImageError(
            "no_such_frame", f"there is no frame {reading.frame}; choose one from 1 to {frames}"
        )
    options = _options(header, rows, columns)
    stored = _decode(header, options, reading.frame, frames)
    kind = options["photometric_interpretation"]
    if kind in _COLOUR:
        grown = np.right_shift(stored, max(0, options["bits_stored"] - 8)).astype(np.uint8)
        return grown, kind, DicomInfo("colour", None, None, reading.frame, frames)
    grey, facts = _windowed(stored, header.of_frame(reading.frame), options, reading, frames)
    return np.repeat(grey[..., np.newaxis], 3, axis=2), kind, facts


def _frames(header: Header) -> int:
    text = header.text(tags.FRAMES) or "1"
    if not (text.isascii() and text.isdigit() and len(text) < 8):
        raise ImageError("corrupt", "the DICOM file's number of frames is no number")
    return max(1, int(text))


def _options(header: Header, rows: int, columns: int) -> dict[str, Any]:
    """Check what the pixels are said to be, and put it as pydicom's decoders take it.

    Raises:
        ImageError: `unsupported` or `corrupt`.
    """
    syntax, kind = header.syntax, header.text(tags.PHOTOMETRIC)
    if syntax not in _NATIVE | _JPEG | _JPEG_2000 | {_RLE}:
        from pydicom.uid import UID_dictionary

        name = UID_dictionary.get(syntax, ("an unknown one",))[0]
        raise ImageError(
            "unsupported",
            f"DICOM transfer syntax {name} isn't taken; save the file as Explicit VR Little Endian",
        )
    if kind not in _GREY + _COLOUR:
        raise ImageError(
            "unsupported", f"only DICOM files in {', '.join(_GREY + _COLOUR)} are taken"
        )
    samples = header.integer(tags.SAMPLES, 1)
    allocated = header.integer(tags.ALLOCATED)
    stored = header.integer(tags.STORED, allocated)
    if syntax in _JPEG and stored > 8:
        raise ImageError(
            "unsupported",
            "only 8-bit JPEG is taken inside DICOM; save it as Explicit VR Little Endian",
        )
    if allocated not in (8, 16):
        raise ImageError(
            "unsupported", f"only DICOM files of 8 or 16 bits a pixel are taken, not {allocated}"
        )
    if (
        samples != (1 if kind in _GREY else 3)
        or not 1 <= stored <= allocated
        or rows * columns == 0
    ):
        raise ImageError("corrupt", "the DICOM file's size, bits and colours don't fit together")
    return {
        "rows": rows,
        "columns": columns,
        "samples_per_pixel": samples,
        "photometric_interpretation": kind,
        "bits_allocated": allocated,
        "bits_stored": stored,
        "pixel_representation": int(header.integer(tags.SIGNED, 0) == 1),
        "planar_configuration": int(header.integer(tags.PLANAR, 0) == 1),
        "pixel_keyword": "PixelData",
        "pixel_vr": header.vr,
        "correct_unused_bits": False,  # it takes Bits Stored for the lowest, whatever High Bit says; see `_meaning`
    }


def _decode(header: Header, options: dict[str, Any], frame: int, frames: int) -> np.ndarray:
    """Return one frame's stored values: (rows, columns) or, as RGB, (rows, columns, 3)."""
    from pydicom.encaps import encapsulate, get_frame
    from pydicom.pixels import get_decoder

    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    syntax = header.syntax
    if syntax in _NATIVE:
        source, place = header.pixels, frame - 1
    else:
        encoded = get_frame(io.BytesIO(header.pixels), frame - 1, number_of_frames=frames)
        if not (_packed_fits if syntax == _RLE else _picture_fits)(encoded, options):
            raise ImageError(
                "corrupt", "the DICOM file's compressed pixels are of another size than it says"
            )
        source, place, frames = encapsulate([encoded]), 0, 1
    decoded, _ = get_decoder(syntax).as_array(
        source, index=place, **options | {"number_of_frames": frames}
    )
    return decoded.astype(decoded.dtype.newbyteorder("="), copy=False)


def _picture_fits(encoded: bytes, options: dict[str, Any]) -> bool:
    """Tell whether a JPEG or JPEG 2000 picture has the size that the header says, before it is decoded."""
    with Image.open(io.BytesIO(encoded), formats=("JPEG", "JPEG2000")) as image:
        return image.size == (options["columns"], options["rows"])


def _packed_fits(encoded: bytes, options: dict[str, Any]) -> bool:
    """Tell whether RLE segments unpack to no more than the header says: two bytes can stand for 128."""
    most = (
        options["rows"] * options["columns"] + 256
    )  # what is padded to an even length reads as a run
    count, *starts = struct.unpack_from("<16I", encoded)
    starts = [*starts[: min(count, 15)], len(encoded)]
    return all(_unpacked(encoded, at, end, most) <= most for at, end in itertools.pairwise(starts))


def _unpacked(packed: bytes, at: int, end: int, most: int) -> int:
    """Return how long a PackBits segment grows, or something above `most`; packing makes none much longer."""
    grown = 0 if end - at <= 2 * most else most + 1
    while at < end and grown <= most:
        run = packed[at]
        literal = run < 128
        grown += run + 1 if literal else 257 - run if run > 128 else 0
        at += run + 2 if literal else 1 + (run > 128)
    return grown


def _windowed(
    pixels: np.ndarray, header: Header, options: dict[str, Any], reading: DicomOptions, frames: int
) -> tuple[np.ndarray, DicomInfo]:
    """Return grey levels, uint8 (rows, columns), by a table of all values that a pixel can hold."""
    bits = pixels.dtype.itemsize * 8
    codes = pixels.view(f"u{pixels.dtype.itemsize}")
    values, padded = _meaning(header, options, bits)
    name, centre, width = _window(header, reading, values, padded, codes)
    with np.errstate(over="ignore"):
        levels = ((values - (centre - 0.5)) / max(width - 1, 1e-6) + 0.5).clip(
            0, 1
        ) * 255  # PS3.3 C.11.2.1.2.1
    if options["photometric_interpretation"] == "MONOCHROME1":
        levels = 255 - levels
    levels[padded] = 0
    facts = DicomInfo(name, round(centre, 3), round(width, 3), reading.frame, frames)
    return levels.round().astype(np.uint8)[codes], facts


def _meaning(header: Header, options: dict[str, Any], bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for each bit pattern of a pixel its value in HU (or the file's units), and whether it is padding."""
    signed, stored = options["pixel_representation"] == 1, min(bits, options["bits_stored"])
    high = header.integer(tags.HIGH_BIT, stored - 1)
    if header.syntax not in _NATIVE or not stored <= high + 1 <= bits:
        high = stored - 1
    patterns = np.arange(2**bits, dtype=f"u{bits // 8}") << (
        bits - 1 - high
    )  # overlays may fill the other bits
    numbers = (patterns.view(f"i{bits // 8}") if signed else patterns) >> (bits - stored)
    slope, intercept = header.number(tags.SLOPE), header.number(tags.INTERCEPT)
    if slope == 0:
        raise ImageError("corrupt", "the DICOM file's rescale slope is 0")
    values = numbers * (1.0 if slope is None else slope) + (intercept or 0.0)
    padded = np.zeros(len(numbers), bool)
    if tags.PADDING in header.values:
        first = header.integer(tags.PADDING, signed=signed)
        last = header.integer(tags.PADDING_LIMIT, first, signed=signed)
        padded = (numbers >= min(first, last)) & (numbers <= max(first, last))
    return values, padded


def _window(
    header: Header, reading: DicomOptions, values: np.ndarray, padded: np.ndarray, codes: np.ndarray
) -> tuple[str, float, float]:
    """Return name, centre and width of the window."""
    if isinstance(reading.window, tuple):
        return ("custom", *reading.window)
    if reading.window != "auto":
        return (reading.window, *WINDOWS[reading.window])
    centre, width = header.number(tags.CENTRE), header.number(tags.WIDTH)
    if centre is not None and width is not None and width >= 1:
        return "file", centre, width
    if len(values) > 256 and (
        tags.SLOPE in header.values or tags.INTERCEPT in header.values
    ):  # 8 bits hold no HU
        return ("lung", *WINDOWS["lung"])
    present = np.zeros(len(values), bool)
    present[codes] = True
    shown = values[present & ~padded]
    low, high = (float(shown.min()), float(shown.max())) if len(shown) else (0.0, 1.0)
    return "full", (low + high + 1) / 2, high - low + 1
