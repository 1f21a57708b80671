"""Metrics of one prediction for each group, such as a patient, from all of its images."""

from typing import Any

import numpy as np
import pandas as pd

from cnnClassifier.entity.bundle import apply_threshold, pool_probabilities
from cnnClassifier.evaluation.metrics import (
    LabeledPredictions,
    bootstrap_metrics,
    compute_metrics,
    count_images_and_groups,
    metric_intervals,
)

_METRICS = ("accuracy", "balanced_accuracy", "roc_auc", "loss")


def series_scores(
    predictions: LabeledPredictions,
    threshold: float | None,
    group_term: str,
    bootstrap_samples: int,
    seed: int,
) -> dict[str, Any] | None:
    """Compute the metrics of one prediction per group, see `pool_probabilities`.

    Args:
        predictions: of the images.
        threshold: of the positive class; the same as for one image.
        group_term: what a group is called, such as patient.
        bootstrap_samples: number of resamples of the groups.
        seed: the same seed gives the same intervals.

    Returns:
        `n` images in `n_groups` groups; `n_mixed`: groups with images of several classes, which
        are left out of `metrics` and `intervals`. These are empty if a class has no other group.
        None if each group has a single image.
    """
    images, groups = count_images_and_groups(predictions.groups)
    if groups == images:
        return None
    pooled = _pool(predictions, threshold)
    scores: dict[str, Any] = {
        "group_term": group_term,
        "n": images,
        "n_groups": groups,
        "n_mixed": groups - len(pooled.labels),
        "metrics": {},
        "intervals": {},
    }
    if len(np.unique(pooled.labels)) == predictions.probabilities.shape[1]:
        metrics = compute_metrics(pooled)
        intervals = metric_intervals(pooled, bootstrap_metrics(pooled, bootstrap_samples, seed))
        scores["metrics"] = {name: metrics[name] for name in _METRICS}
        scores["intervals"] = {name: intervals.get(name) for name in _METRICS}
    return scores


def _pool(predictions: LabeledPredictions, threshold: float | None) -> LabeledPredictions:
    """Return a prediction for each group whose images have one class."""
    labels = pd.Series(predictions.labels).groupby(predictions.groups)
    groups, probabilities = pool_probabilities(predictions.probabilities, predictions.groups)
    predicted = apply_threshold(probabilities, predictions.positive, threshold)
    pooled = LabeledPredictions(
        labels.first().to_numpy(), probabilities, predicted, groups, predictions.positive
    )
    return pooled.take(np.flatnonzero(labels.nunique() == 1))
