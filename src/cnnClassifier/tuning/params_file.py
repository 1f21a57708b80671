"""Change values in params.yaml; comments and layout stay."""

import difflib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML

from cnnClassifier.utils.errors import ConfigError


def update_values(text: str, values: Mapping[str, Any], path: Path) -> str:
    """Return the text of a YAML file with other values for some of its top-level keys.

    Args:
        text: content of the file.
        values: numbers, strings or None, by keys of the file.
        path: of the file, for the error message.

    Raises:
        ConfigError: the file is written in a way that can't be changed safely.
    """
    before = yaml.safe_load(text)
    changes = {key: value for key, value in values.items() if before[key] != value}
    if not changes:
        return text
    editor: Any = YAML()
    editor.preserve_quotes = True
    editor.width = 10**6
    editor.boolean_representation = ["False", "True"] if "False" in text else ["false", "true"]
    editor.representer.add_representer(type(None), _represent_as_yaml_1_1)
    editor.representer.add_representer(float, _represent_as_yaml_1_1)
    document = editor.load(text)
    document.update(changes)
    output = io.StringIO()
    editor.dump(document, output)
    after = output.getvalue()
    if yaml.safe_load(after) != before | changes:  # such as an alias of a changed value
        expected = ", ".join(f"{key}: {value}" for key, value in changes.items())
        raise ConfigError(f"{path}: can't be changed automatically; set by hand {expected}")
    return after


def unified_diff(before: str, after: str, path: Path) -> str:
    """Return a patch for `git apply` and `patch -p1`; empty if nothing differs."""
    name = path.as_posix().lstrip("/")
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    patch = ""
    for line in difflib.unified_diff(old, new, f"a/{name}", f"b/{name}"):
        patch += line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
    return patch


def _represent_as_yaml_1_1(representer: Any, value: float | None) -> Any:
    """Write `3.0e-05`, which PyYAML reads as a number, and `null` instead of nothing."""
    kind = "null" if value is None else "float"
    return representer.represent_scalar(
        f"tag:yaml.org,2002:{kind}", yaml.safe_dump(value).split()[0]
    )
