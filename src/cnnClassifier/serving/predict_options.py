"""What a request asks of /predict beside its images."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cnnClassifier.entity.dicom_options import WINDOWS, DicomOptions, parse_window
from cnnClassifier.serving.errors import RequestError

WINDOW_PATTERN = rf"^(auto|{'|'.join(WINDOWS)}|-?[0-9]{{1,5}}(\.[0-9]{{1,3}})?, ?[1-9][0-9]{{0,4}}(\.[0-9]{{1,3}})?)$"
MAX_FRAME = 100_000
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class Options:
    """Options of one request.

    Attributes:
        reading: window and frame of DICOM files.
        map: whether the answer holds the class activation map.
        preview: whether the answer holds the picture as the decoder sees it.
    """

    reading: DicomOptions
    map: bool
    preview: bool


def options_of(*sources: Mapping[str, Any]) -> Options:
    """Return the options; where two sources name the same one, the first goes before.

    Raises:
        RequestError: 400 `bad_option`, with what was expected.
    """
    found: dict[str, Any] = {}
    for source in reversed(sources):
        found |= {
            name: read(name, source[name]) for name, read in READERS.items() if name in source
        }
    reading = DicomOptions(found.get("window", "auto"), found.get("frame", 1))
    return Options(reading, found.get("map", False), found.get("preview", False))


def _window(name: str, value: Any) -> str | tuple[float, float]:
    if not isinstance(value, str) or not re.search(WINDOW_PATTERN, value) or value.endswith("\n"):
        raise _refusal(
            name, f"auto, {', '.join(WINDOWS)}, or centre and width in HU, such as -600,1500"
        )
    return parse_window(value)


def _frame(name: str, value: Any) -> int:
    if isinstance(value, str) and value.isdecimal() and value.isascii() and len(value) < 10:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_FRAME:
        return value
    raise _refusal(name, f"a whole number from 1 to {MAX_FRAME}")


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value in _FLAGS:
        return _FLAGS[value]
    raise _refusal(name, "true or false")


def _refusal(name: str, wanted: str) -> RequestError:
    return RequestError(400, "bad_option", f"{name}: expected {wanted}")


READERS: dict[str, Callable[[str, Any], Any]] = {
    "window": _window,
    "frame": _frame,
    "map": _flag,
    "preview": _flag,
}
