"""A comparison for people: on a terminal, as Markdown for a pull request, and as a page that needs no other file."""

import textwrap
from collections.abc import Sequence

import numpy as np
from sklearn import metrics

from cnnClassifier.entity.disclaimers import DISCLAIMER, SYNTHETIC
from cnnClassifier.evaluation.comparison import (
    SMALLER_IS_BETTER,
    Comparison,
    Difference,
    Disagreement,
    Evaluated,
)
from cnnClassifier.evaluation.metrics import NAMES
from cnnClassifier.utils.page import render_template_file

_WIDTH = 79
_FEW, _MANY = (
    10,
    100,
)  # disagreements that are shown: on a terminal and in a pull request, on the page
_POINTS = 300  # of a curve: more wouldn't be seen
_HEADLINE = "roc_auc"  # it depends on no threshold
_BEWARE = (
    f"{len(NAMES)} figures are compared: one or another differs by more than chance now and then."
)


def verdict(found: Comparison) -> str:
    """Say in a sentence whether one of the two is better, by ROC AUC."""
    (row,) = (row for row in found.differences if row.name == _HEADLINE)
    range_ = f"{NAMES[_HEADLINE]} of B − A: {row.value:+.3f}, 95% interval {row.low:+.3f} to {row.high:+.3f}"
    if row.better:
        return f"{row.better} is better by more than chance. {range_}."
    return f"The difference is no larger than chance. {range_}."


def as_text(found: Comparison) -> str:
    """Draw the comparison for a terminal; 79 columns wide."""
    lines = [f"A: {found.a.name}", f"B: {found.b.name}", "", *found.images, "", verdict(found), ""]
    lines.append(f"  {'':<18}{'A (95% interval)':<19}{'B (95% interval)':<19}B − A (95% interval)")
    for row in found.differences:
        of_a, of_b = (f"{value:.3f} {_range(limits)}" for value, limits in _sides(row))
        change = f"{row.value:+.3f} ({row.low:+.2f}…{row.high:+.2f})"
        lines.append(
            f"{'*' if row.better else ' '} {NAMES[row.name]:<18}{of_a:<19}{of_b:<19}{change}"
        )
    lines += [_larger(found.differences), ""]
    if found.paired:
        lines += [_called(found), *_disagreement_lines(found.disagreements[:_FEW]), ""]
    if found.params:
        lines += [
            "Made with other parameters:",
            *(f"  {name}: A {a}, B {b}" for name, a, b in found.params),
            "",
        ]
    lines += [SYNTHETIC] * found.synthetic + [DISCLAIMER]
    return "\n".join(
        part
        for line in lines
        for part in (
            textwrap.wrap(line, _WIDTH, subsequent_indent="    " if line[0] == " " else "")
            if len(line) > _WIDTH
            else [line]
        )
    )


def as_markdown(found: Comparison) -> str:
    """Write the comparison as Markdown."""
    lines = [
        f"### {_plain(found.a.name)} (A) and {_plain(found.b.name)} (B)",
        "",
        f"**{verdict(found)}**",
        "",
    ]
    lines += [
        *found.images,
        "",
        "| | A | B | B − A | larger than chance? |",
        "|---|---|---|---|---|",
    ]
    for row in found.differences:
        of_a, of_b = (f"{value:.3f} {_range(limits)}" for value, limits in _sides(row))
        said = f"yes, {row.better} is better" if row.better else "no"
        lines.append(
            f"| {NAMES[row.name]} | {of_a} | {of_b} | {row.value:+.3f} ({row.low:+.3f} to {row.high:+.3f}) | {said} |"
        )
    lines += ["", f"In brackets 95% intervals. {_BEWARE}", ""]
    if found.paired:
        lines += [_called(found), ""]
    if found.disagreements:
        lines += ["| image | is | A calls | B calls | right |", "|---|---|---|---|---|"]
        lines += [
            f"| `{item.path}` | {_plain(item.actual)} | {_plain(item.a_called)} {item.a_probability:.2f} "
            f"| {_plain(item.b_called)} {item.b_probability:.2f} | {item.right} |"
            for item in found.disagreements[:_FEW]
        ]
        lines.append("")
    if found.params:
        lines += ["| parameter | A | B |", "|---|---|---|"]
        lines += [*(f"| `{name}` | `{a}` | `{b}` |" for name, a, b in found.params), ""]
    lines.append(" ".join([SYNTHETIC] * found.synthetic + [DISCLAIMER]))
    return "\n".join(lines)


def as_page(found: Comparison) -> str:
    """Write the comparison as an HTML page: no script, no network, no other file."""
    return render_template_file(
        "cnnClassifier.evaluation",
        "comparison_report.html",
        found=found,
        verdict=verdict(found),
        called=_called(found) if found.paired else "",
        names=NAMES,
        smaller=SMALLER_IS_BETTER,
        range=_range,
        beware=_BEWARE,
        most=_MANY,
        roc=[_roc(side) for side in (found.a, found.b)],
        pr=[_precision_recall(side) for side in (found.a, found.b)],
        disclaimer=DISCLAIMER,
        synthetic_notice=SYNTHETIC,
    )


def _sides(row: Difference) -> tuple[tuple[float, Sequence[float] | None], ...]:
    return (row.a, row.a_interval), (row.b, row.b_interval)


def _range(limits: Sequence[float] | None) -> str:
    return f"({limits[0]:.2f}…{limits[1]:.2f})" if limits else "(–)"


def _larger(rows: Sequence[Difference]) -> str:
    better = {
        side: ", ".join(NAMES[row.name] for row in rows if row.better == side)
        for side in ("A", "B")
    }
    found = " ".join(f"{side} is better in {names}." for side, names in better.items() if names)
    return f"* larger than chance: {found} {_BEWARE}" if found else "None is larger than chance."


def _called(found: Comparison) -> str:
    right = [item.right for item in found.disagreements]
    if not right:
        return f"Both call all {len(found.a.paths)} images alike."
    neither = f", neither on {right.count('neither')}" if "neither" in right else ""
    said = f"Called differently: {len(right)} of {len(found.a.paths)} images; A is right on {right.count('A')}, B on "
    return f"{said}{right.count('B')}{neither}."


def _disagreement_lines(items: Sequence[Disagreement]) -> list[str]:
    return [
        f"  {item.path}: is {item.actual}; A calls {item.a_called} ({item.a_probability:.2f}), "
        f"B {item.b_called} ({item.b_probability:.2f})"
        for item in items
    ]


def _plain(text: str) -> str:
    """Keep a name from being read as markup."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in text)


def _roc(side: Evaluated) -> str:
    outcome = side.outcome
    fpr, tpr, _ = metrics.roc_curve(
        outcome.labels == outcome.positive, outcome.probabilities[:, outcome.positive]
    )
    return _polyline(fpr, tpr)


def _precision_recall(side: Evaluated) -> str:
    outcome = side.outcome
    precision, recall, _ = metrics.precision_recall_curve(
        outcome.labels == outcome.positive,
        outcome.probabilities[:, outcome.positive],
        drop_intermediate=True,
    )
    return _polyline(recall, precision)


def _polyline(x: np.ndarray, y: np.ndarray) -> str:
    """Return a curve's points in a square of 100, y upwards."""
    chosen = np.unique(np.linspace(0, len(x) - 1, _POINTS).astype(int))
    return " ".join(f"{100 * x[place]:.1f},{100 - 100 * y[place]:.1f}" for place in chosen)
