"""Find duplicates and groups, and divide the groups among train, validation and test."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cnnClassifier.dataset.layout import SPLITS as SPLIT_OF_FOLDER
from cnnClassifier.dataset.near_duplicates import find_near_duplicates
from cnnClassifier.entity.manifest import SPLITS
from cnnClassifier.utils.errors import ManifestError

# Codes of reasons to leave a file out; the last one is of a given split.
EXACT_DUPLICATE, CONFLICT, LEAKAGE = "exact_duplicate", "conflict", "leakage"
_MAX_PLACEMENTS = 200_000  # groups placed, over all attempts
_MAX_ATTEMPTS = 100


def mark_exact_duplicates(table: pd.DataFrame) -> pd.DataFrame:
    """Add `duplicate_of`: of files with equal bytes, the path of the one that is kept.

    Kept is the one in test, else in validation, where the data comes with a split; among those the
    one with the shortest name, then the first path.

    Args:
        table: of the columns `path`, `sha256`, `error` and `given_split`.

    Returns:
        The table with `duplicate_of`, which is empty where the file is kept or has an error.
    """
    valid = table[table["error"] == ""]
    ordered = valid.assign(
        split_order=-valid["given_split"].map(["", *SPLITS].index),
        name_length=valid["path"].str.split("/").str[-1].str.len(),
    ).sort_values(["split_order", "name_length", "path"])
    kept = ordered.groupby("sha256")["path"].transform("first")
    duplicate_of = kept.where(kept != ordered["path"], "")
    return table.assign(duplicate_of=duplicate_of.reindex(table.index, fill_value=""))


def link_duplicates(
    table: pd.DataFrame, keypoints: np.ndarray, min_correlation: float
) -> pd.DataFrame:
    """Add `duplicate_set`: a number, equal for all exact and near-duplicates of one image.

    Args:
        table: of the columns `path`, `error` and `duplicate_of`; its index counts the rows.
        keypoints: `Keypoints` of each row.
        min_correlation: see `find_near_duplicates`.
    """
    rows = np.flatnonzero((table["error"] == "") & (table["duplicate_of"] == ""))
    found = find_near_duplicates(list(keypoints[rows]), min_correlation)
    pairs = np.array(found, int).reshape(-1, 2)
    duplicates = np.flatnonzero(table["duplicate_of"] != "")
    originals = pd.Index(table["path"]).get_indexer(table["duplicate_of"].iloc[duplicates])
    first = np.concatenate([rows[pairs[:, 0]], duplicates])
    second = np.concatenate([rows[pairs[:, 1]], originals])
    return table.assign(duplicate_set=_components(first, second, len(table)))


def mark_conflicts(table: pd.DataFrame) -> pd.DataFrame:
    """Add `conflict_with`: where an image is in several classes, the first file in another class.

    Args:
        table: of the columns `path`, `label`, `error` and `duplicate_set`.
    """
    valid = table[table["error"] == ""].reset_index(names="row")
    first_of_class = valid.drop_duplicates(["duplicate_set", "label"])
    pairs = valid.merge(first_of_class, on="duplicate_set", suffixes=("", "_other"))
    conflicts = pairs[pairs["label"] != pairs["label_other"]].drop_duplicates("row")
    conflict_with = conflicts.set_index("row")["path_other"]
    return table.assign(conflict_with=conflict_with.reindex(table.index, fill_value=""))


def assign_groups(table: pd.DataFrame, pattern: str | None) -> pd.DataFrame:
    """Add `group` and `group_source`: files that must stay in one split have equal groups.

    A group is what the pattern finds in the file's name, else the patient's pseudonym in a DICOM
    header, else the file itself; duplicates join groups.

    Args:
        table: of the columns `path`, `patient`, `error` and `duplicate_set`.
        pattern: a regular expression with a group `group`, searched in the file's name.

    Returns:
        The table with `group`, the alphabetically first of the names that were joined (empty where
        there is an error), and `group_source`, `name`, `dicom` or `file`.
    """
    file_names = table["path"].str.split("/").str[-1]
    # The default finds an empty group in each name.
    in_name = file_names.str.extract(pattern or "(?P<group>)")["group"].fillna("").str.strip()
    conditions = [in_name != "", table["patient"] != ""]
    names = np.select(conditions, [in_name, table["patient"]], table["path"])
    sources = np.select(conditions, ["name", "dicom"], "file")
    # A graph whose nodes are names and sets of duplicates; each file links one of either.
    name_codes, unique_names = pd.factorize(names)
    set_codes, unique_sets = pd.factorize(table["duplicate_set"])
    count = len(unique_names) + len(unique_sets)
    components = _components(name_codes, len(unique_names) + set_codes, count)
    groups = pd.Series(names, table.index).groupby(components[name_codes]).transform("min")
    return table.assign(group=groups.where(table["error"] == "", ""), group_source=sources)


def add_reasons(table: pd.DataFrame) -> pd.DataFrame:
    """Add `reason`: why a file is left out, `<code>: <text>`, or empty."""
    duplicate = f"{EXACT_DUPLICATE}: same bytes as " + table["duplicate_of"]
    conflict = f"{CONFLICT}: same image as " + table["conflict_with"]
    reason = table["error"].mask(table["duplicate_of"] != "", duplicate)
    return table.assign(reason=reason.mask(table["conflict_with"] != "", conflict))


def assign_splits(table: pd.DataFrame, fractions: Sequence[float], seed: int) -> pd.DataFrame:
    """Add `split`, and the reason where a file of a given split is left out.

    Args:
        table: of the columns `path`, `label`, `group`, `reason` and `given_split`.
        fractions: of train, validation and test; they sum to 1.
        seed: decides the split where several are equally good.

    Raises:
        ManifestError: a class has no usable image, or the groups can't be divided.
    """
    used = table[table["reason"] == ""]
    unusable = table[~table["label"].isin(used["label"])]
    if len(unusable):
        file = unusable.iloc[0]
        raise ManifestError(
            f"class {file['label']} has no usable image: {file['path']}: {file['reason']}; "
            "replace it"
        )
    if (used["given_split"] == "").all():
        used = used.assign(split=split_groups(used["group"], used["label"], fractions, seed))
    else:
        used = _keep_given_splits(used, fractions, seed)
    return table.assign(
        split=used["split"].reindex(table.index, fill_value=""),
        reason=used["reason"].reindex(table.index).fillna(table["reason"]),
    )


def split_groups(
    groups: pd.Series, labels: pd.Series, fractions: Sequence[float], seed: int
) -> pd.Series:
    """Assign whole groups to splits, as close to the target fractions of each class as possible.

    The largest groups go first, each to the split that lacks the largest part of its classes; the
    best of several shuffled attempts is taken.

    Args:
        groups: of each image.
        labels: class of each image.
        fractions: of train, validation and test; or of train and validation alone.
        seed: equal seeds give equal splits.

    Returns:
        The split of each image.

    Raises:
        ManifestError: a class has fewer groups than there are splits, or the groups can't be
            divided so that each split has every class.
    """
    splits = SPLITS[: len(fractions)]
    split_names = f"{', '.join(splits[:-1])} and {splits[-1]}"
    table = pd.crosstab(groups, labels)
    group_counts = (table > 0).sum()
    if group_counts.min() < len(splits):
        raise ManifestError(
            f"class {group_counts.idxmin()} needs a group (a patient, series or single image) for "
            f"each of {split_names}, and has {group_counts.min()} in all: add images, or loosen "
            "data_validation.group_pattern in config.yaml"
        )
    counts = table.to_numpy(float)
    targets = np.outer(fractions, counts.sum(0))
    rng = np.random.default_rng(seed)
    best, best_cost = None, np.inf
    for _ in range(max(1, min(_MAX_ATTEMPTS, _MAX_PLACEMENTS // len(counts)))):
        order = rng.permutation(len(counts))
        order = order[np.argsort(-counts[order].sum(1), kind="stable")]
        placement = _place_groups(counts, order, targets)
        sizes = np.stack([counts[placement == split].sum(0) for split in range(len(splits))])
        cost = float(np.abs(sizes - targets).max(initial=0, where=targets > 0))
        if cost < best_cost and sizes.all():
            best, best_cost = placement, cost
    if best is None:
        raise ManifestError(
            f"the groups can't be divided so that {split_names} each have every class: "
            "loosen data_validation.group_pattern in config.yaml, or add images"
        )
    return groups.map(pd.Series(np.array(splits)[best], table.index))


def _place_groups(counts: np.ndarray, order: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the index of the split of each group; counts: (groups, classes)."""
    missing = targets.copy()
    scale = 1 / np.maximum(targets, 1e-9)
    placement = np.zeros(len(counts), int)
    for group in order:
        split = int(((missing * scale) @ (counts[group] > 0)).argmax())
        placement[group] = split
        missing[split] -= counts[group]
    return placement


