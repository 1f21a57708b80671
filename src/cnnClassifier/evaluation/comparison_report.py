"""A comparison as text for a terminal, as Markdown for a pull request, and as an HTML page."""

import re
from collections.abc import Sequence
from typing import Any

from cnnClassifier.entity.disclaimers import DISCLAIMER, SYNTHETIC
from cnnClassifier.evaluation.comparison import LOWER_IS_BETTER, Comparison, EvaluatedModel
from cnnClassifier.evaluation.metrics import positive_curves
from cnnClassifier.evaluation.scores import METRIC_LABELS, render_text
from cnnClassifier.utils.page import render_template_file
from cnnClassifier.utils.svg import polyline_points

_HEADLINE = "roc_auc"  # it does not depend on a threshold


def verdict(comparison: Comparison) -> str:
    """Say in one sentence whether one model is better, by ROC AUC."""
    row = next(row for row in comparison.differences if row["name"] == _HEADLINE)
    numbers = f"{row['value']:+.3f}, 95% interval {row['low']:+.3f} to {row['high']:+.3f}"
    result = f"Model {row['better']} is better" if row["better"] else "No significant difference"
    return f"{result}: {METRIC_LABELS[_HEADLINE]} B − A {numbers}."


def format_text(comparison: Comparison) -> str:
    """Format the comparison for a terminal, 79 columns wide."""
    return render_text("comparison.txt", **_content(comparison))


def format_markdown(comparison: Comparison) -> str:
    """Format the comparison as Markdown."""
    content = _content(comparison)
    return render_template_file("cnnClassifier.evaluation", "comparison.md", **content)


def format_page(comparison: Comparison) -> str:
    """Format the comparison as an HTML page without scripts and without other files."""
    content = _content(comparison) | {"curves": [_curves(comparison.a), _curves(comparison.b)]}
    return render_template_file("cnnClassifier.evaluation", "comparison.html", **content)


def _content(comparison: Comparison) -> dict[str, Any]:
    count = len(METRIC_LABELS)
    return {
        "comparison": comparison,
        "verdict": verdict(comparison),
        "disagreement_summary": _count_disagreements(comparison),
        "labels": METRIC_LABELS,
        "lower_is_better": LOWER_IS_BETTER,
        "limits": _format_limits,
        "escape": _escape_markdown,
        "multiple_tests": f"{count} metrics are compared, so one may differ by chance alone.",
        "disclaimer": DISCLAIMER,
        "synthetic_notice": SYNTHETIC,
    }


def _format_limits(limits: Sequence[float] | None) -> str:
    return f"({limits[0]:.2f}…{limits[1]:.2f})" if limits else "(–)"


def _count_disagreements(comparison: Comparison) -> str:
    total = len(comparison.a.images)
    if not comparison.disagreements:
        return f"Both models predict the same class for all {total} images."
    correct = [row["correct"] for row in comparison.disagreements]
    neither = f", neither on {correct.count('neither')}" if "neither" in correct else ""
    return (
        f"Different predictions for {len(correct)} of {total} images: "
        f"A is right on {correct.count('A')}, B on {correct.count('B')}{neither}."
    )


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)


def _curves(model: EvaluatedModel) -> dict[str, str]:
    """Return the ROC and precision-recall curves of the positive class against the rest."""
    roc, pr = positive_curves(model.predictions)
    return {
        "roc": polyline_points(roc["fpr"], roc["tpr"]),
        "pr": polyline_points(pr["recall"], pr["precision"]),
    }
