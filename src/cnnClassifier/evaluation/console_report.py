"""The scores as text for a terminal."""

import textwrap
from collections.abc import Sequence
from typing import Any

from cnnClassifier.entity.disclaimers import DISCLAIMER, SYNTHETIC
from cnnClassifier.evaluation.scores_file import METRIC_LABELS
from cnnClassifier.utils.page import render_template_file

_WIDTH = 79
# The most important metrics first. Recall comes late: with two classes it equals sensitivity.
_FIRST = ("roc_auc", "pr_auc", "balanced_accuracy", "sensitivity", "specificity", "precision")
_ORDER = (*_FIRST, *(name for name in METRIC_LABELS if name not in _FIRST))


def format_scores(scores: dict[str, Any]) -> str:
    """Format the scores of the test split with its size, warnings and disclaimer, 79 columns wide.

    Args:
        scores: content of scores.json.
    """
    text = render_template_file(
        "cnnClassifier.evaluation",
        "scores.txt",
        scores=scores,
        labels=METRIC_LABELS,
        order=_ORDER,
        width=_WIDTH,
        interval=format_interval,
        disclaimer=DISCLAIMER,
        synthetic_notice=SYNTHETIC,
    )
    return wrap_lines(text)


def wrap_lines(text: str) -> str:
    """Wrap lines longer than 79 columns; table rows continue indented."""
    wrapped = []
    for line in text.rstrip().splitlines():
        indent = "    " if line.startswith(" ") else ""
        is_long = len(line) > _WIDTH
        wrapped += textwrap.wrap(line, _WIDTH, subsequent_indent=indent) if is_long else [line]
    return "\n".join(wrapped)


def format_interval(interval: Sequence[float] | None) -> str:
    """Format an interval, such as `0.910 to 0.980`."""
    return f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "–"
