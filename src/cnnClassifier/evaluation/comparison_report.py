"""A comparison as text for a terminal, as Markdown for a pull request, and as an HTML page."""

import re
from collections.abc import Sequence

from sklearn import metrics

from cnnClassifier.entity.disclaimers import DISCLAIMER, SYNTHETIC
from cnnClassifier.evaluation.comparison import LOWER_IS_BETTER, Comparison, EvaluatedModel
from cnnClassifier.evaluation.console_report import wrap_lines
from cnnClassifier.evaluation.scores_file import METRIC_LABELS
from cnnClassifier.utils.page import render_template_file
from cnnClassifier.utils.svg import polyline_points

_TEXT_ROWS, _PAGE_ROWS = (
    10,
    100,
)  # maximum number of disagreements: in text and Markdown, on the page
_HEADLINE = "roc_auc"  # it does not depend on a threshold
_MULTIPLE_TESTS = (
    f"{len(METRIC_LABELS)} metrics are compared, so one of them may differ by chance alone."
)


def verdict(comparison: Comparison) -> str:
    """Say in one sentence whether one model is better, by ROC AUC."""
    row = next(row for row in comparison.differences if row["name"] == _HEADLINE)
    numbers = f"{row['value']:+.3f}, 95% interval {row['low']:+.3f} to {row['high']:+.3f}"
    if row["better"]:
        return f"Model {row['better']} is better: {METRIC_LABELS[_HEADLINE]} B − A {numbers}."
    return f"No significant difference: {METRIC_LABELS[_HEADLINE]} B − A {numbers}."


def format_text(comparison: Comparison) -> str:
    """Format the comparison for a terminal, 79 columns wide."""
    return wrap_lines(_render("comparison.txt", comparison, _TEXT_ROWS))


def format_markdown(comparison: Comparison) -> str:
    """Format the comparison as Markdown."""
    return _render("comparison.md", comparison, _TEXT_ROWS)


def format_page(comparison: Comparison) -> str:
    """Format the comparison as an HTML page without scripts and without other files."""
    return _render("comparison.html", comparison, _PAGE_ROWS)


def _render(template: str, comparison: Comparison, max_rows: int) -> str:
    return render_template_file(
        "cnnClassifier.evaluation",
        template,
        comparison=comparison,
        verdict=verdict(comparison),
        disagreement_summary=_count_disagreements(comparison),
        labels=METRIC_LABELS,
        lower_is_better=LOWER_IS_BETTER,
        limits=_format_limits,
        escape=_escape_markdown,
        multiple_tests=_MULTIPLE_TESTS,
        max_rows=max_rows,
        curves=[_curves(comparison.a), _curves(comparison.b)],
        disclaimer=DISCLAIMER,
        synthetic_notice=SYNTHETIC,
    )


def _format_limits(limits: Sequence[float] | None) -> str:
    return f"({limits[0]:.2f}…{limits[1]:.2f})" if limits else "(–)"


def _count_disagreements(comparison: Comparison) -> str:
    total = len(comparison.a.images)
    if not comparison.disagreements:
        return f"Both models predict the same class for all {total} images."
    correct = [row["correct"] for row in comparison.disagreements]
    text = f"Different predictions for {len(correct)} of {total} images: "
    text += f"A is right on {correct.count('A')}, B on {correct.count('B')}"
    if "neither" in correct:
        text += f", neither on {correct.count('neither')}"
    return f"{text}."


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)


def _curves(model: EvaluatedModel) -> dict[str, str]:
    """Return the ROC and precision-recall curves of the positive class against the rest."""
    predictions = model.predictions
    is_positive = predictions.labels == predictions.positive
    score = predictions.probabilities[:, predictions.positive]
    fpr, tpr, _ = metrics.roc_curve(is_positive, score)
    precision, recall, _ = metrics.precision_recall_curve(
        is_positive, score, drop_intermediate=True
    )
    return {"roc": polyline_points(fpr, tpr), "pr": polyline_points(recall, precision)}
