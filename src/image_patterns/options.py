"""Options of a data set, and how they are written in a URL."""

import re
from dataclasses import dataclass
from urllib.parse import unquote

EXAMPLE = "patterns:classes=crow|great tit|jay,groups=20,images=3,size=128,seed=7"
_RANGES = {
    "groups": (2, 999),
    "images": (1, 20),
    "size": (64, 1024),
    "contrast": (1, 100),
    "seed": (0, 2**31 - 1),
}
_CLASSES = "2 to 100 different folder names, separated by |, with %2C for a comma"
_FOLDER_NAME = re.compile(r"[^\s./\\:][^/\\:]{0,59}(?<![\s.])")  # valid on every system, not hidden


@dataclass(frozen=True)
class PatternOptions:
    """Options: groups per class, images per group, size in pixels, contrast in percent."""

    classes: tuple[str, ...] = ("a", "b")
    groups: int = 20
    images: int = 3
    size: int = 128
    contrast: int = 100
    seed: int = 0


def parse_patterns(url: str) -> PatternOptions:
    """Read the options from a URL such as `patterns:` or `patterns:classes=crow|jay,groups=30`.

    Raises:
        ValueError: a key is unknown or repeated, or a value is invalid.
    """
    options: dict = {}
    for item in filter(str.strip, url.removeprefix("patterns:").split(",")):
        key, _, text = (part.strip() for part in item.partition("="))
        if key in options:
            raise _error(key, "it once", "it twice")
        if key == "classes":
            names = tuple(unquote(name).strip() for name in text.split("|"))
            unique = {name.casefold() for name in names if _FOLDER_NAME.fullmatch(name)}
            if len(unique) != len(names) or not 2 <= len(names) <= 100:
                raise _error(key, _CLASSES, repr(text))
            options[key] = names
        elif key in _RANGES:
            low, high = _RANGES[key]
            if not text.isdecimal() or not low <= int(text) <= high:
                raise _error(key, f"a whole number from {low} to {high}", repr(text))
            options[key] = int(text)
        else:
            raise _error(key, f"one of classes, {', '.join(_RANGES)}", "an unknown key")
    return PatternOptions(**options)


def _error(key: str, expected: str, found: str) -> ValueError:
    return ValueError(f"patterns: {key}: expected {expected}, found {found}; for example {EXAMPLE}")
