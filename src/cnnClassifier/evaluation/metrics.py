"""What the predictions on a split are worth, each figure with its 95% interval.

Every metric is scikit-learn's, except for what it lacks: specificity and the expected calibration error.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import sklearn
from scipy.stats import binomtest
from sklearn import metrics

from cnnClassifier.entity.bundle import apply_threshold

_BINS = 10
_LEVEL = 0.95
# What the figures are called, in the order of `scores.json`: loss and accuracy first.
NAMES = {
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
_PER_CLASS = ("roc_auc", "pr_auc", "sensitivity", "specificity", "precision", "f1")


@dataclass(frozen=True)
class Outcome:
    """Predictions on a split beside the truth.

    Attributes:
        labels: int, (n,), places in the classes.
        probabilities: float64, (n, classes); rows sum to 1.
        called: int, (n,), the class that was called.
        groups: int, (n,): images of one group aren't independent.
        positive: place of the positive class.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    called: np.ndarray
    groups: np.ndarray
    positive: int

    @classmethod
    def of(
        cls,
        labels: np.ndarray,
        probabilities: np.ndarray,
        groups: Sequence[str] | np.ndarray,
        positive: int,
        threshold: float,
    ) -> "Outcome":
        """Decide each row, see `apply_threshold`.

        Args:
            labels: int, (n,).
            probabilities: float, (n, classes).
            groups: of each image.
            positive: place of the positive class.
            threshold: for its probability.
        """
        exact = probabilities.astype(np.float64)
        exact /= exact.sum(axis=1, keepdims=True)  # float32 sums to 1 in six places only
        called = apply_threshold(probabilities, positive, threshold)
        return cls(labels, exact, called, np.unique(groups, return_inverse=True)[1], positive)

    def take(self, places: np.ndarray) -> "Outcome":
        """Return the predictions at `places`, repeated where a place is."""
        return Outcome(
            self.labels[places],
            self.probabilities[places],
            self.called[places],
            self.groups[places],
            self.positive,
        )


def figures(outcome: Outcome) -> dict[str, float]:
    """Compute what `NAMES` holds, without intervals.

    With more than two classes AUC, precision, recall and F1 are means over the classes, each against the rest, and
    sensitivity and specificity are those of the positive class against the rest.

    Args:
        outcome: predictions on a split, with every class in it.
    """
    values = _sampled(outcome)
    return {name: round(float(values[name]), 6) for name in NAMES}


