import numpy as np
import pytest

from cnnClassifier.evaluation.cross_validation import (
    baseline_note,
    compare_with_baseline,
    heads_note,
    reliability_note,
)
from cnnClassifier.evaluation.metrics import compute_scores
from cnnClassifier.evaluation.scores import METRIC_LABELS
from tests.labeled_predictions import class_names, cross_validation, random_predictions


@pytest.mark.parametrize("count", [2, 3])
def test_both_have_the_metrics_of_their_own_predictions(count):
    model, baseline = random_predictions(count), random_predictions(count, skill=0.5)
    found = compare_with_baseline(model, baseline, 40, 1)
    assert (found["n"], found["n_groups"]) == (120, 40)
    assert found["min_class_groups"] == 40 // count
    for source, predictions in ((found, model), (found["baseline"], baseline)):
        scores = compute_scores(predictions, class_names(count), {}, 40, 1)
        assert source["metrics"] == {name: scores[name] for name in METRIC_LABELS}
        assert source["intervals"] == scores["intervals"]
    difference = found["loss_difference"]
    expected = found["metrics"]["loss"] - found["baseline"]["metrics"]["loss"]
    assert difference["value"] == pytest.approx(expected, abs=1e-6)
    assert difference["low"] <= difference["value"] <= difference["high"] < 0
    assert difference["better"]
    assert baseline_note(found).startswith("The model is significantly better")


def test_a_model_is_not_better_than_itself():
    predictions = random_predictions()
    found = compare_with_baseline(predictions, predictions, 40, 1)
    assert not found["loss_difference"]["better"]
    expected = "not significantly better than its baseline: log loss +0.000, 95% interval +0.000"
    assert expected in baseline_note(found)
    unknown = {"value": 0.0, "low": None, "high": None, "better": False}
    assert "too few groups" in baseline_note({"loss_difference": unknown})


@pytest.mark.parametrize(
    ("test_groups", "expected"),
    [
        (None, "There is no test split."),
        (3, "The cross-validated metrics are more reliable"),
        (19, "The cross-validated metrics are more reliable"),
        (20, "The test split's metrics are more reliable"),
    ],
)
def test_few_groups_in_the_test_split_make_cross_validation_more_reliable(test_groups, expected):
    found = {"min_class_groups": 50, "fixed_validation_split": False}
    note = reliability_note(test_groups, found)
    assert note.startswith(expected)
    assert ("a little too good" in note) == (test_groups != 20)
    few = found | {"min_class_groups": 2}
    assert test_groups is None or "The test split's" in reliability_note(test_groups, few)


def test_the_weights_are_named():
    predictions = random_predictions(images=12, per_group=1)
    found = cross_validation(predictions, predictions)
    assert heads_note(found) == "local (conv_max) 0.6, linear 0.4; 3 heads each"
    found |= {"weights": {"linear": np.float64(1.0)}, "heads": 1}
    assert heads_note(found) == "linear 1; 1 head each"
