from collections import Counter

import numpy as np
import pytest

from cnnClassifier.dataset.split import split_groups
from cnnClassifier.entity.manifest import SPLITS
from cnnClassifier.utils.errors import ManifestError

SHARES = (0.6, 0.2, 0.2)


def images(rng, groups, largest, classes):
    """Draw groups of images; now and then a group has images of several classes."""
    found = []
    for number in range(groups):
        own = number % classes
        for _ in range(int(rng.integers(1, largest + 1))):
            found.append(
                (f"g{number}", f"c{own if rng.random() < 0.95 else rng.integers(classes)}")
            )
    return [group for group, _ in found], [label for _, label in found]


def shares_of(groups, labels, splits):
    """Return for each class and split its share of the class's images."""
    count = Counter((label, splits[group]) for group, label in zip(groups, labels, strict=True))
    total = Counter(labels)
    return {label: [count[label, split] / total[label] for split in SPLITS] for label in total}


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("shares", [SHARES, (0.8, 0.1, 0.1), (0.34, 0.33, 0.33)])
def test_splits_are_whole_groups_stratified_and_near_the_shares(classes, shares):
    rng = np.random.default_rng(0)
    for seed in range(6):
        groups, labels = images(rng, groups=40 * classes, largest=5, classes=classes)
        splits = split_groups(groups, labels, shares, seed)
        assert set(splits) == set(groups)  # a group has one split, so that none stands in two
        assert set(splits.values()) == set(SPLITS)
        for label, got in shares_of(groups, labels, splits).items():
            assert np.abs(np.subtract(got, shares)).max() < 0.05, (label, got)


def test_single_images_come_as_near_as_whole_numbers_allow():
    groups = [f"{number}" for number in range(300)]
    labels = ["ill"] * 200 + ["well"] * 100
    splits = split_groups(groups, labels, SHARES, 0)
    assert shares_of(groups, labels, splits) == {"ill": [0.6, 0.2, 0.2], "well": [0.6, 0.2, 0.2]}


@pytest.mark.parametrize(
    "sizes", [[11, 7, 7, 5, 4, 3, 3, 2, 2, 1], [9, 8, 8, 7, 5, 5, 4, 4, 3, 2, 2, 1, 1]]
)
def test_of_several_tries_the_nearest_to_the_shares_is_taken(sizes):
    """Every fifth image belongs to the other class, so that few groups must serve two classes at once."""
    names = [
        f"{label}{number}"
        for label in "ab"
        for number, size in enumerate(sizes)
        for _ in range(size)
    ]
    labels = [name[0] if number % 5 else "ab"[name[0] == "a"] for number, name in enumerate(names)]
    for seed in range(5):
        splits = split_groups(names, labels, SHARES, seed)
        for label, got in shares_of(names, labels, splits).items():
            assert np.abs(np.subtract(got, SHARES)).max() * labels.count(label) <= 1, (
                "more than one image off"
            )


@pytest.mark.parametrize("sizes", [[1, 1, 1], [50, 1, 1], [9, 9, 9], [30, 2, 1, 1]])
def test_few_groups_still_fill_every_split(sizes):
    groups = [
        f"{label}{number}"
        for label in "ab"
        for number, size in enumerate(sizes)
        for _ in range(size)
    ]
    labels = [group[0] for group in groups]
    splits = split_groups(groups, labels, SHARES, 0)
    assert {(group[0], split) for group, split in splits.items()} == {
        (c, s) for c in "ab" for s in SPLITS
    }


def test_the_seed_alone_decides():
    groups, labels = images(np.random.default_rng(0), groups=60, largest=4, classes=2)
    first = split_groups(groups, labels, SHARES, 1)
    assert first == split_groups(groups, labels, SHARES, 1)
    order = np.random.default_rng(1).permutation(len(groups))
    assert first == split_groups([groups[i] for i in order], [labels[i] for i in order], SHARES, 1)
    assert first != split_groups(groups, labels, SHARES, 2)


@pytest.mark.parametrize(
    ("groups", "labels", "message"),
    [
        ("112233", "aabbbb", "class a has 1 group "),
        ("1122345", "aabbaab", "class b has 2 groups "),
        ("123123", "aaabbb", None),
        ("1231456", "aaabbbb", None),
    ],
)
def test_a_class_needs_three_groups(groups, labels, message):
    if message is None:
        splits = split_groups(list(groups), list(labels), SHARES, 0)
        assert {splits[g] for g, label in zip(groups, labels, strict=True) if label == "b"} == set(
            SPLITS
        )
        return
    with pytest.raises(ManifestError, match=message):
        split_groups(list(groups), list(labels), SHARES, 0)


def test_groups_that_cannot_fill_every_split_are_refused():
    # Three groups hold each class, but 1 to 4 would have to be in different splits, and 5 in another yet.
    tied = [("1", "abc"), ("2", "ade"), ("3", "bdf"), ("4", "cef"), ("5", "abcdef")]
    pairs = [(group, label) for group, classes in tied for label in classes]
    with pytest.raises(ManifestError, match=r"can't be divided .*group_pattern"):
        split_groups([group for group, _ in pairs], [label for _, label in pairs], SHARES, 0)
