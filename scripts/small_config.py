#!/usr/bin/env python3
"""Write the files for scripts/small-pipeline: a project's own configuration on synthetic images.

usage: python scripts/small_config.py CODE FOLDER

CODE is a tree of the project, this one or another commit's: FOLDER gets copies of its config.yaml
and params.yaml. Their classes are always those of this tree, so that two commits are comparable.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

# Whether all stages work is tested here, not how good the model is. What takes long is reduced, and
# what suits the project's data alone is reset.
CONFIG = {
    "data_ingestion": {"source_sha256": None, "classes": None},
    "data_validation": {
        "group_pattern": r"^(?P<group>group\d+)_",
        "split": "grouped",
        "min_side": 32,
    },
    "evaluation": {"mlflow_uri": "sqlite:///mlflow.db"},
    "gates": {"on_failure": "warn"},
}
PARAMS = {
    "IMAGE_SIZE": [96, 96, 3],
    "EPOCHS": 8,
    "VIEWS": 2,
    # The fastest precision depends on what else the machine does; compared scores must not.
    "PRECISION": "float32",
}


def class_names(config: dict[str, Any], params: dict[str, Any]) -> list[str]:
    """Return the classes of data_ingestion.classes; without them, `CLASSES` made-up names.

    If `CLASSES` is auto, two.
    """
    if config["data_ingestion"]["classes"]:
        return list(config["data_ingestion"]["classes"])
    count = 2 if params["CLASSES"] == "auto" else params["CLASSES"]
    names = [f"class{number:02d}" for number in range(1, count + 1)]
    if params["POSITIVE_CLASS"] != "auto":
        names[0] = params["POSITIVE_CLASS"]
    return names


def source_url(names: list[str]) -> str:
    """Return the URL of a data set with about 120 images, and at least 20 of each class.

    The contrast is low: where every prediction is correct, a comparison shows nothing.
    """
    quoted = []
    for name in names:
        quoted.append(name.replace("%", "%25").replace(",", "%2C").replace("|", "%7C"))
    groups = max(60 // len(names), 10)
    return f"patterns:classes={'|'.join(quoted)},groups={groups},images=2,contrast=6,seed=3"


def small_config(config: dict[str, Any], source: str) -> dict[str, Any]:
    """Return a configuration with another source, and the values of `CONFIG` for its keys."""
    small = dict(config)
    for name, changes in CONFIG.items():
        section = dict(small[name])
        for key in section.keys() & changes.keys():
            section[key] = changes[key]
        small[name] = section
    small["data_ingestion"]["source_URL"] = source
    if "project" in small:
        # Runs that are tracked get their own experiment and registered model.
        small["project"] = small["project"] | {"name": f"{small['project']['name'][:57]}-small"}
    return small


def small_params(params: dict[str, Any], names: list[str], positive: str) -> dict[str, Any]:
    """Return parameters with the values of `PARAMS`, and with the classes of this tree."""
    return params | PARAMS | {"CLASSES": len(names), "POSITIVE_CLASS": positive}


def main(code: Path, folder: Path) -> None:
    """Write FOLDER/config.yaml and FOLDER/params.yaml."""
    own_params = _read(ROOT / "params.yaml")
    names = class_names(_read(ROOT / "config/config.yaml"), own_params)
    source = source_url(names)
    if not (code / "src/image_patterns").is_dir():
        from image_patterns import parse_patterns, write_patterns

        # Code from before this generator gets the same images as a folder.
        print(f"{code} has no src/image_patterns: its scores aren't marked SYNTHETIC")
        write_patterns(folder / "images", parse_patterns(source))
        source = str(folder / "images")
    config = small_config(_read(code / "config/config.yaml"), source)
    params = small_params(_read(code / "params.yaml"), names, own_params["POSITIVE_CLASS"])
    for name, content in (("config.yaml", config), ("params.yaml", params)):
        text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
        (folder / name).write_text(text, encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