def scores(
    outcome: Outcome,
    classes: Sequence[str],
    operating_points: Mapping[str, float],
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """Compute the figures of `scores.json`.

    Proportions (accuracy, sensitivity, specificity; with two classes precision and recall) have Wilson's interval, all
    else percentiles of a bootstrap over groups.

    Args:
        outcome: predictions on the split, with every class in it.
        classes: names in the order of the columns.
        operating_points: thresholds by name.
        draws: resamples of the bootstrap.
        seed: equal seeds give equal intervals.

    Returns:
        The figures by `NAMES`; for each its interval, where there is one, and in `counts` the images and groups that it
        is of.
    """
    sampled, proportions = _sampled(outcome), _headline_proportions(outcome)
    limits = _bootstrap(outcome, draws, seed)
    intervals = {
        name: limit for name, limit in limits.items() if name not in proportions
    } | _intervals(proportions)
    everything = (0.0, np.ones(len(outcome.labels), bool))
    counts = _counts(outcome, {name: proportions.get(name, everything) for name in NAMES})
    return {
        **figures(outcome),
        "n": counts["loss"][0],
        "n_groups": counts["loss"][1],
        "positive_class": classes[outcome.positive],
        "classes": list(classes),
        "confusion_matrix": metrics.confusion_matrix(
            outcome.labels, outcome.called, labels=np.arange(len(classes))
        ).tolist(),
        "intervals": {name: intervals[name] for name in NAMES if name in intervals},
        "counts": counts,
        "operating_points": [
            _point(outcome, name, value) for name, value in operating_points.items()
        ],
        "per_class": _per_class(outcome, classes, sampled, limits),
    }


def intervals_of_shares(outcome: Outcome) -> dict[str, list[float]]:
    """Return Wilson's interval of each of `NAMES` that is a proportion; of nothing there is none."""
    return _intervals(_headline_proportions(outcome))


def wilson(share: float, count: int) -> list[float] | None:
    """Return the 95% interval of a proportion of `count` independent trials; None where there are none."""
    if count == 0:
        return None
    interval = binomtest(round(share * count), count).proportion_ci(_LEVEL, method="wilson")
    return [round(float(interval.low), 4), round(float(interval.high), 4)]


def reliability(outcome: Outcome) -> list[dict[str, float]]:
    """Compare confidence with truth, in bins of equal width; empty ones are left out.

    Returns:
        For each bin `confidence` (its mean), `accuracy`, Wilson's `low` and `high`, and `n`. The confidence is the
        probability of the called class, and the accuracy how often it was right.
    """
    rows = []
    for count, confidence, accuracy in zip(*_binned(outcome), strict=True):
        low, high = wilson(float(accuracy), int(count)) or (0.0, 1.0)
        rows.append(
            {
                "confidence": round(float(confidence), 6),
                "accuracy": round(float(accuracy), 6),
                "low": low,
                "high": high,
                "n": int(count),
            }
        )
    return rows


def _expected_calibration_error(outcome: Outcome) -> float:
    """Mean gap between confidence and accuracy over bins, weighted by images (Guo et al. 2017)."""
    counts, confidence, accuracy = _binned(outcome)
    return float(np.abs(confidence - accuracy) @ counts / counts.sum())


def _binned(outcome: Outcome) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    confidence = np.take_along_axis(outcome.probabilities, outcome.called[:, None], axis=1)[:, 0]
    places = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    counts = np.bincount(places, minlength=_BINS)
    kept = counts > 0
    means = [
        np.bincount(places, weights=values, minlength=_BINS)[kept] / counts[kept]
        for values in (confidence, outcome.called == outcome.labels)
    ]
    return counts[kept], means[0], means[1]


def _sampled(outcome: Outcome) -> dict[str, Any]:
    """Return the metrics that the bootstrap resamples: a number each, and an array (classes,) for names in `class_`."""
    labels, probabilities, positive = outcome.labels, outcome.probabilities, outcome.positive
    columns = np.arange(probabilities.shape[1])
    cells = np.bincount(labels * len(columns) + outcome.called, minlength=len(columns) ** 2)
    of_calls = _of_calls(tuple(cells.tolist()))
    found: dict[str, Any] = {
        "loss": metrics.log_loss(labels, probabilities, labels=columns),
        "balanced_accuracy": of_calls["balanced_accuracy"],
        "mcc": of_calls["mcc"],
        "accuracy": of_calls["accuracy"],
        "sensitivity": of_calls["recall"][positive],
        "specificity": of_calls["specificity"][positive],
        "brier": metrics.brier_score_loss(labels, probabilities, labels=columns),
        "ece": _expected_calibration_error(outcome),
    }
    if len(columns) == 2:
        is_positive, score = labels == positive, probabilities[:, positive]
        return found | {
            "roc_auc": metrics.roc_auc_score(is_positive, score),
            "pr_auc": metrics.average_precision_score(is_positive, score),
            **{name: of_calls[name][positive] for name in ("precision", "recall", "f1")},
        }
    one_hot = labels[:, None] == columns
    per_class = {
        "roc_auc": metrics.roc_auc_score(one_hot, probabilities, average=None),
        "pr_auc": metrics.average_precision_score(one_hot, probabilities, average=None),
        **{name: of_calls[name] for name in ("precision", "recall", "f1")},
    }
    found |= {name: values.mean() for name, values in per_class.items()}
    return found | {f"class_{name}": values for name, values in per_class.items()}


@lru_cache(maxsize=1024)  # the resamples of a good model share few tables
def _of_calls(cells: tuple[int, ...]) -> dict[str, Any]:
    """Return the metrics that depend on a confusion matrix alone, given as its rows one after another."""
    count = math.isqrt(len(cells))
    labels, called = np.divmod(np.arange(len(cells)), count)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        labels, called, labels=np.arange(count), sample_weight=cells, zero_division=0
    )
    table = np.reshape(cells, (count, count))
    others = table.sum() - table.sum(axis=1)
    return {
        "accuracy": metrics.accuracy_score(labels, called, sample_weight=cells),
        "specificity": 1 - (table.sum(axis=0) - table.diagonal()) / others,
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, called, sample_weight=cells),
        "mcc": metrics.matthews_corrcoef(labels, called, sample_weight=cells),
        "precision": precision,
        "recall": recall,
        "f1": f1,
    }


_Proportions = dict[str, tuple[float, np.ndarray]]


