"""Quality gates: limits in config.yaml that the data and the model must meet."""

from typing import Any

import pandas as pd

from cnnClassifier.entity.config_entity import GatesConfig
from cnnClassifier.entity.manifest import Entry, Manifest
from cnnClassifier.evaluation.scores import SPLIT_TEXTS


def check_gates(
    config: GatesConfig, manifest: Manifest, report: dict[str, Any], scores: dict[str, Any]
) -> list[dict[str, Any]]:
    """Check each limit that is set; a value that can't be computed fails.

    Args:
        config: limits; None where there is none.
        manifest: all images.
        report: content of data_report.json.
        scores: content of scores.json.

    Returns:
        For each gate its `name` in config.yaml, whether it is `passed`, and a `message` with the
        found value and the limit.
    """
    entries = [entry for entry in manifest.entries if entry.split]
    table = pd.DataFrame(entries).groupby("label").nunique()
    images, groups = table["path"], table["group"]
    shortcuts = report.get("shortcuts") or {}
    shortcut = max(shortcuts, key=lambda name: shortcuts[name]["auc"], default="none measured")
    shortcut_auc = shortcuts.get(shortcut, {}).get("auc")
    where = "the " + SPLIT_TEXTS[scores["split"]].partition(" (")[0]
    auc_low, _ = scores["intervals"].get("roc_auc", (None, None))
    values: dict[str, tuple[str, float | None]] = {
        "min_images_per_class": (f"Number of images of class {images.idxmin()}", images.min()),
        "min_groups_per_class": (f"Number of groups of class {groups.idxmin()}", groups.min()),
        "min_roc_auc": (f"ROC AUC of {where}", scores["roc_auc"]),
        "min_roc_auc_lower_bound": (f"Lower limit of ROC AUC of {where}", auc_low),
        "max_shortcut_auc": (f"ROC AUC of the strongest shortcut ({shortcut})", shortcut_auc),
        "max_ece": (f"Expected calibration error of {where}", scores["ece"]),
    }
    gates = [_check_leakage(entries)] if config.no_leakage else []
    for name, (label, value) in values.items():
        limit = getattr(config, name)
        if limit is not None:
            gates.append(_check_limit(name, limit, label, value))
    return gates


def _check_limit(name: str, limit: float, label: str, value: float | None) -> dict[str, Any]:
    """Compare a value with a lower (`min_`) or upper (`max_`) limit; None: unknown."""
    is_minimum = name.startswith("min_")
    bound = f"the {'minimum' if is_minimum else 'maximum'} is {limit:g}."
    if value is None:
        return {
            "name": name,
            "passed": False,
            "message": f"{label} can't be computed on this data; {bound}",
        }
    passed = bool(value >= limit if is_minimum else value <= limit)  # numpy's isn't JSON
    number = f"{value:.3f}" if isinstance(value, float) else value
    return {"name": name, "passed": passed, "message": f"{label} is {number}; {bound}"}


def _check_leakage(entries: list[Entry]) -> dict[str, Any]:
    """Check that no content and no group is in two splits."""
    table = pd.DataFrame(entries)
    for noun, column in (("content", "sha256"), ("group", "group")):
        leaked = table[table.groupby(column)["split"].transform("nunique") > 1]
        if not leaked.empty:
            first = leaked.iloc[0]
            splits = sorted(leaked.loc[leaked[column] == first[column], "split"].unique())
            where = " and ".join(splits)
            message = f"The {noun} of {first['path']} is in {where}: data leakage."
            return {"name": "no_leakage", "passed": False, "message": message}
    return {
        "name": "no_leakage",
        "passed": True,
        "message": "No image and no group of near-duplicates is in two splits.",
    }
