"""Choose temperature and thresholds on predictions for images that the heads haven't seen."""

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit, ndtr
from sklearn import metrics

from cnnClassifier.entity.bundle import apply_temperature

_LOGIT_GRID = np.linspace(-8, 8, 641)
_MIN_BANDWIDTH = 0.5  # in log odds: a handful of images may have almost equal scores


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Find the temperature from 1 to 10 with the smallest log loss (Guo et al. 2017).

    It never sharpens: few images without errors would ask for probabilities of 1, and the first
    error on the test split would have an infinite loss.

    Args:
        labels: int, (n,).
        probabilities: float, (n, classes), of heads that haven't seen the images.
    """
    columns = np.arange(probabilities.shape[1])

    def loss(log_temperature: float) -> float:
        calibrated = apply_temperature(probabilities, np.exp(log_temperature))
        return float(metrics.log_loss(labels, calibrated, labels=columns))

    bounds = (0.0, np.log(10))
    result = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    return round(float(np.exp(result.x)), 4)


def best_threshold(is_positive: np.ndarray, score: np.ndarray) -> float:
    """Find the threshold with the best smoothed balanced accuracy; of equal ones that nearest 0.5.

    The exact optimum on a few dozen images depends on single images. Here each image is a Gaussian
    around its log odds, with Silverman's bandwidth for each class (kernel estimate of the Youden
    index, Fluss, Faraggi & Reiser 2005).

    Args:
        is_positive: bool, (n,), both values present.
        score: probability of the positive class, (n,).
    """
    log_odds = logit(np.clip(score, 1e-6, 1 - 1e-6))
    positive, negative = log_odds[is_positive], log_odds[~is_positive]
    positive_width, negative_width = _bandwidth(positive), _bandwidth(negative)
    youden = np.empty(len(_LOGIT_GRID))
    for index, threshold in enumerate(_LOGIT_GRID):  # one by one: memory stays small
        sensitivity = ndtr((positive - threshold) / positive_width).mean()
        specificity = ndtr((threshold - negative) / negative_width).mean()
        youden[index] = sensitivity + specificity
    best = _LOGIT_GRID[youden >= youden.max() - 1e-9]
    return round(float(expit(best[np.abs(best).argmin()])), 4)


def _bandwidth(values: np.ndarray) -> float:
    """Return Silverman's bandwidth, at least `_MIN_BANDWIDTH`."""
    quartile_range = np.subtract(*np.percentile(values, [75, 25])) / 1.34
    scale = min(float(values.std()), float(quartile_range))
    return max(_MIN_BANDWIDTH, 0.9 * scale * len(values) ** -0.2)


def threshold_for_sensitivity(
    is_positive: np.ndarray, score: np.ndarray, sensitivity: float
) -> float:
    """Find the highest threshold with at least a required sensitivity.

    Args:
        is_positive: bool, (n,), with at least one positive.
        score: probability of the positive class, (n,).
        sensitivity: above 0, at most 1.
    """
    scores = np.sort(score[is_positive])[::-1]
    required = int(np.ceil(sensitivity * len(scores) - 1e-9))
    return float(np.floor(scores[required - 1] * 1e4) / 1e4)


def calibrate(
    labels: np.ndarray,
    probabilities: np.ndarray,
    positive: int | None,
    min_sensitivity: float | None,
) -> dict[str, Any]:
    """Choose temperature, threshold and operating points, as the bundle stores them.

    Args:
        labels: int, (n,).
        probabilities: float, (n, classes), uncalibrated, by heads that haven't seen them.
        positive: index of the positive class; None: no thresholds.
        min_sensitivity: adds an operating point with this sensitivity; None: no such point.
    """
    temperature = fit_temperature(labels, probabilities)
    calibrated = apply_temperature(probabilities, temperature)
    points = {}
    if positive is not None:
        is_positive, score = labels == positive, calibrated[:, positive]
        if probabilities.shape[1] == 2:
            points["default"] = best_threshold(is_positive, score)
        if min_sensitivity is not None:
            threshold = threshold_for_sensitivity(is_positive, score, min_sensitivity)
            points[f"sensitivity>={min_sensitivity:g}"] = threshold
    columns = np.arange(probabilities.shape[1])
    loss = metrics.log_loss(labels, apply_temperature(probabilities, 1.0), labels=columns)
    calibrated_loss = metrics.log_loss(labels, calibrated, labels=columns)
    return {
        "temperature": temperature,
        "threshold": points.get("default"),
        "operating_points": points,
        "calibration": {
            "n": len(labels),
            "loss": round(float(loss), 6),
            "loss_calibrated": round(float(calibrated_loss), 6),
        },
    }
