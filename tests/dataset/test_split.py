import numpy as np
import pandas as pd
import pytest

from cnnClassifier.dataset.split import (
    assign_splits,
    check_leakage,
    read_given_splits,
    split_groups,
)
from cnnClassifier.entity.manifest import SPLITS
from cnnClassifier.utils.errors import ManifestError

FRACTIONS = (0.6, 0.2, 0.2)


def random_images(rng, groups, largest, classes):
    """Make groups of images; a few groups have images of several classes."""
    rows = []
    for number in range(groups):
        for _ in range(int(rng.integers(1, largest + 1))):
            label = number % classes if rng.random() < 0.95 else rng.integers(classes)
            rows.append((f"g{number}", f"c{label}"))
    return pd.DataFrame(rows, columns=["group", "label"])


def images_of(sizes):
    """Make groups of the given sizes for each of two classes."""
    rows = []
    for label in "ab":
        for number, size in enumerate(sizes):
            rows += [(f"{label}{number}", label)] * size
    return pd.DataFrame(rows, columns=["group", "label"])


def split(table, fractions=FRACTIONS, seed=0):
    return split_groups(table["group"], table["label"], fractions, seed)


def class_fractions(table, splits):
    return pd.crosstab(table["label"], splits, normalize="index")[list(SPLITS)].to_numpy()


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("fractions", [FRACTIONS, (0.8, 0.1, 0.1), (0.34, 0.33, 0.33)])
def test_splits_keep_groups_whole_and_are_close_to_the_targets(classes, fractions):
    rng = np.random.default_rng(0)
    for seed in range(6):
        table = random_images(rng, groups=40 * classes, largest=5, classes=classes)
        splits = split(table, fractions, seed)
        assert splits.groupby(table["group"]).nunique().max() == 1
        assert np.abs(class_fractions(table, splits) - fractions).max() < 0.05


def test_single_images_reach_the_targets_exactly():
    table = pd.DataFrame({"group": range(300), "label": ["ill"] * 200 + ["well"] * 100})
    assert class_fractions(table, split(table.astype(str))).tolist() == [[0.6, 0.2, 0.2]] * 2


@pytest.mark.parametrize(
    "sizes", [[11, 7, 7, 5, 4, 3, 3, 2, 2, 1], [9, 8, 8, 7, 5, 5, 4, 4, 3, 2, 2, 1, 1]]
)
def test_the_best_of_several_attempts_is_taken(sizes):
    """Every fifth image has the other class, so that few groups must serve two classes at once."""
    table = images_of(sizes)
    table.loc[::5, "label"] = table["label"][::5].map({"a": "b", "b": "a"})
    for seed in range(5):
        gaps = np.abs(class_fractions(table, split(table, seed=seed)) - FRACTIONS).max(1)
        counts = table["label"].value_counts().sort_index()
        assert (gaps * counts <= 1).all(), "more than one image off"


@pytest.mark.parametrize("sizes", [[1, 1, 1], [50, 1, 1], [9, 9, 9], [30, 2, 1, 1]])
def test_few_groups_still_fill_every_split(sizes):
    table = images_of(sizes)
    assert (class_fractions(table, split(table)) > 0).all()


def test_the_seed_alone_decides():
    table = random_images(np.random.default_rng(0), groups=60, largest=4, classes=2)
    first = split(table, seed=1)
    pd.testing.assert_series_equal(first, split(table, seed=1))
    pd.testing.assert_series_equal(
        first, split(table.sample(frac=1, random_state=1), seed=1).sort_index()
    )
    assert not first.equals(split(table, seed=2))


@pytest.mark.parametrize(
    ("groups", "labels", "message"),
    [
        ("112233", "aabbbb", "class a needs a group .* has 1 in all"),
        ("1122345", "aabbaab", "class b needs a group .* has 2 in all"),
        # Three groups have each class, but 1 to 4 would have to be in different splits, and 5 too.
        ("111222333444555555", "abcadebdfcefabcdef", r"can't be divided .*group_pattern"),
    ],
)
def test_groups_that_cannot_fill_every_split_are_an_error(groups, labels, message):
    with pytest.raises(ManifestError, match=message):
        split(pd.DataFrame({"group": list(groups), "label": list(labels)}))


def files(rows):
    columns = ["path", "label", "group", "reason", "given_split"]
    return pd.DataFrame(rows, columns=columns)


def test_a_given_split_that_loses_a_class_is_an_error():
    rows = []
    for given_split in SPLITS:
        for label in "ab":
            rows.append(
                (f"{given_split}/{label}", label, f"{given_split} {label}", "", given_split)
            )
    rows[1] = (*rows[1][:2], "test b", *rows[1][3:])  # the only image of b in train is in test too
    with pytest.raises(ManifestError, match="leaves no b in train once duplicates"):
        assign_splits(files(rows), FRACTIONS, 0)


def test_a_class_without_usable_images_is_an_error():
    rows = [("a/1.png", "a", "1", "", ""), ("b/1.png", "b", "2", "empty: no bytes", "")]
    with pytest.raises(ManifestError, match=r"class b has no usable image: b/1\.png: empty"):
        assign_splits(files(rows), FRACTIONS, 0)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["ill/1.png", "well/1.png"], r"name no splits; set data_validation\.split to grouped"),
        (["train/1.png", "test/1.png"], "name no splits"),
        (["train/a/1.png", "valid/a/1.png"], "no folder for test"),
        (["valid/a/1.png", "test/a/1.png"], "no folder for train"),
    ],
)
def test_folders_must_name_the_given_splits(paths, message):
    with pytest.raises(ManifestError, match=message):
        read_given_splits(pd.Series(paths))


def test_given_splits_are_read_from_folders():
    paths = pd.Series(["Train/a/1.png", "val/a/1.png", "TESTING/a/deep/1.png"])
    assert read_given_splits(paths).tolist() == list(SPLITS)


@pytest.mark.parametrize("column", ["sha256", "group"])
def test_what_is_in_two_splits_is_an_error(column):
    table = pd.DataFrame(
        {"split": ["train", "test", ""], "sha256": list("abc"), "group": list("abc")}
    )
    check_leakage(table)
    table.loc[2, column] = "a"  # not in use
    check_leakage(table)
    table.loc[1, column] = "a"
    with pytest.raises(ManifestError, match=f"{column} a is in two splits"):
        check_leakage(table)
