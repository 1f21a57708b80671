import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics

from benchmarks.interval_coverage import coverage
from cnnClassifier.evaluation.metrics import (
    LabeledPredictions,
    calibration_curve,
    compute_metrics,
    compute_scores,
    curves,
    proportion_interval,
)
from cnnClassifier.evaluation.scores import METRIC_LABELS
from tests.labeled_predictions import class_names, labeled, random_predictions

POINTS = {"default": 0.4, "all": 0.0, "none": 1.1}


def confusion_counts(predictions, index):
    """True and false positives, false and true negatives of a class."""
    predicted, actual = predictions.predicted == index, predictions.labels == index
    return (
        float((predicted & actual).sum()),
        float((predicted & ~actual).sum()),
        float((~predicted & actual).sum()),
        float((~predicted & ~actual).sum()),
    )


@pytest.mark.parametrize("positive", [0, 1])
def test_two_classes_have_the_metrics_of_the_textbook(positive):
    predictions = random_predictions()
    tp, fp, fn, tn = confusion_counts(predictions, 0)
    score, actual = predictions.probabilities[:, 0], predictions.labels == 0
    pairs = np.subtract.outer(score[actual], score[~actual])
    expected = {
        "loss": -np.log(predictions.probabilities[np.arange(120), predictions.labels]).mean(),
        "accuracy": (tp + tn) / 120,
        "balanced_accuracy": (tp / (tp + fn) + tn / (tn + fp)) / 2,
        "roc_auc": ((pairs > 0) + 0.5 * (pairs == 0)).mean(),
        "sensitivity": tp / (tp + fn),
        "specificity": tn / (tn + fp),
        "precision": tp / (tp + fp),
        "recall": tp / (tp + fn),
        "f1": 2 * tp / (2 * tp + fp + fn),
        "mcc": (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)),
        "brier": ((score - actual) ** 2).mean(),
    }
    if positive == 1:  # the same predictions with the classes in reverse order
        reversed_columns = predictions.probabilities[:, ::-1]
        predictions = labeled(1 - predictions.labels, reversed_columns, predictions.groups, 1, 0.4)
    found = compute_metrics(predictions)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert list(found) == list(METRIC_LABELS)
    assert list(found)[:2] == ["loss", "accuracy"]


def test_a_class_that_is_never_predicted_counts_as_scikit_learn_counts_it():
    predictions = random_predictions(3)
    predicted = np.where(predictions.predicted == 2, 1, predictions.predicted)
    predictions = replace(predictions, predicted=predicted)
    labels, found = predictions.labels, compute_metrics(predictions)
    expected = metrics.precision_recall_fscore_support(
        labels, predicted, average="macro", zero_division=0
    )
    assert [found[name] for name in ("precision", "recall", "f1")] == pytest.approx(
        expected[:3], abs=1e-6
    )
    assert found["mcc"] == pytest.approx(metrics.matthews_corrcoef(labels, predicted), abs=1e-6)
    balanced = metrics.balanced_accuracy_score(labels, predicted)
    assert found["balanced_accuracy"] == pytest.approx(balanced, abs=1e-6)


def test_more_classes_are_means_over_one_against_the_rest():
    predictions = random_predictions(3)
    scores = compute_scores(predictions, class_names(3), POINTS, 100, 0)
    rows = scores["per_class"]
    assert [row["class"] for row in rows] == list(class_names(3))
    for index, row in enumerate(rows):
        tp, fp, fn, tn = confusion_counts(predictions, index)
        auc = metrics.roc_auc_score(
            predictions.labels == index, predictions.probabilities[:, index]
        )
        assert row["n"] == tp + fn
        found = (row["sensitivity"], row["specificity"], row["precision"], row["roc_auc"])
        expected = (tp / (tp + fn), tn / (tn + fp), tp / (tp + fp), auc)
        assert found == pytest.approx(expected, abs=1e-6)
        assert len(row["intervals"]) == 6
        for name, (low, high) in row["intervals"].items():
            assert low <= row[name] <= high
    for name in ("roc_auc", "pr_auc", "precision", "f1"):
        assert scores[name] == pytest.approx(np.mean([row[name] for row in rows]), abs=1e-5)
    assert scores["recall"] == pytest.approx(scores["balanced_accuracy"])
    for name in ("sensitivity", "specificity"):
        assert scores[name] == rows[0][name]


@pytest.mark.parametrize("count", [2, 3])
def test_every_metric_has_an_interval_and_counts_and_none_is_nan(count):
    predictions = random_predictions(count)
    scores = compute_scores(predictions, class_names(count), POINTS, 100, 7)
    json.dumps(scores, allow_nan=False)
    assert set(scores["intervals"]) == set(scores["counts"]) == set(METRIC_LABELS)
    for name, (low, high) in scores["intervals"].items():
        # ECE is biased upwards on bootstrap samples: they have fewer different images.
        assert low <= scores[name] <= high or (name == "ece" and low <= high), name
        assert low < high
    positives = int((predictions.labels == 0).sum())
    assert scores["counts"]["roc_auc"] == [120, 40]
    assert scores["counts"]["sensitivity"] == [positives, positives // 3]
    assert scores["counts"]["specificity"] == [120 - positives, 40 - positives // 3]
    assert np.sum(scores["confusion_matrix"]) == scores["n"] == 120
    assert compute_scores(predictions, class_names(count), POINTS, 100, 7) == scores
    other_seed = compute_scores(predictions, class_names(count), POINTS, 100, 8)
    assert other_seed["intervals"] != scores["intervals"]


def test_the_bootstrap_resamples_groups():
    """Copies within a group leave the interval as it is; copies in other groups make it narrow."""
    predictions = random_predictions(images=60, per_group=1)
    copies = predictions.take(np.tile(np.arange(60), 3))
    widths = []
    for sample in (predictions, copies, replace(copies, groups=np.arange(180))):
        low, high = compute_scores(sample, class_names(2), POINTS, 100, 0)["intervals"]["roc_auc"]
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0], rel=0.01)
    assert widths[2] < 0.75 * widths[0]


