"""Find the few elements of a DICOM file that its pixels need: of all others not even the value is looked at.

pydicom makes objects of every element and item (2 MB of empty items took it 6 s and 170 MB), and its warnings quote
values. Here nothing is built but what is wanted, depth and count are bounded, and no value is named. Of whose
it is nothing but a hash leaves this module, and that only where it is asked for.
"""

import hashlib
import math
import re
import struct
from dataclasses import dataclass, replace
from typing import Any

from cnnClassifier.utils.errors import ImageError

SYNTAX = 0x00020010
SAMPLES, PHOTOMETRIC, PLANAR, FRAMES = 0x00280002, 0x00280004, 0x00280006, 0x00280008
ROWS, COLUMNS, ALLOCATED, STORED, HIGH_BIT, SIGNED = (
    0x00280000 + e for e in (0x10, 0x11, 0x100, 0x101, 0x102, 0x103)
)
PADDING, PADDING_LIMIT = 0x00280120, 0x00280121
CENTRE, WIDTH, INTERCEPT, SLOPE = 0x00281050, 0x00281051, 0x00281052, 0x00281053
PIXELS = 0x7FE00010
_WANTED = frozenset(
    (SAMPLES, PHOTOMETRIC, PLANAR, FRAMES, ROWS, COLUMNS, ALLOCATED, STORED, HIGH_BIT, SIGNED)
) | {*(PADDING, PADDING_LIMIT, CENTRE, WIDTH, INTERCEPT, SLOPE)}
_SHARED, _PER_FRAME = 0x52009229, 0x52009230  # where enhanced CT keeps windows and HU
_PATIENT, _STUDY, _SERIES = 0x00100020, 0x0020000D, 0x0020000E
# What stands in the place of a patient's ID where somebody took it out: it is the same for many patients.
_NOBODY = re.compile(rb"anon\w*|unknown|none|null|n/?a|\W*|0+|x+", re.IGNORECASE)
_TRANSFORMS = (0x00289132, 0x00289145)
_ENTERED = frozenset((_SHARED, _PER_FRAME, *_TRANSFORMS))

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONG = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
_MOST_ELEMENTS, _DEEPEST, _LONGEST = 200_000, 16, 64
_LARGEST = 1e9
_FIRST = (
    b"",
    b"\x01",
    b"\x05",
    b"\x08",
    b"\x12",
    b"\x16",
    b"\x18",
)  # what a data set without a preamble starts with
IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.2",
)


@dataclass(frozen=True)
class Header:
    """What a file says of its pixels.

    Attributes:
        syntax: UID of the transfer syntax.
        order: `<` or `>`, the byte order.
        values: raw bytes by tag; for the sequences of enhanced CT lists of the same.
        pixels: the value of Pixel Data, encapsulated where the syntax says so.
        vr: of Pixel Data, `OB` or `OW`.
    """

    syntax: str
    order: str
    values: dict[int, Any]
    pixels: bytes
    vr: str

    def of_frame(self, frame: int) -> "Header":
        """Return the header with the values that hold for one frame, from 1, in the place of those for all."""
        values = dict(self.values)
        per_frame = self.values.get(_PER_FRAME, [])[frame - 1 : frame]
        for group in (*self.values.get(_SHARED, [])[:1], *per_frame):
            for tag in _TRANSFORMS:
                for item in group.get(tag, [])[:1]:
                    values |= item
        return replace(self, values=values)

    def integer(self, tag: int, default: int | None = None, *, signed: bool = False) -> int:
        """Return a 16-bit number.

        Raises:
            ImageError: `corrupt`: it is missing and has no default.
        """
        raw = self.values.get(tag, b"")
        if len(raw) >= 2:
            return int(struct.unpack_from(f"{self.order}{'h' if signed else 'H'}", raw)[0])
        if default is None:
            raise ImageError(
                "corrupt", f"the DICOM file lacks element ({tag >> 16:04x},{tag & 0xFFFF:04x})"
            )
        return default

    def number(self, tag: int) -> float | None:
        """Return the first of the decimal numbers written under a tag; None where there is none of sensible size."""
        try:
            value = float(self.text(tag).partition("\\")[0])
        except ValueError:
            return None
        return value if math.isfinite(value) and abs(value) <= _LARGEST else None

    def text(self, tag: int) -> str:
        """Return a short text, without what pads it."""
        return _text(self.values.get(tag, b""))


