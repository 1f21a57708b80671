"""What the predictions on a split are worth; every metric is scikit-learn's."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn import metrics

from cnnClassifier.entity.bundle import decide


def scores(
    labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], positive_class: str, threshold: float
) -> dict[str, Any]:
    """Compute the figures of `scores.json`.

    With more than two classes AUC is one-vs-rest and macro, precision, recall and F1 are macro, and sensitivity and
    specificity are those of the positive class against the rest.

    Args:
        labels: int, (n,), places in `classes`.
        probabilities: float, (n, classes).
        classes: names in the order of the columns.
        positive_class: its name.
        threshold: see `decide`.
    """
    probabilities = probabilities.astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)  # float32 sums to 1 in six places only
    columns = np.arange(len(classes))
    positive = list(classes).index(positive_class)
    called = decide(probabilities, positive, threshold)
    is_positive, called_positive = labels == positive, called == positive
    binary = len(classes) == 2
    average = {"average": "binary", "pos_label": positive} if binary else {"average": "macro"}
    return {
        "loss": float(metrics.log_loss(labels, probabilities, labels=columns)),
        "accuracy": float(metrics.accuracy_score(labels, called)),
        "balanced_accuracy": float(metrics.balanced_accuracy_score(labels, called)),
        "roc_auc": float(
            metrics.roc_auc_score(is_positive, probabilities[:, positive])
            if binary
            else metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro", labels=columns)
        ),
        "sensitivity": float(metrics.recall_score(is_positive, called_positive, zero_division=0)),
        "specificity": float(metrics.recall_score(~is_positive, ~called_positive, zero_division=0)),
        "precision": float(metrics.precision_score(labels, called, zero_division=0, **average)),
        "recall": float(metrics.recall_score(labels, called, zero_division=0, **average)),
        "f1": float(metrics.f1_score(labels, called, zero_division=0, **average)),
        "n": len(labels),
        "confusion_matrix": metrics.confusion_matrix(labels, called, labels=columns).tolist(),
        "classes": list(classes),
        "positive_class": positive_class,
    }
