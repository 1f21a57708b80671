"""Quality gates: limits in config.yaml that the data and the model must meet."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

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
    images: dict[str, set[str]] = defaultdict(set)
    groups: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        images[entry.label].add(entry.path)
        groups[entry.label].add(entry.group)
    image_count, image_class = _smallest(images)
    group_count, group_class = _smallest(groups)
    shortcuts = report.get("shortcuts") or {}
    shortcut = max(shortcuts, key=lambda name: shortcuts[name]["auc"], default=None)
    shortcut_auc = shortcuts[shortcut]["auc"] if shortcut else None
    auc_low, _ = scores["intervals"].get("roc_auc", (None, None))
    values = {
        "min_images_per_class": (f"Number of images of class {image_class}", image_count),
        "min_groups_per_class": (f"Number of groups of class {group_class}", group_count),
        "min_roc_auc": ("ROC AUC", scores["roc_auc"]),
        "min_roc_auc_lower_bound": ("Lower limit of the interval of ROC AUC", auc_low),
        "max_ece": ("Expected calibration error", scores["ece"]),
        "max_shortcut_auc": (f"ROC AUC of the strongest shortcut ({shortcut})", shortcut_auc),
    }
    gates = []
    if config.no_leakage:
        gates.append(_check_leakage(entries))
    for name, (label, value) in values.items():
        limit = getattr(config, name)
        if limit is not None:
            gates.append(_check_limit(name, limit, label, value))
    return gates


def _smallest(members: dict[str, set[str]]) -> tuple[int, str]:
    """Return the number of members of the class that has the fewest, and its name."""
    name = min(members, key=lambda label: len(members[label]))
    return len(members[name]), name


def _check_limit(name: str, limit: float, label: str, value: float | None) -> Gate:
    """Compare a value with a lower (`min_`) or upper (`max_`) limit; None: unknown."""
    is_minimum = name.startswith("min_")
    bound = f"the {'minimum' if is_minimum else 'maximum'} is {limit:g}."
    if value is None:
        return Gate(name, False, f"{label} can't be computed on this data; {bound}")
    passed = value >= limit if is_minimum else value <= limit
    number = value if isinstance(value, int) else f"{value:.3f}"
    return Gate(name, passed, f"{label} is {number}; {bound}")


def _check_leakage(entries: list[Entry]) -> Gate:
    """Check that no content and no group is in two splits."""
    for noun, attribute in (("content", "sha256"), ("group", "group")):
        splits: dict[str, set[str]] = defaultdict(set)
        for entry in entries:
            splits[getattr(entry, attribute)].add(entry.split)
        for entry in entries:
            found = sorted(splits[getattr(entry, attribute)])
            if len(found) > 1:
                message = f"The {noun} of {entry.path} is in {' and '.join(found)}: data leakage."
                return Gate("no_leakage", False, message)
    return Gate("no_leakage", True, "No image and no group of near-duplicates is in two splits.")
