"""Render the reference of all settings, docs/configuration.md; `make docs-config` writes it."""

import sys

from pydantic.fields import FieldInfo

from cnnClassifier.config.configuration import USERS, environment_variable, expected_value
from cnnClassifier.entity.config_entity import SEARCHABLE, SearchSpaceConfig

_INTRODUCTION = """# Configuration

`make docs-config` generates this page from `src/cnnClassifier/entity/config_entity.py`.

Every key is required. An unknown, missing or invalid key stops the command with the file, the key,
the expected and the actual value. The files as shipped contain a value for every key.
Paths are relative to the folder from which a command is started.
"""
_HEADER = """
| key | values | used by | description |
|---|---|---|---|
"""
_SEARCH_NOTE = f"""
The keys of `space` are {", ".join(SEARCHABLE)}; their values have the limits of params.yaml. null
leaves a parameter as it is in params.yaml, a list gives its values, and `{{low, high}}` a range of
numbers, with `log: true` for a logarithmic scale, or with a `step`.
"""


def render_reference() -> str:
    """Return the page in Markdown."""
    fields: dict[str, FieldInfo] = {}
    users: dict[str, list[str]] = {}
    for user, entity in USERS:
        for key, field in entity.fields_by_key().items():
            fields.setdefault(key, field)
            users.setdefault(key, []).append(user)
    tables: dict[str, str] = {}
    for key, field in (fields | SearchSpaceConfig.fields_by_key()).items():
        section = key.rpartition(".")[0]
        title = f"config.yaml, {section}" if section else "config.yaml"
        if key.isupper():
            title = "params.yaml"
        elif key not in users:
            title = "search.yaml"
        description = field.description
        variable = environment_variable(field)
        if variable:
            description = f"{description}. The environment variable {variable} overrides it"
        row = f"`{key}` | {expected_value(field)} | {', '.join(users.get(key, ['search']))}"
        tables[title] = tables.get(title, _HEADER) + f"| {row} | {description}. |\n"
    tables["search.yaml"] = _SEARCH_NOTE + tables["search.yaml"]
    return _INTRODUCTION + "".join(f"\n## {title}\n{table}" for title, table in tables.items())


if __name__ == "__main__":
    sys.stdout.write(render_reference())
