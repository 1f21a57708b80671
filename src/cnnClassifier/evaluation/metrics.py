"""Metrics of the predictions on a split, each with its 95% interval.

The metrics are scikit-learn's; it lacks specificity and the expected calibration error.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import sklearn
from scipy.stats import beta
from sklearn import metrics

from cnnClassifier.evaluation.scores import METRIC_LABELS

_BIN_COUNT = 10


@dataclass(frozen=True)
class LabeledPredictions:
    """Predictions on a split and the true labels.

    Attributes:
        labels: int, (n,), class indices.
        probabilities: float64, (n, classes); rows sum to 1.
        predicted: int, (n,), class indices.
        groups: int, (n,); images of the same group are not independent.
        positive: index of the positive class; None: there is none, with more than two classes.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    predicted: np.ndarray
    groups: np.ndarray
    positive: int | None

    @classmethod
    def create(
        cls,
        labels: np.ndarray,
        probabilities: np.ndarray,
        predicted: np.ndarray,
        groups: Sequence[str] | np.ndarray,
        positive: int | None,
    ) -> "LabeledPredictions":
        """Normalize probabilities in float64 and number the groups.

        Args:
            labels: int, (n,).
            probabilities: float, (n, classes).
            predicted: int, (n,), see `decide`.
            groups: name of the group of each image.
            positive: index of the positive class, if there is one.
        """
        normalized = probabilities.astype(np.float64)
        normalized /= normalized.sum(axis=1, keepdims=True)  # float32 rows sum to 1 within 1e-6
        group_numbers = np.unique(groups, return_inverse=True)[1]
        return cls(labels, normalized, predicted, group_numbers, positive)

    @classmethod
    def from_table(
        cls, table: pd.DataFrame, classes: tuple[str, ...], positive_class: str | None
    ) -> "LabeledPredictions":
        """Take the columns of predictions.csv or out_of_fold.csv.

        Args:
            table: of texts: `group`, `actual`, `predicted`, then the probability of each class.
            classes: names, in the order of the columns.
            positive_class: one of them, or None.

        Raises:
            KeyError: a column is missing, or a class is another one.
            ValueError: a probability is no number.
        """
        index = pd.Series(range(len(classes)), list(classes))
        # By position: a class may have the name of another column.
        first = list(table).index("predicted") + 1
        return cls.create(
            index[table["actual"]].to_numpy(),
            table.iloc[:, first : first + len(classes)].to_numpy(np.float64),
            index[table["predicted"]].to_numpy(),
            table["group"].to_numpy(str),
            int(index[positive_class]) if positive_class else None,
        )

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the predicted class, (n,)."""
        return np.take_along_axis(self.probabilities, self.predicted[:, None], axis=1)[:, 0]

    @property
    def correct(self) -> np.ndarray:
        """Whether each prediction is right, bool (n,)."""
        return self.predicted == self.labels

    def take(self, indices: np.ndarray) -> "LabeledPredictions":
        """Select rows; an index may occur several times."""
        return LabeledPredictions(
            self.labels[indices],
            self.probabilities[indices],
            self.predicted[indices],
            self.groups[indices],
            self.positive,
        )


class _Measured(NamedTuple):
    """The value of a metric, its interval, and the number of images and groups."""

    value: float
    interval: list[float] | None
    counts: list[int]


def compute_metrics(predictions: LabeledPredictions) -> dict[str, float]:
    """Compute the metrics of `METRIC_LABELS` without intervals.

    With more than two classes AUC, precision, recall and F1 are one-vs-rest means over the classes;
    sensitivity and specificity are those of the positive class against the rest, if there is one.

    Args:
        predictions: on a split that has every class.
    """
    values = _all_metrics(predictions)
    return {name: round(float(values[name]), 6) for name in METRIC_LABELS if name in values}


def compute_scores(
    predictions: LabeledPredictions,
    classes: Sequence[str],
    operating_points: Mapping[str, float],
    bootstrap_samples: int,
    seed: int,
) -> dict[str, Any]:
    """Compute the metrics of `scores.json` with their intervals.

    Proportions (accuracy, sensitivity, specificity; with two classes precision and recall) have
    the interval of `proportion_interval`, all other metrics percentiles of a bootstrap over groups.

    Args:
        predictions: on a split that has every class.
        classes: names, in the order of the columns.
        operating_points: thresholds by name.
        bootstrap_samples: number of resamples.
        seed: the same seed gives the same intervals.

    Returns:
        The metrics by their key; `intervals` by the same keys, without those that have too few
        groups; in `counts` the number of images and groups that each metric is computed on.
    """
    values = _all_metrics(predictions)
    samples = bootstrap_metrics(predictions, bootstrap_samples, seed)
    counts = count_images_and_groups(predictions.groups)
    intervals = percentile_intervals(samples) if counts[1] > 1 else {}
    measured = {name: _Measured(values[name], intervals.get(name), counts) for name in values}
    measured |= _headline_proportions(predictions)
    matrix = metrics.confusion_matrix(
        predictions.labels, predictions.predicted, labels=np.arange(len(classes))
    )
    return {
        **_as_json(measured, [name for name in METRIC_LABELS if name in measured]),
        "n": counts[0],
        "n_groups": counts[1],
        "positive_class": None if predictions.positive is None else classes[predictions.positive],
        "classes": list(classes),
        "confusion_matrix": matrix.tolist(),
        "operating_points": _operating_points(predictions, operating_points),
        "per_class": _per_class(predictions, classes, measured),
    }


def metric_intervals(
    predictions: LabeledPredictions, samples: pd.DataFrame
) -> dict[str, list[float] | None]:
    """Return the interval of each of `METRIC_LABELS`: the percentiles, but for proportions."""
    columns = samples.columns.intersection(list(METRIC_LABELS))
    intervals: dict[str, list[float] | None] = {**percentile_intervals(samples[columns])}
    for name, measured in _headline_proportions(predictions).items():
        intervals[name] = measured.interval
    return intervals


def proportion_interval(hits: np.ndarray, groups: np.ndarray) -> list[float] | None:
    """Return the 95% interval of the fraction of images that are hits.

    It is the Clopper-Pearson interval with the effective sample size: the number of independent
    images with the same variance (Korn & Graubard 1998). The variance is that of a ratio estimator,
    between groups. Few groups may look alike by chance, so half a group of hits and half a group of
    misses, both of mean size, are added to it, as Jeffreys' prior adds half an image of each. With
    one image per group the effective sample size is the number of images; if all images of a group
    agree and the groups have the same size, it is the number of groups.

    Args:
        hits: bool, (m,).
        groups: of the same images, (m,).

    Returns:
        Lower and upper limit; None if there are fewer than two groups.
    """
    _, group_of_image, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    group_count = len(sizes)
    if group_count < 2:
        return None
    mean_size = sizes.mean()
    hit_counts = np.append(np.bincount(group_of_image, hits), [mean_size, 0])
    sizes = np.append(sizes, [mean_size, mean_size])
    weights = np.append(np.ones(group_count), [0.5, 0.5])
    total = weights @ sizes
    fraction = weights @ hit_counts / total
    squares = weights @ (hit_counts - fraction * sizes) ** 2
    variance = squares / total**2 * (group_count + 1) / group_count
    effective_size = min(len(hits), fraction * (1 - fraction) / variance)
    successes = hits.mean() * effective_size
    failures = effective_size - successes
    low = beta.ppf(0.025, successes, failures + 1) if successes else 0.0
    high = beta.ppf(0.975, successes + 1, failures) if failures else 1.0
    return [round(float(low), 4), round(float(high), 4)]


def calibration_curve(predictions: LabeledPredictions) -> pd.DataFrame:
    """Compare the probability of the predicted class with the accuracy, in ten bins of equal width.

    Returns:
        A row for each bin that isn't empty: `confidence` (mean), `accuracy`, its interval from
        `low` to `high` (NaN if there are too few groups), and the number of images `n`.
    """
    columns = {
        "confidence": predictions.confidence,
        "accuracy": predictions.correct,
        "group": predictions.groups,
    }
    bins = pd.DataFrame(columns).groupby(_bins(predictions.confidence))
    curve = bins[["confidence", "accuracy"]].mean()
    limits = []
    for _, images in bins:
        interval = proportion_interval(images["accuracy"].to_numpy(), images["group"].to_numpy())
        limits.append(interval or [np.nan, np.nan])
    curve[["low", "high"]] = limits
    curve["n"] = bins.size()
    return curve.round(6).reset_index(drop=True)


def bootstrap_metrics(predictions: LabeledPredictions, samples: int, seed: int) -> pd.DataFrame:
    """Compute all metrics on bootstrap samples: whole groups, drawn with replacement.

    Args:
        predictions: on a split that has every class.
        samples: number of resamples.
        seed: the same seed gives the same resamples.

    Returns:
        A row for each sample; it is NaN if the sample has no image of some class. Columns such as
        `f1[2]` hold the one-vs-rest metric of one class.
    """
    class_count = predictions.probabilities.shape[1]
    rng = np.random.default_rng(seed)
    groups = predictions.groups
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    rows = []
    # The checks of the arguments would take as long as the metrics.
    with sklearn.config_context(skip_parameter_validation=True, assume_finite=True):
        for _ in range(samples):
            drawn = rng.integers(len(members), size=len(members))
            sample = predictions.take(np.concatenate([members[group] for group in drawn]))
            complete = len(np.unique(sample.labels)) == class_count
            rows.append(_all_metrics(sample) if complete else {})
    return pd.DataFrame(rows)


def curves(
    predictions: LabeledPredictions, label: int | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compute the curves of one class against the rest.

    Args:
        predictions: on a split.
        label: index of the class; None: the positive one, or without one the micro-average: every
            pair of an image and a class counts.

    Returns:
        ROC with `fpr`, `tpr` and `threshold`, and precision-recall with `recall` and `precision`.
    """
    label = predictions.positive if label is None else label
    if label is None:
        class_count = predictions.probabilities.shape[1]
        is_positive = (predictions.labels[:, None] == np.arange(class_count)).ravel()
        score = predictions.probabilities.ravel()
    else:
        is_positive = predictions.labels == label
        score = predictions.probabilities[:, label]
    fpr, tpr, thresholds = metrics.roc_curve(is_positive, score)
    thresholds = np.minimum(thresholds, 1.0)  # scikit-learn's first one is infinite
    precision, recall, _ = metrics.precision_recall_curve(
        is_positive, score, drop_intermediate=True
    )
    roc = pd.DataFrame({"fpr": fpr, "tpr": tpr, "threshold": thresholds})
    return roc, pd.DataFrame({"recall": recall[::-1], "precision": precision[::-1]})


