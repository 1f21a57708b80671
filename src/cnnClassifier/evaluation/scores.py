"""The file `scores.json`: the names of its metrics, reading it, and its text for a terminal."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnnClassifier.entity.bundle import check_format_version
from cnnClassifier.entity.disclaimers import DISCLAIMER, SYNTHETIC
from cnnClassifier.utils.common import load_json
from cnnClassifier.utils.errors import UserError
from cnnClassifier.utils.page import render_template_file

SCORES_FILE, PREDICTIONS_FILE = "scores.json", "predictions.csv"
# Keys of scores.json and their names for people, in the order of the file.
METRIC_LABELS = {
    "loss": "log loss",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "roc_auc": "ROC AUC",
    "pr_auc": "PR AUC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "mcc": "MCC",
    "brier": "Brier score",
    "ece": "ECE",
}
TOO_FEW_GROUPS = "A dash: too few groups for an interval."
# The most important metrics first. Recall comes late: with two classes it equals sensitivity.
_FIRST = ("roc_auc", "pr_auc", "balanced_accuracy", "sensitivity", "specificity", "precision")


def read_scores(folder: Path) -> dict[str, Any]:
    """Read `scores.json` from the output folder of evaluation.

    Args:
        folder: such as `artifacts/evaluation`.

    Raises:
        FileNotFoundError: the folder has no scores.
        UserError: the file is damaged, or version 1 made it.
    """
    path = folder / SCORES_FILE
    try:
        scores = dict(load_json(path))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); run evaluation again") from None
    check_format_version(scores, path)
    return scores


def format_scores(scores: dict[str, Any]) -> str:
    """Format the scores of the test split with its size, warnings and disclaimer, 79 columns wide.

    Args:
        scores: content of scores.json.
    """
    return render_text(
        "scores.txt",
        scores=scores,
        order=[*_FIRST, *(name for name in METRIC_LABELS if name not in _FIRST)],
        labels=METRIC_LABELS,
        interval=format_interval,
        too_few_groups=TOO_FEW_GROUPS,
        disclaimer=DISCLAIMER,
        synthetic_notice=SYNTHETIC,
    )


def render_text(template: str, **content: Any) -> str:
    """Render a template of this package as text of 79 columns; table rows continue indented."""
    lines = []
    for line in render_template_file("cnnClassifier.evaluation", template, **content).splitlines():
        indent = "    " if line.startswith(" ") else ""
        lines += textwrap.wrap(line, 79, subsequent_indent=indent) if len(line) > 79 else [line]
    return "\n".join(lines)


def format_interval(interval: Sequence[float] | None) -> str:
    """Format an interval, such as `0.910 to 0.980`."""
    return f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "–"