def is_dicom(data: bytes) -> bool:
    """Tell by the content: the mark after the preamble, or, without one, how the first element begins."""
    if data[128:132] == b"DICM" or data[:6] == b"\x02\x00\x00\x00UL":
        return True
    if data[:2] not in (b"\x08\x00", b"\x00\x08") or data[2:4].strip(b"\x00") not in _FIRST:
        return False
    return data[4:6] in (b"UL", b"CS", b"UI", b"DA") or data[6:8] == b"\x00\x00"


def read_header(data: bytes) -> Header:
    """Read what the pixels need.

    Raises:
        ImageError: `corrupt`, or `not_an_image` where there are no pixels.
    """
    syntax, reader, values = _read(data, _WANTED)
    if PIXELS not in values:
        raise ImageError("not_an_image", "a DICOM file without pixels")
    pixels, vr = values.pop(PIXELS)
    return Header(syntax, reader.order, values, pixels, "OB" if vr == b"OB" else "OW")


def read_patient_pseudonym(data: bytes) -> str:
    """Return what stands for the patient, so that one's images can be kept together: the start of a SHA-256.

    It is of the patient's ID, or of the study's or series' UID where there is none. It is a pseudonym, not anonymous:
    nothing secret goes into it, so that all files of a patient give the same wherever they are read, and so that who
    holds a list of IDs, or tries all short ones, finds out which gives it. What holds it is to be kept like the images.

    Returns:
        `dicom-` and 12 hexadecimal digits (48 bits); empty where the file says nothing of the kind.

    Raises:
        ImageError: `corrupt`.
    """
    _, _, values = _read(data, frozenset((_PATIENT, _STUDY, _SERIES)))
    for tag in (_PATIENT, _STUDY, _SERIES):
        value = values.get(tag, b"").strip(b" \x00")
        if not _NOBODY.fullmatch(value):
            return f"dicom-{hashlib.sha256(tag.to_bytes(4) + value).hexdigest()[:12]}"
    return ""


def _read(data: bytes, wanted: frozenset[int]) -> tuple[str, "_Reader", dict[int, Any]]:
    """Return the transfer syntax, what read the data set, and the wanted elements with the pixels."""
    at = 132 if data[128:132] == b"DICM" else 0
    reader, syntax = _Reader(data, "<", wanted), ""
    while data[at : at + 2] == b"\x02\x00":
        tag, _, start, length = reader.element(at, implicit=False)
        at = reader.end_of(start, length, len(data))
        if tag == SYNTAX:
            syntax = _text(data[start : min(at, start + _LONGEST)])
    implicit = not _is_vr(data[at + 4 : at + 6])
    if not syntax:
        big = data[at : at + 2] == b"\x00\x08"
        syntax = EXPLICIT_BIG if big else IMPLICIT_LITTLE if implicit else EXPLICIT_LITTLE
    if syntax == "1.2.840.10008.1.2.1.99":
        raise ImageError(
            "unsupported", "deflated DICOM files aren't taken; save it as Explicit VR Little Endian"
        )
    reader.order = ">" if syntax == EXPLICIT_BIG else "<"
    values, _ = reader.dataset(at, len(data), implicit=implicit, depth=0, kept=True)
    return syntax, reader, values


