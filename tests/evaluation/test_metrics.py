import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics

from cnnClassifier.entity.bundle import apply_threshold
from cnnClassifier.evaluation.metrics import NAMES, Outcome, figures, reliability, scores, wilson
from tests.outcomes import classes, outcome

POINTS = {"default": 0.4, "eager": 0.0, "never": 1.1}


def by_hand(labels, called, positive):
    """Counts for the positive class: true and false positives, false and true negatives."""
    flagged, ill = called == positive, labels == positive
    return (
        (flagged & ill).sum(),
        (flagged & ~ill).sum(),
        (~flagged & ill).sum(),
        (~flagged & ~ill).sum(),
    )


@pytest.mark.parametrize("swapped", [False, True])
def test_two_classes_have_the_textbooks_figures(swapped):
    made = outcome()
    tp, fp, fn, tn = (float(value) for value in by_hand(made.labels, made.called, 0))
    score, ill = made.probabilities[:, 0], made.labels == 0
    turned = Outcome.of(
        1 - made.labels, made.probabilities[:, ::-1], made.groups, 1, 0.4
    )  # the second is positive
    found = figures(turned if swapped else made)
    won = np.subtract.outer(score[ill], score[~ill])
    expected = {
        "loss": -np.log(made.probabilities[np.arange(120), made.labels]).mean(),
        "accuracy": (tp + tn) / 120,
        "balanced_accuracy": (tp / (tp + fn) + tn / (tn + fp)) / 2,
        "roc_auc": ((won > 0) + 0.5 * (won == 0)).mean(),
        "sensitivity": tp / (tp + fn),
        "specificity": tn / (tn + fp),
        "precision": tp / (tp + fp),
        "recall": tp / (tp + fn),
        "f1": 2 * tp / (2 * tp + fp + fn),
        "mcc": (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)),
        "brier": ((score - ill) ** 2).mean(),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert list(found) == list(NAMES)
    assert list(found)[:2] == ["loss", "accuracy"]


def test_more_classes_are_means_over_one_against_the_rest():
    made = outcome(3)
    found = scores(made, classes(3), POINTS, 100, 0)
    rows = found["per_class"]
    assert [row["class"] for row in rows] == list(classes(3))
    for place, row in enumerate(rows):
        tp, fp, fn, tn = by_hand(made.labels, made.called, place)
        assert row["n"] == tp + fn
        assert (row["sensitivity"], row["specificity"], row["precision"]) == pytest.approx(
            (tp / (tp + fn), tn / (tn + fp), tp / (tp + fp)), abs=1e-6
        )
        assert row["roc_auc"] == pytest.approx(
            metrics.roc_auc_score(made.labels == place, made.probabilities[:, place]), abs=1e-6
        )
        for name, (low, high) in row["intervals"].items():
            assert low <= row[name] <= high
        assert len(row["intervals"]) == 6
    for name in ("roc_auc", "pr_auc", "precision", "f1"):
        assert found[name] == pytest.approx(np.mean([row[name] for row in rows]), abs=1e-5)
    assert found["recall"] == pytest.approx(found["balanced_accuracy"])
    assert (found["sensitivity"], found["specificity"]) == (
        rows[0]["sensitivity"],
        rows[0]["specificity"],
    )


