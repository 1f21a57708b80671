"""Change values of a YAML file, and keep its comments."""

import re
from collections.abc import Mapping
from io import StringIO
from typing import Any

import yaml
from ruamel.yaml import YAML


def with_values(text: str, values: Mapping[str, Any]) -> str:
    """Return the text of a YAML file with other values; comments stay.

    Args:
        text: content of the file.
        values: numbers, texts or None, by key: `KEY` at the top level, or `section.key`.
    """
    editor = YAML()
    editor.preserve_quotes = True
    editor.width = 10**6
    # As the file writes them. The attribute is documented, but has no type.
    booleans = ["False", "True"] if re.search(r": (True|False)\b", text) else ["false", "true"]
    editor.boolean_representation = booleans  # type: ignore[attr-defined]
    editor.representer.add_representer(type(None), _represent_null)
    document = editor.load(text)
    # Written by PyYAML, which reads the file: it takes 3e-05 for a text, but 3.0e-05 for a number.
    for key, value in editor.load(yaml.safe_dump(dict(values))).items():
        section, _, name = key.rpartition(".")
        (document[section] if section else document)[name] = value
    stream = StringIO()
    editor.dump(document, stream)
    return stream.getvalue()


def _represent_null(representer: Any, _: None) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")
