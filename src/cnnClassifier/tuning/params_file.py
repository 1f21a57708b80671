"""Change values in params.yaml and leave the rest as it is, comments and all."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cnnClassifier.utils.errors import ConfigError


def with_values(text: str, values: Mapping[str, Any], path: Path) -> str:
    """Return the text of a YAML file with other values at its top level; comments stay in their column.

    Args:
        text: of the file.
        values: numbers, texts or None, by keys that the file has.
        path: of the file, for the error.

    Raises:
        ConfigError: a value isn't written on the line of its key.
    """
    before, document = yaml.safe_load(text), yaml.compose(text)
    assert isinstance(document, yaml.MappingNode)  # as read_yaml has seen
    changed = {key: value for key, value in values.items() if before[key] != value}
    after = text
    for key, value in reversed(document.value):
        if key.value in changed:
            shown = _shown(changed[key.value])
            rest = after[value.end_mark.index :]
            if gap := re.match(r"[ \t]+(?=#)", rest):
                width = value.end_mark.index - value.start_mark.index + gap.end()
                rest = " " * max(1, width - len(shown)) + rest[gap.end() :]
            after = after[: value.start_mark.index] + shown + rest
    if not _says(after, before | changed):
        wanted = ", ".join(f"{key}: {_shown(value)}" for key, value in changed.items())
        raise ConfigError(
            f"{path}: not written in a way that can be changed here; expected by hand {wanted}"
        )
    return after


def difference(before: str, after: str, path: Path) -> str:
    """Return a patch that `git apply` and `patch -p1` take; empty where nothing differs."""
    name = path.as_posix().lstrip("/")
    lines = difflib.unified_diff(
        before.splitlines(True), after.splitlines(True), f"a/{name}", f"b/{name}"
    )
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )


def _says(text: str, content: Mapping[str, Any]) -> bool:
    try:
        return bool(yaml.safe_load(text) == content)
    except yaml.YAMLError:
        return False


def _shown(value: Any) -> str:
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()
    )