def percentile_intervals(samples: pd.DataFrame) -> dict[str, list[float]]:
    """Return the 95% interval of each column; rows with NaN are ignored."""
    complete = samples.dropna()
    if complete.empty:
        return {}
    limits = np.quantile(complete.to_numpy(float), (0.025, 0.975), axis=0).T.round(4)
    return dict(zip(complete.columns, limits.tolist(), strict=True))


def _all_metrics(predictions: LabeledPredictions) -> dict[str, float]:
    """Return the metrics of `METRIC_LABELS`, and those of class i against the rest as `name[i]`."""
    labels, probabilities = predictions.labels, predictions.probabilities
    positive = predictions.positive
    columns = np.arange(probabilities.shape[1])
    cells = np.bincount(labels * len(columns) + predictions.predicted, minlength=len(columns) ** 2)
    table = _confusion_metrics(cells.reshape(len(columns), len(columns)))
    values = {
        "loss": metrics.log_loss(labels, probabilities, labels=columns),
        "accuracy": table["accuracy"],
        "balanced_accuracy": table["balanced_accuracy"],
        "mcc": table["mcc"],
        "brier": metrics.brier_score_loss(labels, probabilities, labels=columns),
        "ece": _expected_calibration_error(predictions),
    }
    if positive is not None:
        values["sensitivity"] = table["recall"][positive]
        values["specificity"] = table["specificity"][positive]
    # With two classes the positive one is enough: the other one mirrors it.
    reported = columns if len(columns) > 2 or positive is None else columns[[positive]]
    ranked = [(labels == column, probabilities[:, column]) for column in reported]
    per_class = {
        "precision": table["precision"][reported],
        "recall": table["recall"][reported],
        "f1": table["f1"][reported],
        "roc_auc": [metrics.roc_auc_score(actual, score) for actual, score in ranked],
        "pr_auc": [metrics.average_precision_score(actual, score) for actual, score in ranked],
    }
    for name, class_values in per_class.items():
        values[name] = np.mean(class_values)
        values |= {f"{name}[{column}]": class_values[i] for i, column in enumerate(reported)}
    return values


