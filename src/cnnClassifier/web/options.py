"""What a request asks of /predict beside its images."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cnnClassifier.web.problems import RequestError

WINDOWS = ("auto", "lung", "mediastinal", "bone")
# Centre and width in HU; CT values lie between -1024 and some ten thousands.
CUSTOM_WINDOW = r"-?\d{1,5}(\.\d{1,3})?, ?\d{1,5}(\.\d{1,3})?"
MAX_FRAME = 100_000
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class Options:
    """Options of one request.

    Attributes:
        window: one of `WINDOWS`, or `<centre>,<width>` in HU.
        frame: of a DICOM file with several, from 1.
        map: whether the answer holds the class activation map.
        preview: whether the answer holds the picture as the decoder sees it.
    """

    window: str = "auto"
    frame: int = 1
    map: bool = False
    preview: bool = False


def options_of(*sources: Mapping[str, Any]) -> Options:
    """Return the options; where two sources name the same one, the first goes before.

    Raises:
        RequestError: 400 `bad_option`, with what was expected.
    """
    given: dict[str, Any] = {}
    for source in reversed(sources):
        given |= {name: source[name] for name in Options.__dataclass_fields__ if name in source}
    readers: dict[str, Callable[[str, Any], Any]] = {"window": _window, "frame": _frame, "map": _flag, "preview": _flag}
    return Options(**{name: readers[name](name, value) for name, value in given.items()})


def _window(name: str, value: Any) -> str:
    if isinstance(value, str) and value in WINDOWS:
        return value
    if isinstance(value, str) and re.fullmatch(CUSTOM_WINDOW, value, re.ASCII) and float(value.split(",")[1]) >= 1:
        return value
    raise _refusal(name, f"{', '.join(WINDOWS)}, or <centre>,<width> in HU such as -600,1500 with a width from 1")


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
