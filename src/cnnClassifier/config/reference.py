"""Render the reference of all settings, docs/configuration.md; `make docs-config` writes it."""

import json
import sys
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from cnnClassifier.config.configuration import (
    CONFIG_PATH,
    PARAMS_PATH,
    USERS,
    ConfigurationManager,
    environment_variable,
)
from cnnClassifier.config.expectations import expected_value
from cnnClassifier.entity.config_entity import SEARCHABLE, SearchSpaceConfig

_INTRODUCTION = """# Configuration

`make docs-config` generates this page from `src/cnnClassifier/entity/config_entity.py`.

Every key is required. An unknown, missing or invalid key stops the command with the file, the key,
the expected and the actual value. "Default" is the value in the file as shipped.
Paths are relative to the folder from which a command is started.
"""
_HEADER = """
| key | values | default | used by | description |
|---|---|---|---|---|
"""
_SEARCH_NOTE = """
The keys of `space` take the limits of params.yaml: null leaves a parameter as it is in params.yaml,
a list gives its values, and `{low, high}` a range of numbers, with `log: true` for a logarithmic
scale, or with a `step`.
"""


def render_reference(config_path: Path = CONFIG_PATH, params_path: Path = PARAMS_PATH) -> str:
    """Return the page in Markdown; the two files and search.yaml provide the defaults."""
    manager = ConfigurationManager(config_path, params_path)
    manager.search()
    tables: dict[str, str] = {}
    for key, value in manager.values.items():
        if key not in manager.fields:
            continue
        users = {user: None for user, entity in USERS if key in entity.fields_by_key()}
        title = "params.yaml" if key.isupper() else "config.yaml"
        section = key.rpartition(".")[0]
        if section:
            title += f", {section}"
        tables.setdefault(title, _HEADER)
        tables[title] += _row(key, manager.fields[key], value, ", ".join(users))
    search = SearchSpaceConfig.fields_by_key()
    for key in SEARCHABLE:
        search[f"space.{key}"] = manager.fields[key]
    tables["search.yaml"] = _SEARCH_NOTE + _HEADER
    for key, field in search.items():
        tables["search.yaml"] += _row(key, field, manager.values[key], "search")
    return _INTRODUCTION + "".join(f"\n## {title}\n{table}" for title, table in tables.items())


def _row(key: str, field: FieldInfo, value: Any, users: str) -> str:
    description = field.description
    variable = environment_variable(field)
    if variable:
        description = f"{description}. The environment variable {variable} overrides it"
    default = json.dumps(value, ensure_ascii=False)  # JSON is YAML on one line
    row = f"`{key}` | {expected_value(field)} | `{default}` | {users} | {description}."
    return f"| {row} |\n"


if __name__ == "__main__":
    sys.stdout.write(render_reference())