def _confusion_metrics(matrix: np.ndarray) -> dict[str, Any]:
    """Return the metrics of a confusion matrix; a fraction of no image is 0.

    scikit-learn's functions give the same values, in many times the time: the bootstrap asks for
    hundreds of matrices. MCC: Gorodkin 2004.

    Args:
        matrix: int, (classes, classes), rows are the actual classes.
    """
    correct, actual, predicted = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    total = matrix.sum()
    recall = correct / np.maximum(actual, 1)
    covariance = correct.sum() * total - predicted @ actual
    variances = (total**2 - predicted @ predicted) * (total**2 - actual @ actual)
    return {
        "accuracy": correct.sum() / total,
        "balanced_accuracy": recall[actual > 0].mean(),
        "mcc": covariance / math.sqrt(variances) if variances else 0.0,
        "specificity": 1 - (predicted - correct) / np.maximum(total - actual, 1),
        "precision": correct / np.maximum(predicted, 1),
        "recall": recall,
        "f1": 2 * correct / np.maximum(actual + predicted, 1),
    }


def _expected_calibration_error(predictions: LabeledPredictions) -> float:
    """Return the mean gap between confidence and accuracy, weighted by images (Guo et al. 2017)."""
    confidence = predictions.confidence
    gaps = np.bincount(_bins(confidence), confidence - predictions.correct)
    return float(np.abs(gaps).sum() / len(confidence))