def test_bootstrap_samples_that_lack_a_class_are_skipped():
    predictions = labeled(np.array([0, 1]), np.array([[0.8, 0.2], [0.3, 0.7]]), ["a", "b"])
    scores = compute_scores(predictions, class_names(2), POINTS, 100, 0)
    assert scores["intervals"]["roc_auc"] == [1.0, 1.0]
    assert "sensitivity" not in scores["intervals"], "a single group"
    one_group = replace(predictions, groups=np.zeros(2, int))
    scores = compute_scores(one_group, class_names(2), POINTS, 100, 0)
    assert (scores["n_groups"], scores["intervals"]) == (1, {})


def test_operating_points():
    predictions = random_predictions()
    points = compute_scores(predictions, class_names(2), POINTS, 100, 0)["operating_points"]
    default, everything, nothing = points
    assert default["name"] == "default"
    assert default["sensitivity"] == compute_metrics(predictions)["sensitivity"]
    assert (everything["sensitivity"], everything["specificity"]) == (1.0, 0.0)
    assert (nothing["sensitivity"], nothing["specificity"]) == (0.0, 1.0)
    assert "precision" in everything["intervals"]
    assert "precision" not in nothing["intervals"], "a fraction of no image"


def test_more_than_two_classes_need_no_positive_one():
    predictions = replace(random_predictions(3), positive=None)
    scores = compute_scores(predictions, class_names(3), {}, 100, 0)
    assert (scores["positive_class"], scores["operating_points"]) == (None, [])
    assert {"sensitivity", "specificity"}.isdisjoint(scores)
    assert (
        scores["roc_auc"]
        == compute_scores(random_predictions(3), class_names(3), {}, 100, 0)["roc_auc"]
    )
    roc, _ = curves(predictions)  # the micro-average
    truth = np.eye(3)[predictions.labels]
    expected = metrics.roc_auc_score(truth, predictions.probabilities, average="micro")
    assert metrics.auc(roc["fpr"], roc["tpr"]) == pytest.approx(expected)


@pytest.mark.parametrize("successes", [0, 1, 7, 20])
def test_the_interval_of_independent_images_is_that_of_clopper_and_pearson(successes):
    """So is that of groups whose images are all copies of one."""
    hits, groups = np.arange(20) < successes, np.arange(20)
    expected = list(binomtest(successes, 20).proportion_ci(0.95, method="exact"))
    for copies in (1, 6):
        interval = proportion_interval(np.repeat(hits, copies), np.repeat(groups, copies))
        assert interval == pytest.approx(expected, abs=1e-4)


def test_a_single_group_has_no_interval():
    assert proportion_interval(np.array([True, False]), np.array([3, 3])) is None
    assert proportion_interval(np.array([], bool), np.array([], int)) is None


def test_groups_that_agree_by_chance_have_an_interval_no_narrower_than_independent_images():
    """Each group has one hit of two images."""
    hits, groups = np.arange(20) % 2 == 0, np.arange(20) // 2
    assert proportion_interval(hits, groups) == proportion_interval(hits, np.arange(20))


@pytest.mark.parametrize("true_value", [0.7, 0.9, 0.98])
def test_the_interval_contains_the_true_value_with_correlated_images(true_value, record_property):
    found = {}
    for group_count in (4, 10, 20, 40):
        found[group_count], width = coverage(true_value, 0.3, group_count, 12, repetitions=500)
        assert 0 < width < 1
    record_property("coverage", found)
    assert min(found[10], found[20], found[40]) >= 0.90
    ignored, _ = coverage(true_value, 0.3, 20, 12, repetitions=500, respect_groups=False)
    assert ignored < found[20], "groups are ignored"


def test_calibration_curve_and_expected_calibration_error():
    """Six of ten images with a confidence of 0.75 are right, and all ten with 0.95."""
    confidence = np.repeat([0.75, 0.95], 10)
    labels = np.array([0] * 6 + [1] * 4 + [0] * 10)
    predictions = labeled(labels, np.stack([confidence, 1 - confidence], 1), np.arange(20))
    low, high = calibration_curve(predictions).to_dict("records")
    assert (low["confidence"], low["accuracy"], low["n"]) == (0.75, 0.6, 10)
    assert [low["low"], low["high"]] == pytest.approx([0.2624, 0.8784], abs=1e-4)
    assert (high["confidence"], high["accuracy"], high["n"]) == (0.95, 1.0, 10)
    assert compute_metrics(predictions)["ece"] == pytest.approx((0.15 + 0.05) / 2)
    certain = labeled(np.array([0, 1]), np.eye(2), ["a", "b"])
    assert calibration_curve(certain)["n"].tolist() == [2], "1.0 belongs to the last bin"
    one_group = calibration_curve(replace(certain, groups=np.zeros(2, int)))
    assert one_group["low"].isna().all()


def test_float32_rows_are_normalized():
    probabilities = np.array([[0.1, 0.9], [0.7, 0.3]], np.float32) * np.float32(1.0000005)
    predictions = LabeledPredictions.create(
        np.array([1, 0]), probabilities, np.array([1, 0]), ["a", "b"], 0
    )
    assert predictions.probabilities.sum(1) == pytest.approx([1, 1], abs=1e-15)
