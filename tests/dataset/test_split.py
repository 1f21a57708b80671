import numpy as np
import pandas as pd
import pytest

from cnnClassifier.dataset import split as module
from cnnClassifier.dataset.split import (
    add_reasons,
    assign_groups,
    assign_splits,
    link_duplicates,
    mark_conflicts,
    mark_exact_duplicates,
    name_fractions,
    read_given_splits,
    split_groups,
)
from cnnClassifier.utils.errors import ManifestError

PATTERN = r"^(?P<group>p\d+|\s*)_"
THREE = {"train": 0.6, "validation": 0.2, "test": 0.2}
TWO = {"train": 0.8, "test": 0.2}
ONE = {"train": 1.0}


def table_of(paths, **columns):
    table = pd.DataFrame({"path": paths, "label": [path.split("/")[0] for path in paths]})
    defaults = {
        "error": "",
        "given_split": "",
        "given_group": "",
        "patient": "",
        "duplicate_of": "",
    }
    return table.assign(**defaults).assign(**columns)


@pytest.fixture
def link(monkeypatch):
    """Return a function that links duplicates, with the given pairs as near-duplicates."""

    def run(table, pairs):
        monkeypatch.setattr(module, "find_near_duplicates", lambda keypoints, limit: pairs)
        return link_duplicates(table, np.full(len(table), None, object), 0.9)

    return run


@pytest.mark.parametrize(
    ("files", "kept"),
    [
        ({"a/10 (2).png": "", "a/10.png": "", "b/deep/1.png": ""}, "b/deep/1.png"),
        ({"b/1.png": "", "a/1.png": ""}, "a/1.png"),
        ({"a/1.png": "train", "a/long.png": "test", "b/longer.png": "test"}, "a/long.png"),
        ({"a/1.png": "train", "a/longer.png": "validation"}, "a/longer.png"),
    ],
    ids=["shortest name", "first path", "test", "validation"],
)
def test_of_exact_duplicates_one_is_kept(files, kept):
    table = table_of(list(files), given_split=list(files.values()), sha256="s")
    other = table_of(["c/1.png", "c/2.png", "c/3.png"], sha256=["t", "", ""])
    other.loc[1:, "error"] = "unreadable"  # files without a hash aren't duplicates
    result = mark_exact_duplicates(pd.concat([table, other], ignore_index=True))
    expected = {path: "" if path == kept else kept for path in files}
    assert dict(
        zip(result["path"], result["duplicate_of"], strict=True)
    ) == expected | dict.fromkeys(other["path"], "")


def test_links_conflicts_and_reasons(link):
    paths = ["a/1", "a/2", "a/3", "b/1", "b/2", "b/error", "c/1"]
    duplicate_of = ["", "", "a/1", "", "", "", ""]
    error = ["", "", "", "", "", "empty: no bytes", ""]
    table = link(table_of(paths, duplicate_of=duplicate_of, error=error), [(0, 2), (3, 4)])
    sets = [part["path"].tolist() for _, part in table.groupby("duplicate_set") if len(part) > 1]
    assert sorted(sets) == [["a/1", "a/3", "b/1"], ["b/2", "c/1"]]
    table = add_reasons(mark_conflicts(table))
    assert table["reason"].tolist() == [
        "conflict: same image as b/1",
        "",
        "conflict: same image as b/1",
        "conflict: same image as a/1",
        "conflict: same image as c/1",
        "empty: no bytes",
        "conflict: same image as b/2",
    ]
    table = link(table_of(["a/1", "a/2"], duplicate_of=["", "a/1"]), [])
    assert add_reasons(mark_conflicts(table))["reason"].tolist() == [
        "",
        "exact_duplicate: same bytes as a/1",
    ]


@pytest.mark.parametrize(
    ("paths", "pairs", "groups"),
    [
        (["a/p1_1.png", "a/p1_2.png", "b/p2_1.png"], [], ["p1", "p1", "p2"]),
        (["a/p1_1.png", "b/x.png", "a/p2_1.png", "a/p2_2.png"], [(0, 1), (1, 2)], ["b/x.png"] * 4),
        (["a/x.png", "b/x.png"], [], ["a/x.png", "b/x.png"]),
        (["a/_1.png", "a/_2.png", "a/ _3.png"], [], ["a/_1.png", "a/_2.png", "a/ _3.png"]),
        (["a/p3_1", "a/p2_1", "a/p1_1", "a/p4_1"], [(0, 1), (2, 3), (3, 0)], ["p1"] * 4),
    ],
)
def test_groups_are_names_joined_by_near_duplicates(link, paths, pairs, groups):
    assert assign_groups(link(table_of(paths), pairs), PATTERN)["group"].tolist() == groups


