"""Decode one frame of a DICOM file into RGB pixels: HU, window, photometric interpretation."""

import io
import logging
import struct
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

from cnnClassifier.entity.dicom_options import WINDOWS, DicomInfo, DicomOptions
from cnnClassifier.imaging.dicom_header import (
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    Header,
    read_header,
)
from cnnClassifier.imaging.limits import (
    BoundedFile,
    PixelBudget,
    check_blocks,
    check_size,
    jpeg2000_codestream,
)
from cnnClassifier.utils.errors import ImageError

_NATIVE = (IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG)
_RLE = "1.2.840.10008.1.2.5"
_JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")  # baseline and extended
_JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
_STRIP_PIXELS = 1_000_000
_GRAY = ("MONOCHROME1", "MONOCHROME2")
_COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


def read_dicom(
    data: bytes, max_pixels: int, dicom_options: DicomOptions, budget: PixelBudget
) -> tuple[np.ndarray, str, DicomInfo]:
    """Decode the requested frame, and no other.

    Gray: stored values become HU by slope and intercept, then gray levels by a linear window;
    MONOCHROME1 is inverted; padding becomes black. `auto` takes the file's own window (its first),
    else lung. A file with neither window nor HU is scaled from its darkest to its brightest pixel.
    Color is taken as it is.

    Args:
        data: the file's bytes.
        max_pixels: refuse a frame with more, before any pixel is decoded; see `check_size`.
        dicom_options: window and frame.
        budget: shared by threads.

    Returns:
        uint8 (height, width, 3); the photometric interpretation; the window and frame.

    Raises:
        ImageError: `corrupt`, `too_large`, `unsupported`, `no_such_frame` or `not_an_image`. Its
            message contains no value of the header but sizes.
    """
    header = read_header(data)
    rows, columns = header.integer("Rows"), header.integer("Columns")
    kind = "JPEG2000" if header.syntax in _JPEG_2000 else "DICOM"
    if header.integer("SamplesPerPixel", 1) > 1:
        kind += " color"
    cost = check_size(columns, rows, max_pixels, kind)
    frame, frames = dicom_options.frame, _frame_count(header)
    if not 1 <= frame <= frames:
        raise ImageError(
            "no_such_frame", f"there is no frame {frame}; choose one from 1 to {frames}"
        )
    pixel_format = _pixel_format(header, rows, columns)
    with budget.use(cost):
        stored = _decode_frame(header, pixel_format, frame, frames)
        return _render(stored, header.for_frame(frame), pixel_format, dicom_options, frames)


def _render(
    stored: np.ndarray,
    header: Header,
    pixel_format: dict[str, Any],
    dicom_options: DicomOptions,
    frames: int,
) -> tuple[np.ndarray, str, DicomInfo]:
    """Turn stored values into RGB; see `read_dicom`."""
    photometric = pixel_format["photometric_interpretation"]
    frame = dicom_options.frame
    if photometric in _COLOR:
        shift = max(0, pixel_format["bits_stored"] - 8)
        info = DicomInfo("colour", None, None, frame, frames)
        return np.right_shift(stored, shift).astype(np.uint8), photometric, info
    codes = stored.view(f"u{stored.dtype.itemsize}")
    values, padding = _lookup_table(header, pixel_format, bits=8 * stored.dtype.itemsize)
    name, center, width = _window(header, dicom_options, values, padding, codes)
    with np.errstate(over="ignore"):  # DICOM PS3.3, C.11.2.1.2.1
        levels = ((values - (center - 0.5)) / max(width - 1, 1e-6) + 0.5).clip(0, 1) * 255
    if photometric == "MONOCHROME1":
        levels = 255 - levels
    levels[padding] = 0
    gray = levels.round().astype(np.uint8)[codes]
    info = DicomInfo(name, round(center, 3), round(width, 3), frame, frames)
    return np.repeat(gray[..., np.newaxis], 3, axis=2), photometric, info


