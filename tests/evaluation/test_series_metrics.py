import numpy as np
import pytest

from cnnClassifier.entity.bundle import pool_probabilities
from cnnClassifier.evaluation.metrics import compute_metrics
from cnnClassifier.evaluation.series_metrics import series_scores
from tests.labeled_predictions import labeled, random_predictions


def test_two_classes_are_pooled_by_the_mean_of_the_log_odds():
    positive = np.array([0.9, 0.2, 0.6, 0.5, 0.999])
    probabilities = np.stack([1 - positive, positive], axis=1)
    names, pooled = pool_probabilities(probabilities, ["b", "a", "b", "a", "c"])
    log_odds = np.log(positive / (1 - positive))
    expected = [log_odds[[1, 3]].mean(), log_odds[[0, 2]].mean(), log_odds[4]]
    assert names.tolist() == ["a", "b", "c"]
    assert np.log(pooled[:, 1] / pooled[:, 0]) == pytest.approx(expected)
    assert pooled.sum(axis=1) == pytest.approx(1)


def test_more_classes_are_pooled_by_the_mean_of_their_log_probabilities():
    probabilities = np.array([[0.8, 0.1, 0.1], [0.2, 0.4, 0.4], [0.0, 1.0, 0.0]])
    _, (pooled, certain) = pool_probabilities(probabilities, [1, 1, 2])
    geometric = np.sqrt(probabilities[0] * probabilities[1])
    assert pooled == pytest.approx(geometric / geometric.sum())
    assert certain[1] == pytest.approx(1), "a probability of 0 is no error"


@pytest.mark.parametrize("count", [2, 3])
def test_many_images_of_a_group_give_better_metrics_than_one(count):
    predictions = random_predictions(count, images=400, per_group=8)
    scores = series_scores(predictions, 0.4 if count == 2 else None, "plant", 100, 1)
    assert scores["single_image"] == pytest.approx(
        {name: compute_metrics(predictions)[name] for name in scores["metrics"]}
    ), "groups of equal size"
    images = scores["single_image"]
    assert (scores["n"], scores["n_groups"], scores["n_mixed"]) == (400, 50, 0)
    assert scores["group_term"] == "plant"
    assert list(scores["metrics"]) == ["accuracy", "balanced_accuracy", "roc_auc", "loss"]
    for name, value in scores["metrics"].items():
        low, high = scores["intervals"][name]
        assert low <= value <= high
        assert value < images[name] if name == "loss" else value > images[name]


def test_groups_with_images_of_several_classes_are_left_out():
    positive = np.array([0.9, 0.8, 0.1, 0.2, 0.9, 0.1, 0.6, 0.7])
    probabilities = np.stack([positive, 1 - positive], axis=1)
    labels = np.array([0, 0, 1, 1, 0, 1, 1, 1])
    scores = series_scores(labeled(labels, probabilities, [*"aabbccdd"]), 0.5, "group", 20, 1)
    assert (scores["n_groups"], scores["n_mixed"]) == (4, 1)
    assert scores["metrics"]["accuracy"] == pytest.approx(2 / 3, abs=1e-6)
    strict = series_scores(labeled(labels, probabilities, [*"aabbccdd"]), 0.7, "group", 20, 1)
    assert strict["metrics"]["accuracy"] == 1, "the threshold of one image applies to a group"


def test_each_group_counts_once_whatever_its_size():
    positive = np.array([0.9, 0.9, 0.9, 0.3, 0.2, 0.6])
    probabilities = np.stack([positive, 1 - positive], axis=1)
    labels = np.array([0, 0, 0, 0, 1, 1])
    scores = series_scores(labeled(labels, probabilities, [*"aaabcd"]), 0.5, "group", 20, 1)
    assert scores["single_image"]["accuracy"] == 0.5, "a and c, not b and d"
    assert scores["single_image"] == scores["metrics"], "the images of a are equal"


def test_without_a_group_for_each_class_there_are_no_metrics():
    probabilities = np.full((4, 2), 0.5)
    mixed = labeled(np.array([0, 0, 0, 1]), probabilities, [*"aabb"])
    scores = series_scores(mixed, 0.5, "group", 20, 1)
    assert (scores["n_mixed"], scores["metrics"], scores["intervals"]) == (1, {}, {})
    single = labeled(np.array([0, 0, 1, 1]), probabilities, [*"abcd"])
    assert series_scores(single, 0.5, "group", 20, 1) is None