def test_groups_come_from_name_dicom_header_or_file(link):
    paths = ["a/p1_1.dcm", "a/1.dcm", "a/2.dcm", "a/3.png", "a/4.png"]
    patients = ["dicom-1", "dicom-2", "dicom-2", "", ""]
    table = link(table_of(paths, patient=patients, error=["", "", "", "", "empty"]), [])
    result = assign_groups(table, PATTERN)
    assert result["group"].tolist() == ["p1", "dicom-2", "dicom-2", "a/3.png", ""]
    assert result["group_source"].tolist() == ["name", "dicom", "dicom", "file", "file"]
    unmatched = assign_groups(table, r"p1|(?P<group>never)")
    assert unmatched["group"].tolist() == ["dicom-1", "dicom-2", "dicom-2", "a/3.png", ""]
    assert assign_groups(table, None)["group"].tolist() == unmatched["group"].tolist()
    given = assign_groups(table.assign(given_group=["", "g1", "", "g1", "g1"]), PATTERN)
    assert given["group"].tolist() == ["p1", "g1", "dicom-2", "g1", ""]
    assert given["group_source"].tolist() == ["name", "source", "dicom", "source", "source"]


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


def split(table, fractions=THREE, seed=0):
    return split_groups(table["group"], table["label"], fractions, seed)


def class_fractions(table, splits):
    return pd.crosstab(table["label"], splits, normalize="index")


def gaps(table, splits, fractions):
    """Return how far each class is from the targets, (classes, splits)."""
    found = class_fractions(table, splits)
    assert set(found) == set(fractions)
    return (found - pd.Series(fractions)).abs().to_numpy()


@pytest.mark.parametrize(
    ("shares", "fractions"),
    [
        ((0.6, 0.2, 0.2), THREE),
        ((0.8, 0.2), TWO),
        ((1.0, 0.0), ONE),
    ],
)
def test_shares_name_the_splits_that_exist(shares, fractions):
    assert name_fractions(shares) == fractions


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    "shares",
    [(0.6, 0.2, 0.2), (0.8, 0.1, 0.1), (0.34, 0.33, 0.33), (0.8, 0.2), (0.5, 0.5), (1.0, 0.0)],
)
def test_splits_keep_groups_whole_and_are_close_to_the_targets(classes, shares):
    fractions = name_fractions(shares)
    rng = np.random.default_rng(0)
    for seed in range(6):
        table = random_images(rng, groups=40 * classes, largest=5, classes=classes)
        splits = split(table, fractions, seed)
        assert splits.groupby(table["group"]).nunique().max() == 1
        assert gaps(table, splits, fractions).max() < 0.05


@pytest.mark.parametrize("fractions", [THREE, TWO, ONE])
def test_single_images_reach_the_targets_exactly(fractions):
    table = pd.DataFrame({"group": range(300), "label": ["ill"] * 200 + ["well"] * 100})
    assert not gaps(table, split(table.astype(str), fractions), fractions).any()


@pytest.mark.parametrize("fractions", [THREE, TWO])
@pytest.mark.parametrize(
    "sizes", [[11, 7, 7, 5, 4, 3, 3, 2, 2, 1], [9, 8, 8, 7, 5, 5, 4, 4, 3, 2, 2, 1, 1]]
)
def test_the_best_of_several_attempts_is_taken(sizes, fractions):
    """Every fifth image has the other class, so that few groups must serve two classes at once."""
    table = images_of(sizes)
    table.loc[::5, "label"] = table["label"][::5].map({"a": "b", "b": "a"})
    for seed in range(5):
        largest = gaps(table, split(table, fractions, seed), fractions).max(1)
        counts = table["label"].value_counts().sort_index()
        assert (largest * counts <= 1).all(), "more than one image off"


@pytest.mark.parametrize("sizes", [[1, 1, 1], [50, 1, 1], [9, 9, 9], [30, 2, 1, 1]])
@pytest.mark.parametrize(
    ("fractions", "required"),
    [
        (THREE, {"train": 1, "validation": 1, "test": 1}),
        (TWO, {"train": 2, "test": 1}),
        (ONE, {"train": 2}),
    ],
)
def test_few_groups_still_fill_every_split(sizes, fractions, required):
    table = images_of(sizes)
    table["split"] = split(table, fractions)
    counts = table.groupby(["split", "label"])["group"].nunique()
    assert set(table["split"]) == set(required)
    assert all((counts[name] >= required[name]).all() for name in required)


