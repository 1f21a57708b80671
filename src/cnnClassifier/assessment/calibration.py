"""Fix temperature and thresholds on the validation split."""

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn import metrics

from cnnClassifier.entity.bundle import temper


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the temperature that gives the least log loss (Guo et al. 2017), between 0.25 and 10.

    A model that makes no error on the validation split looks best at the least temperature; below 1 it is only
    sharpened as far as the bound.

    Args:
        labels: int, (n,).
        probabilities: float, (n, classes), of the validation split.
    """
    columns = np.arange(probabilities.shape[1])

    def loss(log_temperature: float) -> float:
        return float(metrics.log_loss(labels, temper(probabilities, np.exp(log_temperature)), labels=columns))

    found = minimize_scalar(loss, bounds=(np.log(0.25), np.log(10)), method="bounded", options={"xatol": 1e-4})
    return round(float(np.exp(found.x)), 4)


def best_threshold(is_positive: np.ndarray, score: np.ndarray) -> float:
    """Return the threshold with the best balanced accuracy; of equally good ones the one nearest to 0.5.

    Args:
        is_positive: bool, (n,).
        score: probability of the positive class, (n,).
    """
    values = np.unique(score)
    candidates = np.unique(np.concatenate([[0.5], (values[:-1] + values[1:]) / 2])).round(4)
    worth = [round(float(metrics.balanced_accuracy_score(is_positive, score >= value)), 9) for value in candidates]
    best = candidates[np.array(worth) == max(worth)]
    return float(best[np.abs(best - 0.5).argmin()])


def threshold_for_sensitivity(is_positive: np.ndarray, score: np.ndarray, sensitivity: float) -> float:
    """Return the highest threshold at which at least that share of the positives is called.

    Args:
        is_positive: bool, (n,), with at least one positive.
        score: probability of the positive class, (n,).
        sensitivity: above 0, at most 1.
    """
    positives = np.sort(score[is_positive])[::-1]
    needed = int(np.ceil(sensitivity * len(positives) - 1e-9))
    return float(np.floor(positives[needed - 1] * 1e4) / 1e4)


def decide_on_validation(
    labels: np.ndarray, probabilities: np.ndarray, positive: int, min_sensitivity: float | None
) -> dict[str, Any]:
    """Fix temperature, threshold and operating points on the validation split, as the bundle holds them."""
    temperature = fit_temperature(labels, probabilities)
    calibrated = temper(probabilities, temperature)
    columns = np.arange(probabilities.shape[1])
    is_positive, score = labels == positive, calibrated[:, positive]
    points = {"default": best_threshold(is_positive, score)}
    if min_sensitivity is not None:
        points[f"sensitivity>={min_sensitivity:g}"] = threshold_for_sensitivity(is_positive, score, min_sensitivity)
    return {
        "temperature": temperature,
        "threshold": points["default"],
        "operating_points": points,
        "validation": {
            "n": len(labels),
            "loss": round(float(metrics.log_loss(labels, temper(probabilities, 1.0), labels=columns)), 6),
            "loss_calibrated": round(float(metrics.log_loss(labels, calibrated, labels=columns)), 6),
        },
    }
