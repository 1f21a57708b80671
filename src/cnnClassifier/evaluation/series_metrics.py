"""Metrics of one prediction for each group, such as a patient, from all of its images."""

from typing import Any

import numpy as np
import pandas as pd
from sklearn import metrics

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
        are left out of `metrics`, `intervals` and `single_image`, the metrics of a single image of
        each group. These are empty if a class has no other group. None if no group has two images.
    """
    images, groups = count_images_and_groups(predictions.groups)
    if groups == images:
        return None
    by_group = pd.Series(predictions.labels).groupby(predictions.groups)
    pure = predictions.take(np.flatnonzero(by_group.transform("nunique") == 1))
    scores: dict[str, Any] = {
        "group_term": group_term,
        "n": images,
        "n_groups": groups,
        "n_mixed": groups - len(np.unique(pure.groups)),
        "metrics": {},
        "intervals": {},
        "single_image": {},
    }
    if len(np.unique(pure.labels)) == predictions.probabilities.shape[1]:
        pooled = _pool(pure, threshold)
        values = compute_metrics(pooled)
        intervals = metric_intervals(pooled, bootstrap_metrics(pooled, bootstrap_samples, seed))
        scores["metrics"] = {name: values[name] for name in _METRICS}
        scores["intervals"] = {name: intervals.get(name) for name in _METRICS}
        scores["single_image"] = _single_image_metrics(pure)
    return scores


def _pool(predictions: LabeledPredictions, threshold: float | None) -> LabeledPredictions:
    """Return one prediction for each group; the images of a group have one class."""
    groups, probabilities = pool_probabilities(predictions.probabilities, predictions.groups)
    predicted = apply_threshold(probabilities, predictions.positive, threshold)
    labels = pd.Series(predictions.labels).groupby(predictions.groups).first().to_numpy()
    return LabeledPredictions(labels, probabilities, predicted, groups, predictions.positive)


def _single_image_metrics(predictions: LabeledPredictions) -> dict[str, float]:
    """Return the metrics of the images where each group counts once, whatever its size.

    So they are comparable with those of the groups: on average those of a random image of each.
    """
    labels, probabilities = predictions.labels, predictions.probabilities
    sizes = np.bincount(predictions.groups)
    weights = 1 / sizes[predictions.groups]
    columns = range(probabilities.shape[1])
    areas = [
        metrics.roc_auc_score(labels == column, probabilities[:, column], sample_weight=weights)
        for column in columns
    ]
    values = {
        "accuracy": np.average(predictions.correct, weights=weights),
        "balanced_accuracy": metrics.balanced_accuracy_score(
            labels, predictions.predicted, sample_weight=weights
        ),
        "roc_auc": np.mean(areas),
        "loss": metrics.log_loss(
            labels, probabilities, labels=list(columns), sample_weight=weights
        ),
    }
    return {name: round(float(values[name]), 6) for name in _METRICS}
