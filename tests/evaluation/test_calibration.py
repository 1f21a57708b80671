import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, log_loss

from cnnClassifier.entity.bundle import apply_temperature
from cnnClassifier.evaluation.calibration import (
    best_threshold,
    calibrate,
    fit_temperature,
    threshold_for_sensitivity,
)


def overconfident(count=4000, temperature=2.5):
    """Labels drawn from honest probabilities, and the same probabilities sharpened."""
    rng = np.random.default_rng(0)
    honest = rng.uniform(0.05, 0.95, count)
    labels = (rng.random(count) < honest).astype(int)
    return labels, apply_temperature(np.stack([1 - honest, honest], 1), 1 / temperature)


def test_temper_keeps_the_order_and_sums_to_one():
    raw = np.array([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0]], np.float32)
    for temperature in (0.5, 1.0, 3.0):
        soft = apply_temperature(raw, temperature)
        assert soft.sum(1) == pytest.approx(1)
        assert np.array_equal(soft.argsort(1)[0], raw.argsort(1)[0])
    assert apply_temperature(raw, 1.0) == pytest.approx(raw, abs=1e-6)
    assert apply_temperature(raw, 2.0)[0, 0] < 0.7 < apply_temperature(raw, 0.5)[0, 0]


def test_temperature_undoes_overconfidence():
    labels, sharp = overconfident()
    found = fit_temperature(labels, sharp)
    assert found == pytest.approx(2.5, rel=0.1)
    assert log_loss(labels, apply_temperature(sharp, found)) < log_loss(labels, sharp)


def test_temperature_never_sharpens():
    assert fit_temperature(np.array([0, 1]), np.array([[0.9, 0.1], [0.1, 0.9]])) == pytest.approx(
        1, abs=0.01
    )


@pytest.mark.parametrize(
    ("positive", "score", "low", "high"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], 0.49, 0.51),  # as far from one class as from the other
        ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.9], 0.2, 0.5),
        ([0, 0, 1, 1], [0.1, 0.7, 0.95, 0.99], 0.5, 0.95),
        ([0, 1], [0.5, 0.5], 0.5, 0.5),
        ([0, 1], [0.0, 1.0], 0.5, 0.5),
    ],
)
def test_best_threshold_lies_between_the_classes(positive, score, low, high):
    assert low <= best_threshold(np.array(positive, bool), np.array(score)) <= high


def test_one_odd_image_moves_the_best_threshold_little():
    positive, score = np.arange(40) < 30, np.r_[np.full(30, 0.97), np.full(10, 0.05)]
    odd = score.copy()
    odd[0] = 0.06
    assert abs(best_threshold(positive, score) - best_threshold(positive, odd)) < 0.1


def test_best_threshold_of_many_images_is_nearly_the_best_there_is():
    labels, sharp = overconfident()
    found = best_threshold(labels == 1, sharp[:, 1])
    reached, best = (
        balanced_accuracy_score(labels, sharp[:, 1] >= value)
        for value in (
            found,
            max(
                np.arange(0.01, 1, 0.01),
                key=lambda t: balanced_accuracy_score(labels, sharp[:, 1] >= t),
            ),
        )
    )
    assert reached > best - 0.01


@pytest.mark.parametrize(
    ("wanted", "threshold"), [(1.0, 0.2), (0.75, 0.4), (0.7, 0.4), (0.5, 0.6), (0.25, 0.8)]
)
def test_threshold_for_sensitivity_is_the_highest_that_has_it(wanted, threshold):
    positive, score = np.array([1, 1, 1, 1, 0, 0], bool), np.array([0.8, 0.6, 0.4, 0.2, 0.5, 0.1])
    found = threshold_for_sensitivity(positive, score, wanted)
    assert found == pytest.approx(threshold)
    assert (score[positive] >= found).mean() >= wanted


def test_decision_holds_an_operating_point_where_asked():
    labels, sharp = overconfident(400)
    decision = calibrate(labels, sharp, positive=1, min_sensitivity=0.95)
    assert decision["operating_points"].keys() == {"default", "sensitivity>=0.95"}
    assert decision["threshold"] == decision["operating_points"]["default"]
    assert decision["operating_points"]["sensitivity>=0.95"] < decision["threshold"]
    assert decision["validation"]["loss_calibrated"] < decision["validation"]["loss"]
    assert calibrate(labels, sharp, 1, None)["operating_points"].keys() == {"default"}
