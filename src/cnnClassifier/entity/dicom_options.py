"""How a DICOM file is decoded: what can be requested, and what was used."""

import math
from dataclasses import dataclass, replace

# Center and width in HU, as radiology uses them.
WINDOWS = {"lung": (-600.0, 1500.0), "mediastinal": (40.0, 400.0), "bone": (400.0, 1800.0)}
_MAX_HU = 1e6
_EXPECTED = f"expected auto, {', '.join(WINDOWS)}, or centre and width in HU, such as -600,1500"


def parse_window(text: str) -> str | tuple[float, float]:
    """Parse a window: a name, or `<centre>,<width>` in HU.

    Raises:
        ValueError: the text is neither; the message names what was expected.
    """
    name = text.strip().lower()
    if name == "auto" or name in WINDOWS:
        return name
    try:
        center, width = map(float, name.split(","))
    except ValueError:
        raise ValueError(f"window: {_EXPECTED}; found {text!r:.40}") from None
    if not (math.isfinite(center) and abs(center) <= _MAX_HU and 1 <= width <= _MAX_HU):
        raise ValueError(f"window: {_EXPECTED}, the width from 1; found {text!r:.40}")
    return center, width


@dataclass(frozen=True)
class DicomOptions:
    """What to decode of a DICOM file; other files have no options.

    Attributes:
        window: `auto` (the file's own, else lung), `lung`, `mediastinal`, `bone`, or
            (centre, width) in HU.
        frame: of a multi-frame file, from 1.
    """

    window: str | tuple[float, float] = "auto"
    frame: int = 1

    @classmethod
    def parse(cls, window: str) -> "DicomOptions":
        """Return options with a window as `parse_window` takes it, and the first frame."""
        return cls(parse_window(window))

    def with_default_window(self, window: str) -> "DicomOptions":
        """Return these options with another window in the place of `auto`."""
        return replace(self, window=parse_window(window)) if self.window == "auto" else self


DEFAULT_DICOM_OPTIONS = DicomOptions()


@dataclass(frozen=True)
class DicomInfo:
    """The window and frame that were used. Nothing here identifies the patient.

    Attributes:
        window: `lung`, `mediastinal`, `bone`, `custom`, `file` (its own), `full` (from its darkest
            to its brightest pixel, where it has neither window nor HU) or `colour` (none).
        centre: in HU or the file's own units; None in color.
        width: as `centre`.
        frame: from 1.
        frames: number of frames in the file.
    """

    window: str
    centre: float | None
    width: float | None
    frame: int
    frames: int
