"""Render the reference of all settings, docs/configuration.md; `make docs-config` writes it."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from cnnClassifier.config.configuration import (
    CONFIG_PATH,
    PARAMS_PATH,
    USERS,
    environment_variable,
    read_settings,
)
from cnnClassifier.config.expectations import expected_value
from cnnClassifier.entity.config_entity import SEARCHABLE, SearchSpaceConfig, Settings

_INTRODUCTION = """# Configuration

`make docs-config` generates this page from `src/cnnClassifier/entity/config_entity.py`.

Every key is required. An unknown, missing or invalid key stops the command with the file, the key,
the expected and the actual value. "Default" is the value in the file as shipped.
Paths are relative to the folder from which a command is started.
"""
_SEARCH = """
## config/search.yaml

The search space of `python main.py search`. In `space`, null leaves a parameter as it is in
params.yaml, a list gives its values, and `{low, high}` a range of numbers, with `log: true` for a
logarithmic scale, or with a `step`. The limits are those of params.yaml.
"""
_HEADER = "\n| key | values | default | used by | description |\n|---|---|---|---|---|\n"


def render_reference(config_path: Path = CONFIG_PATH, params_path: Path = PARAMS_PATH) -> str:
    """Return the page in Markdown; the two files and search.yaml provide the defaults."""
    fields: dict[str, FieldInfo] = {}
    users: dict[str, list[str]] = {}
    used: list[tuple[str, type[Settings]]] = [*USERS, ("search", SearchSpaceConfig)]
    for user, entity in used:
        for key, field in entity.fields_by_key().items():
            fields.setdefault(key, field)
            users.setdefault(key, []).append(user)

    def table(values: Mapping[str, Any], section: str) -> str:
        rows = _HEADER
        for key, value in values.items():
            if key.rpartition(".")[0] == section:
                rows += _row(key, fields[key], value, users[key])
        return rows

    in_params = {key: field for key, field in fields.items() if key.isupper()}
    in_search = SearchSpaceConfig.fields_by_key()
    in_config = {key: fields[key] for key in fields if key not in in_params | in_search}
    values = read_settings(config_path, in_config)
    page = f"{_INTRODUCTION}\n## params.yaml\n"
    page += table(read_settings(params_path, in_params), "")
    page += f"\n## config/config.yaml\n{table(values, '')}"
    for section in dict.fromkeys(key.rpartition(".")[0] for key in values if "." in key):
        page += f"\n### {section}\n{table(values, section)}"
    space = {f"space.{key}": fields[key] for key in SEARCHABLE}
    searched = read_settings(config_path.with_name("search.yaml"), in_search | space)
    page += _SEARCH + table(searched, "")
    page += "\n| key | default |\n|---|---|\n"
    for key in space:
        page += f"| `{key}` | {_as_yaml(searched[key])} |\n"
    return page


def _row(key: str, field: FieldInfo, value: Any, users: list[str]) -> str:
    description = field.description or ""
    variable = environment_variable(field)
    if variable:
        description += f". The environment variable {variable} overrides it"
    cells = (
        f"`{key}`",
        expected_value(field),
        _as_yaml(value),
        ", ".join(dict.fromkeys(users)),
        f"{description}.",
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def _as_yaml(value: Any) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`"  # JSON is YAML on one line


if __name__ == "__main__":
    sys.stdout.write(render_reference())
