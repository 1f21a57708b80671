"""Read the few header elements of a DICOM file that its pixels need, with bounded time and memory.

pydicom makes objects of every element and item (2 MB of empty items took it 6 s and 170 MB), and
its warnings quote values. This reader skips all other elements, bounds their depth and number, and
quotes no value. Nothing about the patient leaves this module but a hash, and only on request.
"""

import hashlib
import math
import re
import struct
from dataclasses import dataclass, replace
from typing import Any

from cnnClassifier.utils.errors import ImageError

# The elements that are read, by tag.
_PIXEL_ELEMENTS = {
    0x00280002: "SamplesPerPixel",
    0x00280004: "PhotometricInterpretation",
    0x00280006: "PlanarConfiguration",
    0x00280008: "NumberOfFrames",
    0x00280010: "Rows",
    0x00280011: "Columns",
    0x00280100: "BitsAllocated",
    0x00280101: "BitsStored",
    0x00280102: "HighBit",
    0x00280103: "PixelRepresentation",
    0x00280120: "PixelPaddingValue",
    0x00280121: "PixelPaddingRangeLimit",
    0x00281050: "WindowCenter",
    0x00281051: "WindowWidth",
    0x00281052: "RescaleIntercept",
    0x00281053: "RescaleSlope",
}
_PATIENT_ELEMENTS = {
    0x00100020: "PatientID",
    0x0020000D: "StudyInstanceUID",
    0x0020000E: "SeriesInstanceUID",
}
_SERIES_ELEMENTS = {0x0020000E: "SeriesInstanceUID"}
# Sequences of enhanced CT with windows and HU: for all frames, and for each.
_SEQUENCES = {
    0x52009229: "SharedFunctionalGroupsSequence",
    0x52009230: "PerFrameFunctionalGroupsSequence",
    0x00289132: "FrameVOILUTSequence",
    0x00289145: "PixelValueTransformationSequence",
}
MAGIC_BYTES = 132  # at the start of a file: enough for `is_dicom`
_TRANSFER_SYNTAX, _PIXEL_DATA = 0x00020010, 0x7FE00010
# Values in the place of a removed patient ID: the same for many patients.
_ANONYMOUS = re.compile(rb"anon\w*|unknown|none|null|n/?a|\W*|0+|x+", re.IGNORECASE)

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
_MAX_ELEMENTS, _MAX_DEPTH, _MAX_VALUE_LENGTH = 200_000, 16, 64
_MAX_NUMBER = 1e9
# The first element numbers of group 8, with which a data set without a preamble starts.
_FIRST_ELEMENTS = (b"", b"\x01", b"\x05", b"\x08", b"\x12", b"\x16", b"\x18")
IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
_DEFLATED = "1.2.840.10008.1.2.1.99"


@dataclass(frozen=True)
class Header:
    """The description of a file's pixels.

    Attributes:
        syntax: UID of the transfer syntax.
        order: byte order, `<` or `>`.
        values: raw bytes by keyword; of the sequences of enhanced CT lists of such mappings.
        pixels: the value of Pixel Data, encapsulated if the syntax says so; empty: no pixels.
        vr: of Pixel Data.
    """

    syntax: str
    order: str
    values: dict[str, Any]
    pixels: bytes
    vr: bytes

    def for_frame(self, frame: int) -> "Header":
        """Return the header with the values of one frame, from 1, instead of those of all."""
        values = dict(self.values)
        shared = values.get("SharedFunctionalGroupsSequence", [])[:1]
        of_frame = values.get("PerFrameFunctionalGroupsSequence", [])[frame - 1 : frame]
        for group in shared + of_frame:
            for sequence in ("FrameVOILUTSequence", "PixelValueTransformationSequence"):
                values |= (group.get(sequence) or [{}])[0]
        return replace(self, values=values)

    def integer(self, keyword: str, default: int | None = None, *, signed: bool = False) -> int:
        """Return a 16-bit number.

        Raises:
            ImageError: `corrupt`: it is missing and has no default.
        """
        raw = self.values.get(keyword, b"")
        if len(raw) >= 2:
            return int(struct.unpack_from(f"{self.order}{'h' if signed else 'H'}", raw)[0])
        if default is None:
            raise ImageError("corrupt", f"the DICOM file lacks {keyword}")
        return default

    def number(self, keyword: str) -> float | None:
        """Return an element's first decimal number; None where it is missing or too large."""
        try:
            value = float(self.text(keyword).partition("\\")[0])
        except ValueError:
            return None
        return value if math.isfinite(value) and abs(value) <= _MAX_NUMBER else None

    def text(self, keyword: str) -> str:
        """Return a short text without its padding."""
        return _text(self.values.get(keyword, b""))


