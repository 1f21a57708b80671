import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, log_loss

from cnnClassifier.entity.bundle import apply_temperature, apply_threshold
from cnnClassifier.evaluation.calibration import (
    best_threshold,
    calibrate,
    fit_temperature,
    threshold_for_sensitivity,
)


def overconfident(count=4000, temperature=2.5):
    """Labels drawn from calibrated probabilities, and the same probabilities sharpened."""
    rng = np.random.default_rng(0)
    positive = rng.uniform(0.05, 0.95, count)
    labels = (rng.random(count) < positive).astype(int)
    return labels, apply_temperature(np.stack([1 - positive, positive], 1), 1 / temperature)


def test_temperature_keeps_the_order_and_the_sum():
    raw = np.array([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0]], np.float32)
    for temperature in (0.5, 1.0, 3.0):
        calibrated = apply_temperature(raw, temperature)
        assert calibrated.sum(1) == pytest.approx(1)
        assert np.array_equal(calibrated.argsort(1)[0], raw.argsort(1)[0])
    assert apply_temperature(raw, 1.0) == pytest.approx(raw, abs=1e-6)
    assert apply_temperature(raw, 2.0)[0, 0] < 0.7 < apply_temperature(raw, 0.5)[0, 0]


def test_temperature_corrects_overconfidence_and_never_sharpens():
    labels, sharpened = overconfident()
    temperature = fit_temperature(labels, sharpened)
    assert temperature == pytest.approx(2.5, rel=0.1)
    calibrated_loss = log_loss(labels, apply_temperature(sharpened, temperature))
    assert calibrated_loss < log_loss(labels, sharpened)
    no_errors = fit_temperature(np.array([0, 1]), np.array([[0.9, 0.1], [0.1, 0.9]]))
    assert no_errors == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("positive", "score", "low", "high"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], 0.49, 0.51),
        ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.9], 0.2, 0.5),
        ([0, 0, 1, 1], [0.1, 0.7, 0.95, 0.99], 0.5, 0.95),
        ([0, 1], [0.5, 0.5], 0.5, 0.5),
        ([0, 1], [0.0, 1.0], 0.5, 0.5),
    ],
)
def test_best_threshold_is_between_the_classes(positive, score, low, high):
    assert low <= best_threshold(np.array(positive, bool), np.array(score)) <= high


def test_one_outlier_changes_the_best_threshold_little():
    positive, score = np.arange(40) < 30, np.r_[np.full(30, 0.97), np.full(10, 0.05)]
    outlier = score.copy()
    outlier[0] = 0.06
    assert abs(best_threshold(positive, score) - best_threshold(positive, outlier)) < 0.1


def test_best_threshold_on_many_images_is_nearly_optimal():
    labels, probabilities = overconfident()
    score = probabilities[:, 1]

    def accuracy(threshold):
        return balanced_accuracy_score(labels, score >= threshold)

    best = max(map(accuracy, np.arange(0.01, 1, 0.01)))
    assert accuracy(best_threshold(labels == 1, score)) > best - 0.01


@pytest.mark.parametrize(
    ("sensitivity", "threshold"), [(1.0, 0.2), (0.75, 0.4), (0.7, 0.4), (0.5, 0.6), (0.25, 0.8)]
)
def test_threshold_for_sensitivity_is_the_highest_possible(sensitivity, threshold):
    positive, score = np.array([1, 1, 1, 1, 0, 0], bool), np.array([0.8, 0.6, 0.4, 0.2, 0.5, 0.1])
    found = threshold_for_sensitivity(positive, score, sensitivity)
    assert found == pytest.approx(threshold)
    assert (score[positive] >= found).mean() >= sensitivity


def test_the_threshold_applies_to_two_classes_only_and_is_inclusive():
    score = np.array([0.9, 0.5, 0.3])
    two_classes = np.stack([score, 1 - score], 1)
    assert apply_threshold(two_classes, 0, 0.5).tolist() == [0, 0, 1]
    assert apply_threshold(two_classes, 1, 0.5).tolist() == [0, 1, 1]
    assert apply_threshold(np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]), 1, 0.1).tolist() == [2, 0]


def test_an_operating_point_is_added_if_a_sensitivity_is_requested():
    labels, probabilities = overconfident(400)
    decision = calibrate(labels, probabilities, positive=1, min_sensitivity=0.95)
    points = decision["operating_points"]
    assert points.keys() == {"default", "sensitivity>=0.95"}
    assert points["sensitivity>=0.95"] < points["default"] == decision["threshold"]
    assert decision["calibration"]["loss_calibrated"] < decision["calibration"]["loss"]
    without = calibrate(labels, probabilities, 1, None)
    assert without["operating_points"].keys() == {"default"}