def _frame_count(header: Header) -> int:
    text = header.text("NumberOfFrames") or "1"
    if not (text.isascii() and text.isdigit() and len(text) < 8):
        raise ImageError("corrupt", "the DICOM file's number of frames is not a number")
    return max(1, int(text))


def _pixel_format(header: Header, rows: int, columns: int) -> dict[str, Any]:
    """Check the description of the pixels and return it as the options of pydicom's decoders.

    Raises:
        ImageError: `unsupported` or `corrupt`.
    """
    syntax, photometric = header.syntax, header.text("PhotometricInterpretation")
    if syntax not in (*_NATIVE, *_JPEG, *_JPEG_2000, _RLE):
        from pydicom.uid import UID_dictionary

        name = UID_dictionary.get(syntax, ("an unknown one",))[0]
        raise _unsupported(f"DICOM transfer syntax {name} isn't supported")
    if photometric not in _GRAY + _COLOR:
        raise _unsupported(f"only DICOM files in {', '.join(_GRAY + _COLOR)} are supported")
    samples = header.integer("SamplesPerPixel", 1)
    allocated = header.integer("BitsAllocated")
    stored = header.integer("BitsStored", allocated)
    if syntax in _JPEG and stored > 8:
        raise _unsupported("only 8-bit JPEG is supported inside DICOM")
    if allocated not in (8, 16):
        raise _unsupported(f"only 8 or 16 bits per DICOM pixel are supported, not {allocated}")
    expected_samples = 1 if photometric in _GRAY else 3
    if samples != expected_samples or not 1 <= stored <= allocated or rows * columns == 0:
        raise ImageError("corrupt", "the DICOM file's size, bits and colours don't fit together")
    return {
        "rows": rows,
        "columns": columns,
        "samples_per_pixel": samples,
        "photometric_interpretation": photometric,
        "bits_allocated": allocated,
        "bits_stored": stored,
        "pixel_representation": int(header.integer("PixelRepresentation", 0) == 1),
        "planar_configuration": int(header.integer("PlanarConfiguration", 0) == 1),
        "pixel_keyword": "PixelData",
        "pixel_vr": "OB" if header.vr == b"OB" else "OW",
        # pydicom takes the lowest bits, whatever High Bit says; see `_lookup_table`.
        "correct_unused_bits": False,
    }


def _unsupported(reason: str) -> ImageError:
    return ImageError("unsupported", f"{reason}; save the file as Explicit VR Little Endian")


def _decode_frame(
    header: Header, pixel_format: dict[str, Any], frame: int, frames: int
) -> np.ndarray:
    """Return one frame's stored values: (rows, columns) or, as RGB, (rows, columns, 3)."""
    from pydicom.encaps import encapsulate, get_frame
    from pydicom.pixels import get_decoder

    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    syntax, index = header.syntax, frame - 1
    source: bytes | memoryview = header.pixels
    options = dict(pixel_format)
    if syntax not in _NATIVE:
        encoded = get_frame(io.BytesIO(header.pixels), index, number_of_frames=frames)
        index, frames = 0, 1
        if syntax == _RLE:
            syntax, source = EXPLICIT_LITTLE, _unpack_rle(encoded, pixel_format)
            options["planar_configuration"] = 1
        else:
            if syntax in _JPEG_2000:
                encoded = jpeg2000_codestream(encoded)
            _check_jpeg_size(encoded, pixel_format["rows"], pixel_format["columns"])
            source = encapsulate([encoded])
    options["number_of_frames"] = frames
    decoder = get_decoder(syntax)
    decoded, properties = decoder.as_array(source, index=index, raw=True, **options)
    if str(properties["photometric_interpretation"]).startswith("YBR_FULL"):
        _convert_to_rgb(decoded)
    return decoded.astype(decoded.dtype.newbyteorder("="), copy=False)


