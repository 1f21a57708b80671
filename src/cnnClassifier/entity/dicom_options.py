"""How a DICOM file is to be read, and what one may know of how it was."""

import math
from dataclasses import dataclass

# Centre and width in HU, as radiology reads the chest.
WINDOWS = {"lung": (-600.0, 1500.0), "mediastinal": (40.0, 400.0), "bone": (400.0, 1800.0)}
_LARGEST = 1e6  # HU
_MEND = f"expected auto, {', '.join(WINDOWS)}, or centre and width in HU, such as -600,1500"


@dataclass(frozen=True)
class DicomOptions:
    """What to take from a DICOM file; other images have nothing to choose.

    Attributes:
        window: `auto` (the file's own, else lung), `lung`, `mediastinal`, `bone`, or (centre, width) in HU.
        frame: of a multi-frame file, from 1.
    """

    window: str | tuple[float, float] = "auto"
    frame: int = 1

    @classmethod
    def parse(cls, window: str = "auto", frame: str | int = 1) -> "DicomOptions":
        """Read window and frame as people and programs write them.

        Args:
            window: `auto`, `lung`, `mediastinal`, `bone`, or `<centre>,<width>`.
            frame: a whole number from 1.

        Raises:
            ValueError: it says what was expected.
        """
        text = str(frame).strip()
        if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
            raise ValueError(f"frame: expected a whole number from 1, found {text!r:.40}")
        return cls(parse_window(window), int(text))

    def or_window(self, window: str) -> "DicomOptions":
        """Return this reading with `window` in the place of `auto`."""
        return DicomOptions(parse_window(window), self.frame) if self.window == "auto" else self


def parse_window(text: str) -> str | tuple[float, float]:
    """Read a window as it is written: a name, or `<centre>,<width>` in HU.

    Raises:
        ValueError: it says what was expected.
    """
    name = text.strip().lower()
    if name == "auto" or name in WINDOWS:
        return name
    try:
        centre, width = map(float, name.split(","))
    except ValueError:
        raise ValueError(f"window: {_MEND}; found {text!r:.40}") from None
    if not (math.isfinite(centre) and abs(centre) <= _LARGEST and 1 <= width <= _LARGEST):
        raise ValueError(f"window: {_MEND}, the width from 1; found {text!r:.40}")
    return centre, width


@dataclass(frozen=True)
class DicomInfo:
    """All that is told of a DICOM file beside its pixels: nothing here says whose it is.

    Attributes:
        window: `lung`, `mediastinal`, `bone`, `custom`, `file` (its own), `full` (from its darkest to its brightest
            pixel, where it has neither window nor HU) or `colour` (none).
        centre: in HU or the file's own units; None in colour.
        width: as `centre`.
        frame: the one taken, from 1.
        frames: how many there are.
    """

    window: str
    centre: float | None
    width: float | None
    frame: int
    frames: int