def read_given_splits(paths: pd.Series) -> pd.Series:
    """Return the split that each file's first folder names: `train`, `validation` or `test`.

    Raises:
        ManifestError: not all files are in such folders, or none are in train or in test.
    """
    hint = "set data_validation.split to grouped in config.yaml, or use a source that has splits"
    given_split = paths.str.split("/").str[0].str.lower().map(SPLIT_OF_FOLDER)
    if given_split.isna().any() or (paths.str.count("/") < 2).any():
        raise ManifestError(f"split: as_given, but the data's folders name no splits; {hint}")
    missing = {"train", "test"} - set(given_split)
    if missing:
        raise ManifestError(
            f"split: as_given, but the data has no folder for {missing.pop()}; {hint}"
        )
    return given_split


def _keep_given_splits(used: pd.DataFrame, fractions: Sequence[float], seed: int) -> pd.DataFrame:
    """Keep the given split, except that no group may be in two splits.

    A group that is in test stays there alone; one in train and validation stays in validation. So
    test is as it was given, and files are lost only where the model learns from them. Where the
    data has no validation split, whole groups move there from train.
    """
    order = used["given_split"].map(SPLITS.index)
    group_split = order.groupby(used["group"]).transform("max").map(dict(enumerate(SPLITS)))
    leaks = used["given_split"] != group_split
    kept = used[~leaks]
    split = kept["given_split"].copy()
    if "validation" not in set(used["given_split"]):
        train = kept[split == "train"]
        total = fractions[0] + fractions[1]
        pair = (fractions[0] / total, fractions[1] / total)
        split.update(split_groups(train["group"], train["label"], pair, seed))
    for name in SPLITS:
        missing = sorted(set(used["label"]) - set(kept["label"][split == name]))
        if missing:
            raise ManifestError(
                f"split: as_given leaves no {', '.join(missing)} in {name} once duplicates and "
                "groups that cross splits are left out; set data_validation.split to grouped in "
                "config.yaml"
            )
    reason = used["reason"].mask(leaks, f"{LEAKAGE}: its group is in " + group_split)
    return used.assign(split=split.reindex(used.index, fill_value=""), reason=reason)


def _components(first: np.ndarray, second: np.ndarray, count: int) -> np.ndarray:
    """Return the number of the connected component of each of `count` nodes."""
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(count, count))
    return connected_components(graph, directed=False)[1]