def _bins(confidence: np.ndarray) -> np.ndarray:
    return np.minimum((confidence * _BIN_COUNT).astype(int), _BIN_COUNT - 1)


def _proportion(hits: np.ndarray, groups: np.ndarray) -> _Measured:
    """Return the fraction of images that are hits, 0 of no images.

    Args:
        hits: bool, (m,).
        groups: of the same images, (m,).
    """
    value = float(hits.mean()) if len(hits) else 0.0
    return _Measured(value, proportion_interval(hits, groups), count_images_and_groups(groups))


def _one_vs_rest(
    predictions: LabeledPredictions, label: int, predicted: np.ndarray | None = None
) -> dict[str, _Measured]:
    """Return the proportions of one class against the rest.

    Args:
        predictions: on a split.
        label: index of the class.
        predicted: bool, (n,), instead of the predictions of this class.
    """
    actual, groups = predictions.labels == label, predictions.groups
    if predicted is None:
        predicted = predictions.predicted == label
    return {
        "sensitivity": _proportion(predicted[actual], groups[actual]),
        "specificity": _proportion(~predicted[~actual], groups[~actual]),
        "precision": _proportion(actual[predicted], groups[predicted]),
    }


def _headline_proportions(predictions: LabeledPredictions) -> dict[str, _Measured]:
    """Return the metrics of `METRIC_LABELS` that are proportions."""
    accuracy = {"accuracy": _proportion(predictions.correct, predictions.groups)}
    if predictions.positive is None:
        return accuracy
    found = _one_vs_rest(predictions, predictions.positive)
    if predictions.probabilities.shape[1] == 2:
        found["recall"] = found["sensitivity"]
    else:
        del found["precision"]  # a mean over the classes
    return found | accuracy


def count_images_and_groups(groups: np.ndarray) -> list[int]:
    """Return the number of images and of groups; `groups` has the group of each image."""
    return [len(groups), len(np.unique(groups))]


def _as_json(measured: Mapping[str, _Measured], names: Iterable[str]) -> dict[str, Any]:
    """Return values by name, and `intervals` and `counts` by name."""
    content: dict[str, Any] = {name: round(float(measured[name].value), 6) for name in names}
    intervals = {name: measured[name].interval for name in names if measured[name].interval}
    counts = {name: measured[name].counts for name in names}
    return content | {"intervals": intervals, "counts": counts}


def _operating_points(
    predictions: LabeledPredictions, thresholds: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Describe the metrics at each threshold.

    `default` takes the predicted classes as they are. Without a positive class there is none.
    """
    if predictions.positive is None:
        return []
    score = predictions.probabilities[:, predictions.positive]
    points = []
    for name, threshold in thresholds.items():
        predicted = None if name == "default" else score >= threshold
        measured = _one_vs_rest(predictions, predictions.positive, predicted)
        points.append({"name": name, "threshold": threshold, **_as_json(measured, measured)})
    return points


def _per_class(
    predictions: LabeledPredictions, classes: Sequence[str], measured: Mapping[str, _Measured]
) -> list[dict[str, Any]]:
    """Describe each class against the rest; empty for two classes, where one mirrors the other."""
    if len(classes) == 2:
        return []
    rows = []
    names = ("roc_auc", "pr_auc", "sensitivity", "specificity", "precision", "f1")
    for index, name in enumerate(classes):
        of_class = {key: measured[f"{key}[{index}]"] for key in ("roc_auc", "pr_auc", "f1")}
        of_class |= _one_vs_rest(predictions, index)
        images, groups = of_class["sensitivity"].counts
        row = {"class": name, "n": images, "n_groups": groups}
        rows.append(row | _as_json(of_class, names))
    return rows
