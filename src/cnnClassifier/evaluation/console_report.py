"""The scores as a person reads them on a terminal."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from cnnClassifier.entity.disclaimers import DISCLAIMER, SYNTHETIC
from cnnClassifier.evaluation.metrics import NAMES

_WIDTH = 79
# What matters most comes first; recall is sensitivity where there are two classes.
_FIRST = ("roc_auc", "pr_auc", "balanced_accuracy", "sensitivity", "specificity", "precision")
_ORDER = (*_FIRST, *(name for name in NAMES if name not in _FIRST))


def format_scores(scores: dict[str, Any]) -> str:
    """Draw the scores of the test split, with what they are of and what they aren't for; 79 columns wide."""
    kind = "SYNTHETIC" if scores["synthetic"] else "real data"
    blocks = [
        [f"Test split: {scores['n']} images in {scores['n_groups']} groups ({kind})"],
        _figures(scores),
        _confusion(scores["classes"], scores["confusion_matrix"]),
        list(_points(scores)),
        list(_per_class(scores["per_class"])),
        list(_unfamiliar(scores["unfamiliar"])),
        list(_sentences(scores)),
        [*([SYNTHETIC] if scores["synthetic"] else []), DISCLAIMER],
    ]
    lines = [line for block in blocks if block for line in [*block, ""]]
    return "\n".join(
        wrapped
        for line in lines[:-1]
        for wrapped in (
            textwrap.wrap(line, _WIDTH, subsequent_indent="    ") if len(line) > _WIDTH else [line]
        )
    )


def interval_text(interval: Sequence[float] | None) -> str:
    """Return an interval for people, such as `0.91 to 0.98`."""
    return f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "–"


def _figures(scores: dict[str, Any]) -> list[str]:
    lines = [f"  {'':<20}{'value':>7}   {'95% interval':<17}{'images':>7}{'groups':>8}"]
    for key in _ORDER:
        images, groups = scores["counts"][key]
        limits = interval_text(scores["intervals"].get(key))
        lines.append(f"  {NAMES[key]:<20}{scores[key]:>7.3f}   {limits:<17}{images:>7}{groups:>8}")
    return lines


def _confusion(classes: Sequence[str], matrix: Sequence[Sequence[int]]) -> list[str]:
    room = (_WIDTH - 22) // len(classes)
    if room < 6:
        return [f"  confusion matrix of {len(classes)} classes: see confusion_matrix.png"]
    names = [_short(name, min(room - 2, 18)) for name in classes]
    width = max(map(len, names)) + 2
    lines = ["  " + "actual ↓  called →".ljust(20) + "".join(f"{name:>{width}}" for name in names)]
    for name, row in zip(names, matrix, strict=True):
        lines.append("  " + name.ljust(20) + "".join(f"{count:>{width}}" for count in row))
    return lines


def _points(scores: dict[str, Any]) -> Iterator[str]:
    yield f"  {'operating point':<20}{'thresh.':>7}   {'sensitivity':<24}specificity"
    for point in scores["operating_points"]:
        shown = [
            f"{point[key]:.3f} ({interval_text(point['intervals'].get(key))})"
            for key in ("sensitivity", "specificity")
        ]
        yield f"  {_short(point['name'], 20):<20}{point['threshold']:>7.3f}   {shown[0]:<24}{shown[1]}"


def _per_class(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    if not rows:
        return
    yield f"  {'class against rest':<20}{'ROC AUC':>7}   {'95% interval':<17}{'sens.':>6}{'spec.':>7}   images  groups"
    for row in rows:
        limits = interval_text(row["intervals"].get("roc_auc"))
        yield (
            f"  {_short(row['class'], 19):<20}{row['roc_auc']:>7.3f}   {limits:<17}{row['sensitivity']:>6.3f}"
            f"{row['specificity']:>7.3f}{row['n']:>8}{row['n_groups']:>8}"
        )


def _unfamiliar(found: dict[str, Any]) -> Iterator[str]:
    yield (
        f"  unfamiliar images: {found['detection_rate']:.1%} of {found['n_not_ct']} pictures that are no CT are found; "
        f"{found['false_alarm_rate']:.1%} of {found['n']} test images are false alarms"
    )


def _sentences(scores: dict[str, Any]) -> Iterator[str]:
    unmet = [gate for gate in scores["gates"] if not gate["met"]]
    if scores["gates"] and not unmet:
        yield f"  all {len(scores['gates'])} gates met"
    for gate in unmet:
        yield f"  ! gate {gate['name']} not met: {gate['sentence']}"
    for warning in scores["warnings"]:
        yield f"  ! {warning}"


def _short(name: str, width: int) -> str:
    return name if len(name) <= width else f"{name[: width - 1]}…"