def is_dicom(data: bytes) -> bool:
    """Detect DICOM by the mark after the preamble or, without one, by the first element."""
    if data[128:132] == b"DICM" or data[:6] == b"\x02\x00\x00\x00UL":
        return True
    if data[:2] not in (b"\x08\x00", b"\x00\x08"):
        return False
    if data[2:4].strip(b"\x00") not in _FIRST_ELEMENTS:
        return False
    return data[4:6] in (b"UL", b"CS", b"UI", b"DA") or data[6:8] == b"\x00\x00"


def read_header(data: bytes) -> Header:
    """Read the description of the pixels.

    Raises:
        ImageError: `corrupt`, `unsupported`, or `not_an_image` where there are no pixels.
    """
    header = _read(data, _PIXEL_ELEMENTS)
    if not header.pixels:
        raise ImageError("not_an_image", "a DICOM file without pixels")
    return header


def read_patient_pseudonym(data: bytes) -> str:
    """Return a pseudonym of the patient, to keep a patient's images together.

    It is the start of a SHA-256 of the patient's ID, or of the study's or series' UID where there
    is none. It is not anonymous: no secret goes into it, so that all files of a patient have the
    same one on every machine. Whoever has a list of IDs, or tries all short ones, can reverse it.
    Protect it like the images.

    Returns:
        `dicom-` and 12 hexadecimal digits (48 bits); empty where the file has none of the three.

    Raises:
        ImageError: `corrupt`.
    """
    return _pseudonym(data, _PATIENT_ELEMENTS)


def read_series_pseudonym(data: bytes) -> str:
    """Return a pseudonym of the series, made as that of the patient; empty without a UID.

    Raises:
        ImageError: `corrupt`.
    """
    return _pseudonym(data, _SERIES_ELEMENTS)


def _pseudonym(data: bytes, elements: dict[int, str]) -> str:
    """Return the pseudonym that the first of the elements gives, or an empty text."""
    header = _read(data, elements)
    for tag, keyword in elements.items():
        value = header.values.get(keyword, b"").strip(b" \x00")
        if not _ANONYMOUS.fullmatch(value):
            return f"dicom-{hashlib.sha256(tag.to_bytes(4) + value).hexdigest()[:12]}"
    return ""


def _read(data: bytes, elements: dict[int, str]) -> Header:
    """Read some elements, keywords by tag, and the pixels."""
    position = 132 if data[128:132] == b"DICM" else 0
    reader, syntax = _Reader(data, elements), ""
    while data[position : position + 2] == b"\x02\x00":  # the file meta information
        tag, _, start, length = reader.element(position, implicit=False)
        position = reader.end_of(start, length, len(data))
        if tag == _TRANSFER_SYNTAX:
            syntax = _text(data[start : min(position, start + _MAX_VALUE_LENGTH)])
    implicit = not _is_vr(data[position + 4 : position + 6])
    if not syntax and data[position : position + 2] == b"\x00\x08":
        syntax = EXPLICIT_BIG
    elif not syntax:
        syntax = IMPLICIT_LITTLE if implicit else EXPLICIT_LITTLE
    if syntax == _DEFLATED:
        raise ImageError(
            "unsupported",
            "deflated DICOM files aren't supported; save the file as Explicit VR Little Endian",
        )
    reader.order = ">" if syntax == EXPLICIT_BIG else "<"
    values, _ = reader.dataset(position, len(data), implicit=implicit, depth=0, keep=True)
    return Header(syntax, reader.order, values, *reader.pixels)