def _proportions(outcome: Outcome, flagged: np.ndarray, place: int | None = None) -> _Proportions:
    """Return each proportion and a mask of the images that it is of.

    Args:
        outcome: predictions.
        flagged: which images are called positive, bool (n,).
        place: of the class that counts as positive, unless it is the positive one.
    """
    is_positive = outcome.labels == (outcome.positive if place is None else place)
    sensitivity = (float(metrics.recall_score(is_positive, flagged, zero_division=0)), is_positive)
    return {
        "sensitivity": sensitivity,
        "specificity": (
            float(metrics.recall_score(~is_positive, ~flagged, zero_division=0)),
            ~is_positive,
        ),
        "precision": (
            float(metrics.precision_score(is_positive, flagged, zero_division=0)),
            flagged,
        ),
        "recall": sensitivity,
    }


def _headline_proportions(outcome: Outcome) -> _Proportions:
    """Return those of `NAMES` that are proportions; with more than two classes precision and recall are means."""
    found = _proportions(outcome, outcome.called == outcome.positive)
    if outcome.probabilities.shape[1] > 2:
        del found["precision"], found["recall"]
    accuracy = float(metrics.accuracy_score(outcome.labels, outcome.called))
    return found | {"accuracy": (accuracy, np.ones(len(outcome.labels), bool))}


def _intervals(proportions: _Proportions) -> dict[str, list[float]]:
    found = {name: wilson(share, int(mask.sum())) for name, (share, mask) in proportions.items()}
    return {name: interval for name, interval in found.items() if interval}


def _counts(outcome: Outcome, proportions: _Proportions) -> dict[str, list[int]]:
    """Return how many images and groups each proportion is of."""
    return {
        name: [int(mask.sum()), len(np.unique(outcome.groups[mask]))]
        for name, (_, mask) in proportions.items()
    }


def resamples(groups: np.ndarray, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Draw whole groups with replacement, as many as there are.

    Args:
        groups: int, (n,).
        draws: how often.
        seed: equal seeds give equal draws.

    Yields:
        Places of the images drawn.
    """
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    for _ in range(draws):
        yield np.concatenate(
            [members[group] for group in rng.integers(len(members), size=len(members))]
        )


def percentiles(values: Sequence[Any]) -> np.ndarray:
    """Return the 95% interval of draws: (..., 2)."""
    return np.quantile(values, ((1 - _LEVEL) / 2, (1 + _LEVEL) / 2), axis=0).T.round(4)


def quick() -> Any:
    """Leave out scikit-learn's checks of its arguments: over many draws they cost as much as the metrics."""
    return sklearn.config_context(skip_parameter_validation=True, assume_finite=True)


def _bootstrap(outcome: Outcome, draws: int, seed: int) -> dict[str, Any]:
    """Return the percentile interval of each of `_sampled` over resampled groups; skip draws that lose a class."""
    present = len(np.unique(outcome.labels))
    found: dict[str, list[Any]] = {}
    with quick():
        for places in resamples(outcome.groups, draws, seed):
            resampled = outcome.take(places)
            if len(np.unique(resampled.labels)) == present:
                for name, value in _sampled(resampled).items():
                    found.setdefault(name, []).append(value)
    return {name: percentiles(values).tolist() for name, values in found.items()}


def _point(outcome: Outcome, name: str, threshold: float) -> dict[str, Any]:
    """Describe an operating point; with more than two classes `default` is the most probable class, whatever it is."""
    score = outcome.probabilities[:, outcome.positive]
    found = _proportions(
        outcome, outcome.called == outcome.positive if name == "default" else score >= threshold
    )
    del found["recall"]
    return {
        "name": name,
        "threshold": threshold,
        **{key: round(share, 6) for key, (share, _) in found.items()},
        "intervals": _intervals(found),
        "counts": _counts(outcome, found),
    }


def _per_class(
    outcome: Outcome, classes: Sequence[str], sampled: dict[str, Any], limits: dict[str, Any]
) -> list[dict[str, Any]]:
    """Describe each class against the rest; nothing for two classes, where one says all of the other."""
    if len(classes) == 2:
        return []
    rows = []
    for place, name in enumerate(classes):
        proportions = _proportions(outcome, outcome.called == place, place)
        values = {key: share for key, (share, _) in proportions.items()}
        values |= {key: sampled[f"class_{key}"][place] for key in ("roc_auc", "pr_auc", "f1")}
        intervals = {
            key: limits[f"class_{key}"][place] for key in values if f"class_{key}" in limits
        }
        intervals |= _intervals(proportions)
        images, groups = _counts(outcome, proportions)["sensitivity"]
        rows.append(
            {
                "class": name,
                "n": images,
                "n_groups": groups,
                **{key: round(float(values[key]), 6) for key in _PER_CLASS},
                "intervals": {key: intervals[key] for key in _PER_CLASS if key in intervals},
            }
        )
    return rows