def test_the_seed_alone_decides():
    table = random_images(np.random.default_rng(0), groups=60, largest=4, classes=2)
    first = split(table, seed=1)
    pd.testing.assert_series_equal(first, split(table, seed=1))
    pd.testing.assert_series_equal(
        first, split(table.sample(frac=1, random_state=1), seed=1).sort_index()
    )
    assert not first.equals(split(table, seed=2))


@pytest.mark.parametrize(
    ("groups", "labels", "fractions", "message"),
    [
        (
            "112233",
            "aabbbb",
            THREE,
            "class a needs a group .* each of train, validation and test, and has 1 in all",
        ),
        ("1122345", "aabbaab", THREE, "class b needs a group .* has 2 in all"),
        (
            "1122345",
            "aabbaab",
            TWO,
            "class b needs .* for each of test and two folds of train, and has 2 in all",
        ),
        ("1122", "aaba", ONE, "class b needs .* for each of two folds of train, and has 1 in all"),
        # Three groups have each class, but 1 to 4 would have to be in different splits, and 5 too.
        ("111222333444555555", "abcadebdfcefabcdef", THREE, r"can't be divided .*group_pattern"),
        (
            "111222333444555555",
            "abcadebdfcefabcdef",
            TWO,
            "can't be divided so that test and two folds of train each have every class",
        ),
    ],
)
def test_groups_that_cannot_fill_every_split_are_an_error(groups, labels, fractions, message):
    with pytest.raises(ManifestError, match=message):
        split(pd.DataFrame({"group": list(groups), "label": list(labels)}), fractions)


def given_table(fractions):
    """Make a table of two images of classes a and b in each given split; each is a group."""
    folders = ("train", "validation", "test")
    paths = [f"{name}/{label}/{n}" for name in folders for label in "ab" for n in (1, 2)]
    columns = {"label": [path.split("/")[1] for path in paths], "group": paths, "reason": ""}
    given_split = read_given_splits(pd.Series(paths), fractions)
    return table_of(paths, given_split=given_split, **columns)


@pytest.mark.parametrize("fractions", [THREE, TWO])
def test_a_class_without_usable_images_or_lost_from_a_given_split_is_an_error(fractions):
    table = given_table(fractions)
    is_train = (table["given_split"] == "train") & (table["label"] == "b")
    table.loc[is_train, "group"] = "test/b/1"  # all images of b in train are in test too
    with pytest.raises(ManifestError, match="leaves no b in train once duplicates"):
        assign_splits(table, fractions, 0)
    table.loc[table["label"] == "b", "reason"] = "empty: no bytes"
    with pytest.raises(ManifestError, match=r"class b has no usable image: train/b/1: empty"):
        assign_splits(table, fractions, 0)


def test_one_group_of_a_class_in_a_given_train_split_is_an_error_without_validation():
    table = given_table(TWO)
    is_train = (table["given_split"] == "train") & (table["label"] == "b")
    table.loc[is_train, "group"] = "patient"
    with pytest.raises(ManifestError, match=r"one group of b in train, .* two folds: add"):
        assign_splits(table, TWO, 0)
    table["given_split"] = given_table(THREE)["given_split"]
    table["group"] = table["path"].where(table["path"] != "train/b/2", "train/b/1")
    assert (assign_splits(table, THREE, 0)["split"] == table["given_split"]).all()


@pytest.mark.parametrize(
    ("paths", "fractions", "message"),
    [
        (["ill/1.png", "well/1.png"], TWO, r"name no splits; set data_validation\.split to group"),
        (["train/1.png", "test/1.png"], TWO, "name no splits"),
        (["train/a/1.png", "valid/a/1.png"], TWO, "no folder for test"),
        (["train/a/1.png", "valid/a/1.png"], ONE, "no folder for test"),
        (["valid/a/1.png", "test/a/1.png"], THREE, "no folder for train"),
        (
            ["train/a/1.png", "test/a/1.png"],
            ONE,
            r"the data has a test split, but SPLIT has none: set SPLIT to \[0\.8, 0\.2\] .*, or "
            "data_validation.split to grouped",
        ),
    ],
)
def test_folders_must_name_the_given_splits(paths, fractions, message):
    with pytest.raises(ManifestError, match=message):
        read_given_splits(pd.Series(paths), fractions)


@pytest.mark.parametrize(
    ("fractions", "splits"),
    [
        (THREE, ["train", "validation", "test"]),
        (TWO, ["train", "train", "test"]),
    ],
)
def test_given_splits_are_read_from_folders(fractions, splits):
    paths = pd.Series(["Train/a/1.png", "val/a/1.png", "TESTING/a/deep/1.png"])
    assert read_given_splits(paths, fractions).tolist() == splits
