"""Quality gates: limits in config.yaml that the data and the model must meet."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from cnnClassifier.entity.config_entity import GatesConfig
from cnnClassifier.entity.manifest import Entry, Manifest


@dataclass(frozen=True)
class Gate:
    """The result of a check.

    Attributes:
        name: its key in config.yaml.
        passed: whether the limit is met.
        message: found value and limit.
    """

    name: str
    passed: bool
    message: str


def check_gates(
    config: GatesConfig, manifest: Manifest, report: dict[str, Any], scores: dict[str, Any]
) -> list[Gate]:
    """Check each limit that is set; a value that can't be computed fails.

    Args:
        config: limits; None where there is none.
        manifest: all images.
        report: content of data_report.json.
        scores: content of scores.json.
    """
    entries = [entry for entry in manifest.entries if entry.split]
    table = pd.DataFrame(entries).groupby("label").nunique()
    images, groups = table["path"], table["group"]
    shortcuts = report.get("shortcuts") or {}
    shortcut = max(shortcuts, key=lambda name: shortcuts[name]["auc"], default="none measured")
    shortcut_auc = shortcuts.get(shortcut, {}).get("auc")
    auc_low, _ = scores["intervals"].get("roc_auc", (None, None))
    name_of_shortcut = f"ROC AUC of the strongest shortcut ({shortcut})"
    limits = (
        (
            "min_images_per_class",
            config.min_images_per_class,
            f"Number of images of class {images.idxmin()}",
            images.min(),
        ),
        (
            "min_groups_per_class",
            config.min_groups_per_class,
            f"Number of groups of class {groups.idxmin()}",
            groups.min(),
        ),
        ("min_roc_auc", config.min_roc_auc, "ROC AUC", scores["roc_auc"]),
        (
            "min_roc_auc_lower_bound",
            config.min_roc_auc_lower_bound,
            "Lower limit of the interval of ROC AUC",
            auc_low,
        ),
        ("max_shortcut_auc", config.max_shortcut_auc, name_of_shortcut, shortcut_auc),
        ("max_ece", config.max_ece, "Expected calibration error", scores["ece"]),
    )
    gates = [_check_leakage(entries)] if config.no_leakage else []
    for name, limit, label, value in limits:
        if limit is not None:
            gates.append(_check_limit(name, limit, label, value))
    return gates


def _check_limit(name: str, limit: float, label: str, value: float | None) -> Gate:
    """Compare a value with a lower (`min_`) or upper (`max_`) limit; None: unknown."""
    is_minimum = name.startswith("min_")
    bound = f"the {'minimum' if is_minimum else 'maximum'} is {limit:g}."
    if value is None:
        return Gate(name, False, f"{label} can't be computed on this data; {bound}")
    passed = bool(value >= limit if is_minimum else value <= limit)  # numpy's isn't JSON
    number = f"{value:.3f}" if isinstance(value, float) else value
    return Gate(name, passed, f"{label} is {number}; {bound}")


def _check_leakage(entries: list[Entry]) -> Gate:
    """Check that no content and no group is in two splits."""
    table = pd.DataFrame(entries)
    for noun, column in (("content", "sha256"), ("group", "group")):
        leaked = table[table.groupby(column)["split"].transform("nunique") > 1]
        if not leaked.empty:
            first = leaked.iloc[0]
            splits = sorted(leaked.loc[leaked[column] == first[column], "split"].unique())
            where = " and ".join(splits)
            message = f"The {noun} of {first['path']} is in {where}: data leakage."
            return Gate("no_leakage", False, message)
    return Gate("no_leakage", True, "No image and no group of near-duplicates is in two splits.")