@pytest.mark.parametrize("count", [2, 3])
def test_every_figure_has_an_interval_and_counts_and_none_is_nan(count):
    made = outcome(count)
    found = scores(made, classes(count), POINTS, 100, 7)
    json.dumps(found, allow_nan=False)
    assert set(found["intervals"]) == set(found["counts"]) == set(NAMES)
    for name, (low, high) in found["intervals"].items():
        # The calibration error of resamples is biased upwards: they hold fewer different images.
        assert low <= found[name] <= high or (name == "ece" and low <= high), name
        assert low < high
    assert found["counts"]["roc_auc"] == [120, 40]
    ill = int((made.labels == 0).sum())
    assert found["counts"]["sensitivity"] == [ill, ill // 3]
    assert found["counts"]["specificity"] == [120 - ill, 40 - ill // 3]
    assert np.sum(found["confusion_matrix"]) == found["n"] == 120
    assert scores(made, classes(count), POINTS, 100, 7) == found
    assert scores(made, classes(count), POINTS, 100, 8)["intervals"] != found["intervals"]


def test_the_bootstrap_draws_groups_not_images():
    """Thrice the same images in the same groups tell no more; in groups of their own they seem to."""
    made = outcome(images=60, per_group=1)
    thrice = made.take(np.tile(np.arange(60), 3))
    apart = replace(thrice, groups=np.arange(180))

    def width(of):
        low, high = scores(of, classes(2), POINTS, 100, 0)["intervals"]["roc_auc"]
        return high - low

    assert width(thrice) == pytest.approx(width(made), rel=0.01)
    assert width(apart) < 0.75 * width(made)


def test_draws_without_a_class_are_skipped():
    made = Outcome.of(np.array([0, 1]), np.array([[0.8, 0.2], [0.3, 0.7]]), ["a", "b"], 0, 0.5)
    found = scores(made, classes(2), POINTS, 100, 0)
    assert found["intervals"]["roc_auc"] == [1.0, 1.0]
    assert found["intervals"]["sensitivity"] == wilson(1.0, 1)
    alone = replace(made, groups=np.zeros(2, int))
    assert scores(alone, classes(2), POINTS, 100, 0)["n_groups"] == 1


def test_operating_points():
    made = outcome()
    default, eager, never = scores(made, classes(2), POINTS, 100, 0)["operating_points"]
    assert (default["name"], default["sensitivity"]) == ("default", figures(made)["sensitivity"])
    assert (eager["sensitivity"], eager["specificity"]) == (1.0, 0.0)
    assert (never["sensitivity"], never["specificity"]) == (0.0, 1.0)
    assert "precision" in eager["intervals"]
    assert "precision" not in never["intervals"], "of no called image there is no share"
    most_probable = scores(outcome(3), classes(3), POINTS, 100, 0)
    assert most_probable["operating_points"][0]["sensitivity"] == most_probable["sensitivity"]
    assert most_probable["operating_points"][1]["sensitivity"] == 1.0


def test_the_threshold_counts_for_two_classes_alone_and_includes_itself():
    ill = np.array([0.9, 0.5, 0.3])
    two = np.stack([ill, 1 - ill], 1)
    assert apply_threshold(two, 0, 0.5).tolist() == [0, 0, 1]
    assert apply_threshold(two, 1, 0.5).tolist() == [0, 1, 1]
    assert apply_threshold(np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]), 1, 0.1).tolist() == [2, 0]


@pytest.mark.parametrize(
    ("share", "count", "expected"),
    [
        (0.5, 10, [0.2366, 0.7634]),
        (1.0, 40, [0.9124, 1.0]),
        (0.0, 40, [0.0, 0.0876]),
        (0.0, 0, None),
    ],
)
def test_wilson(share, count, expected):
    assert wilson(share, count) == expected


def test_reliability_and_its_error():
    """Of ten images called at 0.75 six are right, and of ten at 0.95 all ten."""
    confidence = np.repeat([0.75, 0.95], 10)
    labels = np.array([0] * 6 + [1] * 4 + [0] * 10)
    made = Outcome.of(
        labels, np.stack([confidence, 1 - confidence], 1), [str(n) for n in range(20)], 0, 0.5
    )
    low, high = reliability(made)
    assert (low["confidence"], low["accuracy"], low["n"]) == (0.75, 0.6, 10)
    assert [low["low"], low["high"]] == wilson(0.6, 10)
    assert (high["confidence"], high["accuracy"], high["n"]) == (0.95, 1.0, 10)
    assert figures(made)["ece"] == pytest.approx((0.15 + 0.05) / 2)
    certain = Outcome.of(np.array([0, 1]), np.eye(2), ["a", "b"], 0, 0.5)
    assert [row["n"] for row in reliability(certain)] == [2], (
        "a confidence of 1 belongs to the last bin"
    )


def test_float32_rows_that_miss_one_are_taken():
    probabilities = np.array([[0.1, 0.9], [0.7, 0.3]], np.float32) * np.float32(1.0000005)
    made = Outcome.of(np.array([1, 0]), probabilities, ["a", "b"], 0, 0.5)
    assert made.probabilities.sum(1) == pytest.approx([1, 1], abs=1e-15)
