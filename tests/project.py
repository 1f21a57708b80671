"""A project for tests, whose configuration doesn't depend on the values of the shipped one."""

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
FILES = {
    "config": Path("config/config.yaml"),
    "params": Path("params.yaml"),
    "search": Path("config/search.yaml"),
}


def patterns(groups, size, seed):
    """The source of synthetic images: one image for each group of two classes."""
    classes = "adenocarcinoma|normal"
    return f"patterns:classes={classes},groups={groups},images=1,size={size},seed={seed}"


def read_settings(name, changes=None):
    """Return the content of one of `FILES` with the values of tests/settings.

    A key that is in the shipped file alone, such as a new one, has the value from there.

    Args:
        name: key of `FILES`.
        changes: other values, by dotted key.
    """
    content = _read(ROOT / FILES[name])
    values = _read(ROOT / "tests/settings" / f"{name}.yaml")
    for key in content.keys() & values.keys():
        if isinstance(content[key], dict) and isinstance(values[key], dict):
            for inner in content[key].keys() & values[key].keys():
                content[key][inner] = values[key][inner]
        else:
            content[key] = values[key]
    for key, value in (changes or {}).items():
        section, _, inner = key.rpartition(".")
        part = content[section] if section else content
        part[inner or section] = value
    return content


def write_project(folder, config=None, params=None, search=None):
    """Write the three files to a folder, with changes by dotted key; return the folder."""
    for name, changes in (("config", config), ("params", params), ("search", search)):
        path = folder / FILES[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(read_settings(name, changes), sort_keys=False, allow_unicode=True)
        path.write_text(text, encoding="utf-8")
    return folder


def _read(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))
