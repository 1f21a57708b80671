import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from cnnClassifier.dataset import shortcuts as module
from cnnClassifier.dataset.shortcuts import SHORTCUTS, measure_shortcuts, weighted_auc


def random_files(labels, groups, **by_class):
    """Make files that differ between classes only by `by_class`: column -> label -> value."""
    rng = np.random.default_rng(0)
    count = len(labels)
    table = pd.DataFrame({"label": labels, "group": groups, "width": 512, "height": 512})
    table = table.assign(mode="L", format="PNG", bytes=rng.integers(9000, 11000, count))
    table["mean_intensity"], table["gray_std"] = rng.normal(100, 1, count), rng.normal(30, 1, count)
    for side in range(4):
        table[f"border_{side}_mean"] = rng.normal(size=count)
    thumbnails = rng.integers(0, 128, (count, 32, 32), dtype=np.uint8)
    for column, values in by_class.items():
        for label, value in values.items():
            rows = table["label"] == label
            if column == "thumbnail":
                thumbnails[rows] += np.uint8(value)
            else:
                table.loc[rows, column] = value
    return table, thumbnails


LABELS = ["ill", "well"] * 60
PAIRS = [f"patient{number // 2}" for number in range(120)]


@pytest.mark.parametrize(
    ("by_class", "high"),
    [
        ({}, set()),
        ({"width": {"well": 600}}, {"size", "file_properties"}),
        ({"mode": {"well": "RGBA"}}, {"file_properties"}),
        ({"bytes": {"well": 15000}}, {"file_properties"}),
        ({"mean_intensity": {"well": 120}}, {"gray"}),
        ({"thumbnail": {"well": 20}}, {"thumbnail"}),
        ({"border_3_mean": {"well": 5}}, {"border"}),
    ],
)
def test_only_the_property_that_differs_is_a_shortcut(by_class, high):
    scores = measure_shortcuts(*random_files(LABELS, PAIRS, **by_class), seed=1)
    assert set(scores) == set(SHORTCUTS)
    assert {name for name, score in scores.items() if score["auc"] > 0.95} == high
    assert all(score["auc"] < 0.7 for name, score in scores.items() if name not in high)
    assert all(score["low"] <= score["auc"] <= score["high"] for score in scores.values())


def test_no_group_is_in_training_and_test_folds():
    groups = [f"patient{number // 10:02}" for number in range(120)]
    labels = [("ill", "well")[number // 10 % 2] for number in range(120)]
    table, _ = random_files(labels, groups)
    images = np.random.default_rng(0).integers(0, 255, (12, 32, 32), dtype=np.uint8)
    thumbnails = np.repeat(images, 10, axis=0)  # all images of a group are equal
    assert measure_shortcuts(table, thumbnails, seed=1)["thumbnail"]["auc"] < 0.7
    table["group"] = [str(number) for number in range(120)]
    assert measure_shortcuts(table, thumbnails, seed=1)["thumbnail"]["auc"] > 0.95


def test_three_classes_equal_seeds_and_too_few_groups():
    labels, groups = ["a", "b", "c"] * 40, [str(number) for number in range(120)]
    table, thumbnails = random_files(labels, groups, width={"a": 300, "b": 400})
    scores = measure_shortcuts(table, thumbnails, seed=5)
    assert scores["size"]["auc"] > 0.95
    assert scores["border"]["auc"] < 0.7
    assert measure_shortcuts(table, thumbnails, seed=5) == scores
    table.loc[table["label"] == "a", "group"] = "one"
    assert measure_shortcuts(table, thumbnails, seed=5) == {}


@pytest.mark.parametrize("classes", [2, 3])
def test_auc_is_that_of_scikit_learn(classes):
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, classes, 60), rng.integers(0, 6, (60, classes)) / 6
    weights = rng.integers(0, 3, (3, 60))
    for row, auc in zip(weights, weighted_auc(labels, scores, weights), strict=True):
        considered = [1] if classes == 2 else range(classes)
        expected = [roc_auc_score(labels == c, scores[:, c], sample_weight=row) for c in considered]
        assert auc == pytest.approx(np.mean(expected))
    assert np.isnan(weighted_auc(labels, scores, weights * (labels != 1))).all()


def test_a_sample_is_as_balanced_as_possible(monkeypatch):
    monkeypatch.setattr(module, "MAX_IMAGES", 50)
    labels = ["rare"] * 10 + ["common"] * 200
    table, thumbnails = random_files(labels, [str(n) for n in range(210)])
    sizes = []
    monkeypatch.setattr(
        module,
        "_features",
        lambda table, thumbnails: sizes.append(table["label"].value_counts()) or {},
    )
    measure_shortcuts(table, thumbnails, seed=0)
    assert sizes[0].to_dict() == {"common": 40, "rare": 10}
