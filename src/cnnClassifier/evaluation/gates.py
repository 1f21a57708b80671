"""What config.yaml asks of model and data, and whether they meet it."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cnnClassifier.entity.config_entity import GatesConfig
from cnnClassifier.entity.manifest import Manifest


@dataclass(frozen=True)
class Gate:
    """One demand.

    Attributes:
        name: its key in config.yaml.
        met: whether it is met.
        sentence: what was found and what was asked.
    """

    name: str
    met: bool
    sentence: str


def check_gates(
    asked: GatesConfig, manifest: Manifest, report: dict[str, Any], scores: dict[str, Any]
) -> list[Gate]:
    """Compare what is asked with what was found; what can't be told isn't met.

    Args:
        asked: demands; those that are None are left out.
        manifest: all images.
        report: content of data_report.json.
        scores: content of scores.json.
    """
    return [
        *_counts(asked, manifest),
        *([_leakage(manifest)] if asked.no_leakage else []),
        *_figures(asked, scores),
        *(
            [_shortcut(asked.max_shortcut_auc, report)]
            if asked.max_shortcut_auc is not None
            else []
        ),
    ]


def _counts(asked: GatesConfig, manifest: Manifest) -> Iterator[Gate]:
    images: dict[str, set[str]] = defaultdict(set)
    groups: dict[str, set[str]] = defaultdict(set)
    for entry in manifest.entries:
        if entry.split:
            images[entry.label].add(entry.path)
            groups[entry.label].add(entry.group)
    for name, noun, members, least in (
        ("min_images_per_class", "images", images, asked.min_images_per_class),
        ("min_groups_per_class", "groups", groups, asked.min_groups_per_class),
    ):
        if least is not None:
            fewest = min(members, key=lambda label: len(members[label]))
            yield Gate(
                name,
                len(members[fewest]) >= least,
                f"Class {fewest} has the fewest {noun}, {len(members[fewest])}; at least {least} are asked for.",
            )


def _leakage(manifest: Manifest) -> Gate:
    used = [entry for entry in manifest.entries if entry.split]
    for noun, what in (
        ("picture", lambda entry: entry.sha256),
        ("group", lambda entry: entry.group),
    ):
        splits: dict[str, set[str]] = defaultdict(set)
        for entry in used:
            splits[what(entry)].add(entry.split)
        for entry in used:
            if len(found := splits[what(entry)]) > 1:
                where = " and ".join(sorted(found))
                return Gate(
                    "no_leakage",
                    False,
                    f"The {noun} of {entry.path} stands in {where}: the scores leak.",
                )
    return Gate(
        "no_leakage", True, "No picture and no group, near-copies among them, stands in two splits."
    )


def _figures(asked: GatesConfig, scores: dict[str, Any]) -> Iterator[Gate]:
    low = scores["intervals"].get("roc_auc", [None])[0]
    for name, label, value, limit, is_least in (
        ("min_roc_auc", "ROC AUC", scores["roc_auc"], asked.min_roc_auc, True),
        (
            "min_roc_auc_lower_bound",
            "The lower end of ROC AUC's interval",
            low,
            asked.min_roc_auc_lower_bound,
            True,
        ),
        ("max_ece", "The expected calibration error", scores["ece"], asked.max_ece, False),
    ):
        if limit is None:
            continue
        if value is None:
            yield Gate(
                name,
                False,
                f"{label} can't be told: too few test groups; at least {limit:g} is asked for.",
            )
            continue
        met = value >= limit if is_least else value <= limit
        yield Gate(
            name,
            met,
            f"{label} is {value:.3f}; at {'least' if is_least else 'most'} {limit:g} is asked for.",
        )


def _shortcut(limit: float, report: dict[str, Any]) -> Gate:
    name, reached = "max_shortcut_auc", report.get("shortcuts") or {}
    if not reached:
        return Gate(
            name,
            False,
            f"No shortcut was measured, so that none can be said to be below AUC {limit:g}.",
        )
    best = max(reached, key=lambda shortcut: reached[shortcut]["auc"])
    return Gate(
        name,
        reached[best]["auc"] <= limit,
        f"The strongest shortcut, {best}, tells the classes apart with AUC {reached[best]['auc']:.3f}; "
        f"at most {limit:g} is asked for.",
    )