class _Reader:
    def __init__(self, data: bytes, order: str, wanted: frozenset[int]) -> None:
        self.order = order
        self._wanted = wanted
        self._data = data
        self._left = _MOST_ELEMENTS

    def element(self, at: int, *, implicit: bool) -> tuple[int, bytes, int, int]:
        """Return tag, VR (empty where implicit), start and length of the element's value."""
        self._left -= 1
        if self._left < 0:
            raise ImageError("corrupt", f"the DICOM file has more than {_MOST_ELEMENTS:,} elements")
        try:
            group, number = struct.unpack_from(f"{self.order}HH", self._data, at)
            vr = self._data[at + 4 : at + 6]
            tag = group << 16 | number
            if (
                implicit or group == 0xFFFE or not _is_vr(vr)
            ):  # some writers turn to implicit in the middle
                return tag, b"", at + 8, struct.unpack_from(f"{self.order}I", self._data, at + 4)[0]
            if vr in _LONG:
                return tag, vr, at + 12, struct.unpack_from(f"{self.order}I", self._data, at + 8)[0]
            return tag, vr, at + 8, struct.unpack_from(f"{self.order}H", self._data, at + 6)[0]
        except struct.error:
            raise _truncated() from None

    def end_of(self, start: int, length: int, limit: int) -> int:
        if start + length > limit:
            raise _truncated()
        return start + length

    def dataset(
        self, at: int, end: int, *, implicit: bool, depth: int, kept: bool
    ) -> tuple[dict[int, Any], int]:
        """Walk over elements up to `end` or the item's delimiter; keep what is wanted, first come, first kept."""
        found: dict[int, Any] = {}
        while at < end:
            tag, vr, start, length = self.element(at, implicit=implicit)
            if tag == _ITEM_END:
                return found, start
            if tag == PIXELS and depth == 0:
                if length == _UNDEFINED:
                    _, stop = self._sequence(
                        start, length, end, implicit=True, raw=True, depth=1, kept=False
                    )
                else:
                    stop = self.end_of(start, length, end)
                return found | {PIXELS: (self._data[start:stop], vr)}, end
            entered = kept and tag in _ENTERED
            if entered or length == _UNDEFINED:
                raw = vr in (b"OB", b"OW")
                inner = implicit or vr == b"UN"
                items, at = self._sequence(
                    start, length, end, implicit=inner, raw=raw, depth=depth + 1, kept=entered
                )
                if entered:
                    found.setdefault(tag, items)
                continue
            at = self.end_of(start, length, end)
            if kept and tag in self._wanted:
                found.setdefault(tag, self._data[start : min(at, start + _LONGEST)])
        return found, at

    def _sequence(
        self, at: int, length: int, limit: int, *, implicit: bool, raw: bool, depth: int, kept: bool
    ) -> tuple[list[dict[int, Any]], int]:
        """Walk over items, without looking into those of known length that hold nothing wanted."""
        if depth > _DEEPEST:
            raise ImageError("corrupt", f"the DICOM file nests sequences deeper than {_DEEPEST}")
        end = limit if length == _UNDEFINED else self.end_of(at, length, limit)
        items: list[dict[int, Any]] = []
        while at < end:
            tag, _, start, size = self.element(at, implicit=implicit)
            if tag == _SEQUENCE_END:
                return items, start
            if tag != _ITEM:
                raise ImageError(
                    "corrupt", "the DICOM file has a sequence with something else than items"
                )
            if raw or (size != _UNDEFINED and not kept):
                at = self.end_of(start, size, end)
                continue
            stop = end if size == _UNDEFINED else self.end_of(start, size, end)
            item, at = self.dataset(start, stop, implicit=implicit, depth=depth, kept=kept)
            if kept:
                items.append(item)
        if length == _UNDEFINED:
            raise _truncated()
        return items, at


def _is_vr(two: bytes) -> bool:
    return len(two) == 2 and two.isalpha() and two.isupper()


def _text(raw: bytes) -> str:
    return raw.decode("ascii", "replace").strip(" \x00")


def _truncated() -> ImageError:
    return ImageError("corrupt", "the DICOM file ends in the middle, or a length in it is wrong")
