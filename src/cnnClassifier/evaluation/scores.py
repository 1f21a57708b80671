"""The file `scores.json`: the names of its metrics, reading it, and its text for a terminal."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnClassifier.entity.bundle import check_format_version
from cnnClassifier.entity.disclaimers import SYNTHETIC
from cnnClassifier.utils.common import load_json
from cnnClassifier.utils.errors import UserError
from cnnClassifier.utils.page import render_template_file

SCORES_FILE, PREDICTIONS_FILE = "scores.json", "predictions.csv"
# What the metrics are of: values of `split` in scores.json, and their text.
TEST, OUT_OF_FOLD = "test", "out_of_fold"
SPLIT_TEXTS = {
    TEST: "test split",
    OUT_OF_FOLD: "out-of-fold predictions of the training images (there is no test split)",
}
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
TOO_FEW_GROUPS = "A dash means that there are too few groups for an interval."
# The most important metrics, for two classes and for more.
_MAIN_METRICS = ("loss", "roc_auc", "balanced_accuracy", "sensitivity", "specificity")
_MAIN_METRICS_MULTICLASS = ("accuracy", "balanced_accuracy", "f1", "roc_auc", "loss")
_MACRO_METRICS = ("roc_auc", "pr_auc", "precision", "recall", "f1")


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
    """Format the scores with their sizes, warnings and disclaimer, 79 columns wide.

    Args:
        scores: content of scores.json.
    """
    return render_text(
        "scores.txt",
        scores=scores,
        summary=summarize(scores),
        main=main_metrics(scores),
        labels=metric_labels(scores),
        split_text=SPLIT_TEXTS[scores["split"]],
        interval=format_interval,
        limits=format_limits,
        too_few_groups=TOO_FEW_GROUPS,
        synthetic_notice=SYNTHETIC,
    )


@dataclass(frozen=True)
class Summary:
    """The main metrics of the model and of its baseline, next to each other.

    Attributes:
        columns: of each the heading, its second line or an empty text, and the size in words.
        rows: name of the metric, and value and interval (None if unknown) in each column.
    """

    columns: list[tuple[str, str, str]]
    rows: list[tuple[str, list[tuple[float, Sequence[float] | None]]]]


def summarize(scores: dict[str, Any]) -> Summary:
    """Compare test split, cross-validation and baseline.

    Args:
        scores: content of scores.json.
    """
    found = scores["cross_validation"]
    size = f"{found['n']} in {found['n_groups']} groups"
    kind = "validation split" if found["fixed_validation_split"] else "cross-validated"
    columns = [(kind.capitalize(), "", size), ("Linear baseline", kind, size)]
    sources = [found, found["baseline"]]
    if scores["split"] == TEST:
        columns.insert(0, ("Test split", "", f"{scores['n']} in {scores['n_groups']} groups"))
        sources.insert(0, {"metrics": scores, "intervals": scores["intervals"]})
    rows = []
    for name in main_metrics(scores):
        cells = [(source["metrics"][name], source["intervals"].get(name)) for source in sources]
        rows.append((metric_labels(scores)[name], cells))
    return Summary(columns, rows)


def main_metrics(scores: dict[str, Any]) -> tuple[str, ...]:
    """Return the keys of the most important metrics; with two classes recall is sensitivity."""
    return _MAIN_METRICS if len(scores["classes"]) == 2 else _MAIN_METRICS_MULTICLASS


def metric_labels(scores: dict[str, Any]) -> dict[str, str]:
    """Return the metrics' names for people by their key, the most important ones first.

    With more than two classes the name says which ones are means over the classes, and which ones
    are of the positive class.
    """
    labels = METRIC_LABELS.copy()
    if len(scores["classes"]) > 2:
        labels |= {name: f"macro {labels[name]}" for name in _MACRO_METRICS}
        for name in ("sensitivity", "specificity"):
            labels[name] += f" ({scores['positive_class']})"
    main = main_metrics(scores)
    return {name: labels[name] for name in (*main, *labels) if name in scores}


def render_text(template: str, **content: Any) -> str:
    """Render a template of this package as text of 79 columns; table rows continue indented.

    A path stays in one piece, so that it can be copied.
    """
    wrapper = textwrap.TextWrapper(79, break_on_hyphens=False, break_long_words=False)
    lines = []
    for line in render_template_file("cnnClassifier.evaluation", template, **content).splitlines():
        line = line.rstrip()
        wrapper.subsequent_indent = "    " if line.startswith(" ") else ""
        lines += wrapper.wrap(line) if len(line) > 79 else [line]
    return "\n".join(lines)


def format_limits(interval: Sequence[float] | None) -> str:
    """Format an interval briefly, such as `0.91…0.98`."""
    return f"{interval[0]:.2f}…{interval[1]:.2f}" if interval else "–"


def format_interval(interval: Sequence[float] | None) -> str:
    """Format an interval, such as `0.910 to 0.980`."""
    return f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "–"