def _convert_to_rgb(pixels: np.ndarray) -> None:
    """Convert from YBR in place, in strips: pydicom's floats take eight times the memory."""
    from pydicom.pixels import convert_color_space

    rows = max(1, _STRIP_PIXELS // pixels.shape[1])
    for top in range(0, len(pixels), rows):
        strip = pixels[top : top + rows]
        strip[:] = convert_color_space(strip, "YBR_FULL", "RGB")


def _check_jpeg_size(encoded: bytes, rows: int, columns: int) -> None:
    """Check that a JPEG or JPEG 2000 image has the header's size, before it is decoded."""
    check_blocks(encoded)
    with Image.open(BoundedFile(encoded), formats=("JPEG", "JPEG2000")) as image:
        if image.size != (columns, rows):
            raise ImageError(
                "corrupt", "the DICOM file's compressed pixels are of another size than its header"
            )


def _unpack_rle(encoded: bytes, pixel_format: dict[str, Any]) -> memoryview:
    """Unpack an RLE frame (DICOM PS3.5, annex G), color by color; pydicom does it in Python.

    Raises:
        ImageError: `corrupt`: the segments don't fit the size.
    """
    samples, size = pixel_format["samples_per_pixel"], pixel_format["bits_allocated"] // 8
    length = pixel_format["rows"] * pixel_format["columns"]
    count, *starts = struct.unpack_from("<16I", encoded)
    if count != samples * size:
        raise ImageError("corrupt", "the DICOM file has another number of RLE segments than bytes")
    pixels = np.empty((samples, length, size), np.uint8)
    for number, (start, end) in enumerate(pairwise([*starts[:count], len(encoded)])):
        plane = Image.frombytes("L", (length, 1), encoded[start:end], "packbits", "L")
        sample, byte = divmod(number, size)
        pixels[sample, :, size - 1 - byte] = np.asarray(plane)[0]  # the highest byte comes first
    return pixels.reshape(-1).data


def _lookup_table(
    header: Header, pixel_format: dict[str, Any], bits: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each bit pattern of a pixel its value in HU, and whether it is padding.

    Without slope and intercept, the values are in the file's own units.
    """
    signed = pixel_format["pixel_representation"] == 1
    stored = min(bits, pixel_format["bits_stored"])
    high = header.integer("HighBit", stored - 1)
    if header.syntax not in _NATIVE or not stored <= high + 1 <= bits:
        high = stored - 1
    # Shift the stored bits up and down again: overlays may fill the others.
    patterns = np.arange(2**bits, dtype=f"u{bits // 8}") << (bits - 1 - high)
    numbers = (patterns.view(f"i{bits // 8}") if signed else patterns) >> (bits - stored)
    slope, intercept = header.number("RescaleSlope"), header.number("RescaleIntercept")
    if slope == 0:
        raise ImageError("corrupt", "the DICOM file's rescale slope is 0")
    values = numbers * (1.0 if slope is None else slope) + (intercept or 0.0)
    padding = np.zeros(len(numbers), bool)
    if "PixelPaddingValue" in header.values:
        first = header.integer("PixelPaddingValue", signed=signed)
        last = header.integer("PixelPaddingRangeLimit", first, signed=signed)
        padding = (numbers >= min(first, last)) & (numbers <= max(first, last))
    return values, padding


def _window(
    header: Header,
    dicom_options: DicomOptions,
    values: np.ndarray,
    padding: np.ndarray,
    codes: np.ndarray,
) -> tuple[str, float, float]:
    """Return name, center and width of the window."""
    requested = dicom_options.window
    if isinstance(requested, tuple):
        return ("custom", *requested)
    if requested != "auto":
        return (requested, *WINDOWS[requested])
    center, width = header.number("WindowCenter"), header.number("WindowWidth")
    if center is not None and width is not None and width >= 1:
        return "file", center, width
    has_hu = "RescaleSlope" in header.values or "RescaleIntercept" in header.values
    if has_hu and len(values) > 256:  # 8 bits are too few for HU
        return ("lung", *WINDOWS["lung"])
    present = np.zeros(len(values), bool)
    present[codes] = True
    visible = values[present & ~padding]
    low, high = (float(visible.min()), float(visible.max())) if len(visible) else (0.0, 1.0)
    return "full", (low + high + 1) / 2, high - low + 1