class _Reader:
    def __init__(self, data: bytes, elements: dict[int, str]) -> None:
        self.order = "<"
        self.pixels = b"", b""  # with the VR
        self._data = data
        self._keywords = elements | _SEQUENCES
        self._remaining = _MAX_ELEMENTS

    def element(self, position: int, *, implicit: bool) -> tuple[int, bytes, int, int]:
        """Return tag, VR (empty where implicit), start and length of the element's value."""
        self._remaining -= 1
        if self._remaining < 0:
            raise ImageError("corrupt", f"the DICOM file has more than {_MAX_ELEMENTS:,} elements")
        try:
            group, number = struct.unpack_from(f"{self.order}HH", self._data, position)
            vr = self._data[position + 4 : position + 6]
            # Some writers change to implicit in the middle.
            if implicit or group == 0xFFFE or not _is_vr(vr):
                vr, kind, offset = b"", "I", 4
            else:
                kind, offset = ("I", 8) if vr in _LONG_VRS else ("H", 6)
            (length,) = struct.unpack_from(f"{self.order}{kind}", self._data, position + offset)
        except struct.error:
            raise _truncated() from None
        return group << 16 | number, vr, position + (12 if offset == 8 else 8), length

    def end_of(self, start: int, length: int, limit: int) -> int:
        if start + length > limit:
            raise _truncated()
        return start + length

    def dataset(
        self, position: int, end: int, *, implicit: bool, depth: int, keep: bool
    ) -> tuple[dict[str, Any], int]:
        """Read elements up to `end` or the item's delimiter; of repeated ones keep the first."""
        values: dict[str, Any] = {}
        while position < end:
            tag, vr, start, length = self.element(position, implicit=implicit)
            if tag == _ITEM_END:
                return values, start
            if tag == _PIXEL_DATA and depth == 0:
                if length == _UNDEFINED:
                    _, stop = self._sequence(
                        start, length, end, implicit=True, raw=True, depth=1, keep=False
                    )
                else:
                    stop = self.end_of(start, length, end)
                self.pixels = self._data[start:stop], vr
                return values, end
            keep_items = keep and tag in _SEQUENCES
            if keep_items or length == _UNDEFINED:
                raw = vr in (b"OB", b"OW")
                inner = implicit or vr == b"UN"
                items, position = self._sequence(
                    start, length, end, implicit=inner, raw=raw, depth=depth + 1, keep=keep_items
                )
                if keep_items:
                    values.setdefault(self._keywords[tag], items)
                continue
            position = self.end_of(start, length, end)
            if keep and tag in self._keywords:
                stop = min(position, start + _MAX_VALUE_LENGTH)
                values.setdefault(self._keywords[tag], self._data[start:stop])
        return values, position

    def _sequence(
        self,
        position: int,
        length: int,
        limit: int,
        *,
        implicit: bool,
        raw: bool,
        depth: int,
        keep: bool,
    ) -> tuple[list[dict[str, Any]], int]:
        """Read items; skip the content of those that aren't kept, where their length is known."""
        if depth > _MAX_DEPTH:
            raise ImageError("corrupt", f"the DICOM file nests sequences deeper than {_MAX_DEPTH}")
        end = limit if length == _UNDEFINED else self.end_of(position, length, limit)
        items: list[dict[str, Any]] = []
        while position < end:
            tag, _, start, size = self.element(position, implicit=implicit)
            if tag == _SEQUENCE_END:
                return items, start
            if tag != _ITEM:
                raise ImageError(
                    "corrupt", "the DICOM file has a sequence with something other than items"
                )
            if raw or (size != _UNDEFINED and not keep):
                position = self.end_of(start, size, end)
                continue
            stop = end if size == _UNDEFINED else self.end_of(start, size, end)
            item, position = self.dataset(start, stop, implicit=implicit, depth=depth, keep=keep)
            if keep:
                items.append(item)
        if length == _UNDEFINED:
            raise _truncated()
        return items, position


def _is_vr(code: bytes) -> bool:
    return len(code) == 2 and code.isalpha() and code.isupper()


def _text(raw: bytes) -> str:
    return raw.decode("ascii", "replace").strip(" \x00")


def _truncated() -> ImageError:
    return ImageError("corrupt", "the DICOM file ends in the middle, or a length in it is wrong")
