import numpy as np
import pytest
from sklearn.metrics import log_loss

from cnnClassifier.assessment.calibration import (
    best_threshold,
    decide_on_validation,
    fit_temperature,
    threshold_for_sensitivity,
)
from cnnClassifier.entity.bundle import temper


def overconfident(count=4000, temperature=2.5):
    """Labels drawn from honest probabilities, and the same probabilities sharpened."""
    rng = np.random.default_rng(0)
    honest = rng.uniform(0.05, 0.95, count)
    labels = (rng.random(count) < honest).astype(int)
    return labels, temper(np.stack([1 - honest, honest], 1), 1 / temperature)


def test_temper_keeps_the_order_and_sums_to_one():
    raw = np.array([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0]], np.float32)
    for temperature in (0.5, 1.0, 3.0):
        soft = temper(raw, temperature)
        assert soft.sum(1) == pytest.approx(1)
        assert np.array_equal(soft.argsort(1)[0], raw.argsort(1)[0])
    assert temper(raw, 1.0) == pytest.approx(raw, abs=1e-6)
    assert temper(raw, 2.0)[0, 0] < 0.7 < temper(raw, 0.5)[0, 0]


def test_temperature_undoes_overconfidence():
    labels, sharp = overconfident()
    found = fit_temperature(labels, sharp)
    assert found == pytest.approx(2.5, rel=0.1)
    assert log_loss(labels, temper(sharp, found)) < log_loss(labels, sharp)


def test_temperature_stays_in_bounds_for_a_perfect_split():
    assert fit_temperature(np.array([0, 1]), np.array([[0.9, 0.1], [0.1, 0.9]])) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize(
    ("positive", "score", "threshold"),
    [
        ([0, 0, 1, 1], [0.1, 0.4, 0.6, 0.9], 0.5),  # 0.5 is among the best: it stays
        ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.9], 0.25),
        ([0, 0, 1, 1], [0.1, 0.7, 0.8, 0.9], 0.75),
        ([0, 1], [0.5, 0.5], 0.5),
    ],
)
def test_best_threshold_is_the_nearest_to_a_half_among_equals(positive, score, threshold):
    assert best_threshold(np.array(positive, bool), np.array(score)) == pytest.approx(threshold)


@pytest.mark.parametrize(("wanted", "threshold"), [(1.0, 0.2), (0.75, 0.4), (0.7, 0.4), (0.5, 0.6), (0.25, 0.8)])
def test_threshold_for_sensitivity_is_the_highest_that_has_it(wanted, threshold):
    positive, score = np.array([1, 1, 1, 1, 0, 0], bool), np.array([0.8, 0.6, 0.4, 0.2, 0.5, 0.1])
    found = threshold_for_sensitivity(positive, score, wanted)
    assert found == pytest.approx(threshold)
    assert (score[positive] >= found).mean() >= wanted


def test_decision_holds_an_operating_point_where_asked():
    labels, sharp = overconfident(400)
    decision = decide_on_validation(labels, sharp, positive=1, min_sensitivity=0.95)
    assert decision["operating_points"].keys() == {"default", "sensitivity>=0.95"}
    assert decision["threshold"] == decision["operating_points"]["default"]
    assert decision["operating_points"]["sensitivity>=0.95"] < decision["threshold"]
    assert decision["validation"]["loss_calibrated"] < decision["validation"]["loss"]
    assert decide_on_validation(labels, sharp, 1, None)["operating_points"].keys() == {"default"}
