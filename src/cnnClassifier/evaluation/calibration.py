"""Fix temperature and thresholds on the validation split."""

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit, ndtr
from sklearn import metrics

from cnnClassifier.entity.bundle import apply_temperature


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the temperature from 1 to 10 that gives the least log loss (Guo et al. 2017).

    It never sharpens: a small validation split without an error would ask for certainty, and the first error on the
    test split would be infinitely wrong.

    Args:
        labels: int, (n,).
        probabilities: float, (n, classes), of the validation split.
    """
    columns = np.arange(probabilities.shape[1])

    def loss(log_temperature: float) -> float:
        return float(
            metrics.log_loss(
                labels, apply_temperature(probabilities, np.exp(log_temperature)), labels=columns
            )
        )

    found = minimize_scalar(
        loss, bounds=(0.0, np.log(10)), method="bounded", options={"xatol": 1e-4}
    )
    return round(float(np.exp(found.x)), 4)


def best_threshold(is_positive: np.ndarray, score: np.ndarray) -> float:
    """Return the threshold with the best smoothed balanced accuracy; of equally good ones the one nearest to 0.5.

    The exact optimum of a few dozen images lies wherever one of them happens to lie. Here each image's log odds stand
    for a Gaussian about them (kernel estimate of the Youden index, Fluss, Faraggi & Reiser 2005), for each class as
    wide as Silverman's rule says.

    Args:
        is_positive: bool, (n,), both classes present.
        score: probability of the positive class, (n,).
    """
    odds = logit(np.clip(score, 1e-6, 1 - 1e-6))
    positives, negatives = odds[is_positive], odds[~is_positive]
    wide, narrow = _bandwidth(positives), _bandwidth(negatives)
    places = np.linspace(-8, 8, 641)
    worth = np.array(
        [
            ndtr((positives - t) / wide).mean() + ndtr((t - negatives) / narrow).mean()
            for t in places
        ]
    )
    best = places[worth >= worth.max() - 1e-9]
    return round(float(expit(best[np.abs(best).argmin()])), 4)


def _bandwidth(values: np.ndarray) -> float:
    """Return Silverman's bandwidth, at least half a unit of log odds: a handful of images may all but agree."""
    quartiles = np.subtract(*np.percentile(values, [75, 25])) / 1.34
    return max(0.5, 0.9 * min(float(values.std()), float(quartiles)) * len(values) ** -0.2)


def threshold_for_sensitivity(
    is_positive: np.ndarray, score: np.ndarray, sensitivity: float
) -> float:
    """Return the highest threshold at which at least that share of the positives is called.

    Args:
        is_positive: bool, (n,), with at least one positive.
        score: probability of the positive class, (n,).
        sensitivity: above 0, at most 1.
    """
    positives = np.sort(score[is_positive])[::-1]
    needed = int(np.ceil(sensitivity * len(positives) - 1e-9))
    return float(np.floor(positives[needed - 1] * 1e4) / 1e4)


def calibrate(
    labels: np.ndarray, probabilities: np.ndarray, positive: int, min_sensitivity: float | None
) -> dict[str, Any]:
    """Fix temperature, threshold and operating points on the validation split, as the bundle holds them."""
    temperature = fit_temperature(labels, probabilities)
    calibrated = apply_temperature(probabilities, temperature)
    columns = np.arange(probabilities.shape[1])
    is_positive, score = labels == positive, calibrated[:, positive]
    points = {"default": best_threshold(is_positive, score)}
    if min_sensitivity is not None:
        points[f"sensitivity>={min_sensitivity:g}"] = threshold_for_sensitivity(
            is_positive, score, min_sensitivity
        )
    return {
        "temperature": temperature,
        "threshold": points["default"],
        "operating_points": points,
        "validation": {
            "n": len(labels),
            "loss": round(
                float(
                    metrics.log_loss(labels, apply_temperature(probabilities, 1.0), labels=columns)
                ),
                6,
            ),
            "loss_calibrated": round(
                float(metrics.log_loss(labels, calibrated, labels=columns)), 6
            ),
        },
    }
