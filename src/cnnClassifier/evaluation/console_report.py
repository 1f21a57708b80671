"""The scores as text for a terminal."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from cnnClassifier.entity.disclaimers import DISCLAIMER, SYNTHETIC
from cnnClassifier.evaluation.scores_file import METRIC_LABELS

_WIDTH = 79
# The most important metrics first. Recall comes late: with two classes it equals sensitivity.
_FIRST = ("roc_auc", "pr_auc", "balanced_accuracy", "sensitivity", "specificity", "precision")
_ORDER = (*_FIRST, *(name for name in METRIC_LABELS if name not in _FIRST))


def format_scores(scores: dict[str, Any]) -> str:
    """Format the scores of the test split with its size, warnings and disclaimer, 79 columns wide.

    Args:
        scores: content of scores.json.
    """
    source = "SYNTHETIC" if scores["synthetic"] else "real data"
    blocks = [
        [f"Test split: {scores['n']} images in {scores['n_groups']} groups ({source})"],
        _metric_rows(scores),
        _confusion_rows(scores["classes"], scores["confusion_matrix"]),
        _operating_point_rows(scores["operating_points"]),
        _class_rows(scores["per_class"]),
        [_out_of_distribution(scores["out_of_distribution"])],
        _gates_and_warnings(scores),
        [SYNTHETIC, DISCLAIMER] if scores["synthetic"] else [DISCLAIMER],
    ]
    return "\n\n".join(wrap_lines(block) for block in blocks if block)


def wrap_lines(lines: Iterable[str]) -> str:
    """Join lines, and wrap those longer than 79 columns; table rows continue indented."""
    wrapped = []
    for line in lines:
        indent = "    " if line.startswith(" ") else ""
        wrapped += (
            textwrap.wrap(line, _WIDTH, subsequent_indent=indent) if line[_WIDTH:] else [line]
        )
    return "\n".join(wrapped)


def format_interval(interval: Sequence[float] | None) -> str:
    """Format an interval, such as `0.910 to 0.980`."""
    return f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "–"


def _metric_rows(scores: dict[str, Any]) -> list[str]:
    rows = [f"  {'':<20}{'value':>7}   {'95% interval':<17}{'images':>7}{'groups':>8}"]
    for key in _ORDER:
        images, groups = scores["counts"][key]
        interval = format_interval(scores["intervals"].get(key))
        label = METRIC_LABELS[key]
        rows.append(f"  {label:<20}{scores[key]:>7.3f}   {interval:<17}{images:>7}{groups:>8}")
    return rows


def _confusion_rows(classes: Sequence[str], matrix: Sequence[Sequence[int]]) -> list[str]:
    available = (_WIDTH - 23) // len(classes)
    if available < 6:
        return [f"  confusion matrix of {len(classes)} classes: see confusion_matrix.png"]
    names = [_shorten(name, min(available - 2, 18)) for name in classes]
    width = max(map(len, names)) + 2
    rows = []
    for name, cells in [("actual ↓  predicted →", names), *zip(names, matrix, strict=True)]:
        rows.append(f"  {name:<21}" + "".join(f"{cell:>{width}}" for cell in cells))
    return rows


def _operating_point_rows(points: Sequence[dict[str, Any]]) -> list[str]:
    rows = [f"  {'operating point':<19}{'threshold':>9}  {'sensitivity':<25}specificity"]
    for point in points:
        row = f"  {_shorten(point['name'], 19):<20}{point['threshold']:>8.3f}  "
        for key in ("sensitivity", "specificity"):
            value = f"{point[key]:.3f} ({format_interval(point['intervals'].get(key))})"
            row += f"{value:<25}"
        rows.append(row.rstrip())
    return rows


def _class_rows(per_class: Sequence[dict[str, Any]]) -> list[str]:
    if not per_class:
        return []
    rows = [
        f"  {'class against rest':<20}{'ROC AUC':>7}   {'95% interval':<17}"
        f"{'sens.':>6}{'spec.':>7}{'images':>8}{'groups':>8}"
    ]
    for row in per_class:
        interval = format_interval(row["intervals"].get("roc_auc"))
        rows.append(
            f"  {_shorten(row['class'], 19):<20}{row['roc_auc']:>7.3f}   {interval:<17}"
            f"{row['sensitivity']:>6.3f}{row['specificity']:>7.3f}{row['n']:>8}{row['n_groups']:>8}"
        )
    return rows


def _out_of_distribution(metrics: dict[str, Any]) -> str:
    return (
        f"  unfamiliar images: {metrics['detection_rate']:.1%} of {metrics['n_ood']} images that "
        f"are no CT are detected; {metrics['false_positive_rate']:.1%} of {metrics['n']} test "
        "images are false alarms"
    )


def _gates_and_warnings(scores: dict[str, Any]) -> list[str]:
    lines = []
    for gate in scores["gates"]:
        if not gate["passed"]:
            lines.append(f"  ! gate {gate['name']} failed: {gate['message']}")
    if scores["gates"] and not lines:
        lines.append(f"  all {len(scores['gates'])} gates passed")
    return lines + [f"  ! {warning}" for warning in scores["warnings"]]


def _shorten(name: str, width: int) -> str:
    return name if len(name) <= width else f"{name[: width - 1]}…"
