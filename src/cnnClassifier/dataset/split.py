"""Find duplicates and groups, and divide the groups among the splits."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cnnClassifier.dataset.layout import SPLITS as SPLIT_OF_FOLDER
from cnnClassifier.dataset.near_duplicates import find_near_duplicates
from cnnClassifier.entity.config_entity import NO_GROUPS
from cnnClassifier.entity.manifest import SPLITS
from cnnClassifier.utils.errors import ManifestError

# Codes of reasons to leave a file out; the last one is of a given split.
EXACT_DUPLICATE, CONFLICT, LEAKAGE = "exact_duplicate", "conflict", "leakage"
_MIN_FOLDS = 2  # of the training images, where there is no validation split
_MAX_PLACEMENTS = 200_000  # groups placed, over all attempts
_MAX_ATTEMPTS = 100


def name_fractions(shares: Sequence[float]) -> dict[str, float]:
    """Return the fraction of each split that exists, in the order of `SPLITS`.

    Args:
        shares: fractions of train and test, or of train, validation and test; the fraction of
            test may be 0.
    """
    names = SPLITS if len(shares) == len(SPLITS) else ("train", "test")
    return {name: share for name, share in zip(names, shares, strict=True) if share > 0}


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
    return table.assign(duplicate_set=connect(first, second, len(table)))


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

    A group is the one that the source gives, else what the pattern finds in the file's name, else
    the patient's pseudonym in a DICOM header, else the file itself; duplicates join groups.

    Args:
        table: of the columns `path`, `given_group`, `patient`, `error` and `duplicate_set`.
        pattern: a regular expression with a group `group`, searched in the file's name; `none` or
            None: names have no group.

    Returns:
        The table with `group`, the alphabetically first of the names that were joined (empty where
        there is an error), and `group_source`, `source`, `name`, `dicom` or `file`.
    """
    file_names = table["path"].str.split("/").str[-1]
    # This pattern finds an empty group in each name.
    if pattern in (None, NO_GROUPS):
        pattern = "(?P<group>)"
    in_name = file_names.str.extract(pattern)["group"].fillna("").str.strip()
    candidates = [table["given_group"], in_name, table["patient"]]
    conditions = [candidate != "" for candidate in candidates]
    names = np.select(conditions, candidates, table["path"])
    sources = np.select(conditions, ["source", "name", "dicom"], "file")
    # A graph whose nodes are names and sets of duplicates; each file links one of either.
    name_codes, unique_names = pd.factorize(names)
    set_codes, unique_sets = pd.factorize(table["duplicate_set"])
    count = len(unique_names) + len(unique_sets)
    components = connect(name_codes, len(unique_names) + set_codes, count)
    groups = pd.Series(names, table.index).groupby(components[name_codes]).transform("min")
    return table.assign(group=groups.where(table["error"] == "", ""), group_source=sources)


def add_reasons(table: pd.DataFrame) -> pd.DataFrame:
    """Add `reason`: why a file is left out, `<code>: <text>`, or empty."""
    duplicate = f"{EXACT_DUPLICATE}: same bytes as " + table["duplicate_of"]
    conflict = f"{CONFLICT}: same image as " + table["conflict_with"]
    reason = table["error"].mask(table["duplicate_of"] != "", duplicate)
    return table.assign(reason=reason.mask(table["conflict_with"] != "", conflict))


def assign_splits(table: pd.DataFrame, fractions: Mapping[str, float], seed: int) -> pd.DataFrame:
    """Add `split`, and the reason where a file of a given split is left out.

    Args:
        table: of the columns `path`, `label`, `group`, `reason` and `given_split`.
        fractions: of each split, see `name_fractions`.
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
    groups: pd.Series, labels: pd.Series, fractions: Mapping[str, float], seed: int
) -> pd.Series:
    """Assign whole groups to splits, as close to the target fractions of each class as possible.

    The largest groups go first, each to the split that lacks the largest part of its classes; the
    best of several shuffled attempts is taken. Each split gets a group of each class. Train gets
    two where there is no validation split, since training divides it into folds.

    Args:
        groups: of each image.
        labels: class of each image.
        fractions: of each split; they are above 0 and sum to 1.
        seed: equal seeds give equal splits.

    Returns:
        The split of each image.

    Raises:
        ManifestError: a class has too few groups, or the groups can't be divided so that each
            split has every class.
    """
    splits = list(fractions)
    required = _count_required_groups(fractions)
    table = pd.crosstab(groups, labels)
    group_counts = (table > 0).sum()
    if group_counts.min() < required.sum():
        raise ManifestError(
            f"class {group_counts.idxmin()} needs a group (related images, or a single one) for "
            f"each of {_name_places(fractions)}, and has {group_counts.min()} in all: add images, "
            "or loosen data_validation.group_pattern in config.yaml"
        )
    counts = table.to_numpy(float)
    targets = np.outer(list(fractions.values()), counts.sum(0))
    rng = np.random.default_rng(seed)
    best, best_cost = None, np.inf
    for _ in range(max(1, min(_MAX_ATTEMPTS, _MAX_PLACEMENTS // len(counts)))):
        order = rng.permutation(len(counts))
        order = order[np.argsort(-counts[order].sum(1), kind="stable")]
        placement = _place_groups(counts, order, targets, required)
        by_split = [counts[placement == split] for split in range(len(splits))]
        sizes = np.stack([part.sum(0) for part in by_split])
        placed = np.stack([(part > 0).sum(0) for part in by_split])
        cost = float(np.abs(sizes - targets).max(initial=0, where=targets > 0))
        if cost < best_cost and (placed >= required[:, None]).all():
            best, best_cost = placement, cost
        if best_cost == 0:
            break
    if best is None:
        raise ManifestError(
            f"the groups can't be divided so that {_name_places(fractions)} each have every class: "
            "loosen data_validation.group_pattern in config.yaml, or add images"
        )
    return groups.map(pd.Series(np.array(splits)[best], table.index))


def _count_required_groups(fractions: Mapping[str, float]) -> np.ndarray:
    """Return how many groups of each class each split needs."""
    required = np.ones(len(fractions), int)
    if "validation" not in fractions:
        required[list(fractions).index("train")] = _MIN_FOLDS
    return required


def _name_places(fractions: Mapping[str, float]) -> str:
    """Return what needs a group of each class, as a list for a message."""
    places = list(fractions)
    if "validation" not in fractions:
        places.remove("train")
        places.append("two folds of train")
    first = ", ".join(places[:-1])
    return f"{first} and {places[-1]}" if first else places[-1]


def _place_groups(
    counts: np.ndarray, order: np.ndarray, targets: np.ndarray, required: np.ndarray
) -> np.ndarray:
    """Return the index of the split of each group.

    Args:
        counts: images of each group and class, (groups, classes).
        order: in which the groups are placed.
        targets: images of each split and class, (splits, classes).
        required: groups of each class that a split needs, (splits,); the last groups of a class go
            to the splits that still need them.
    """
    missing = targets.copy()
    scale = 1 / np.maximum(targets, 1e-9)
    has_class = counts > 0
    needed = np.repeat(required[:, None], counts.shape[1], axis=1)
    left = has_class.sum(0)
    placement = np.zeros(len(counts), int)
    for group in order:
        own = has_class[group]
        is_scarce = own & (needed.sum(0) >= left)
        urgency = (needed[:, is_scarce] > 0).sum(1)
        lack = (missing * scale) @ own
        split = int(np.where(urgency == urgency.max(), lack, -np.inf).argmax())
        placement[group] = split
        missing[split] -= counts[group]
        needed[split] = np.maximum(needed[split] - own, 0)
        left -= own
    return placement


def read_given_splits(paths: pd.Series, fractions: Mapping[str, float]) -> pd.Series:
    """Return the split that each file's first folder names: `train`, `validation` or `test`.

    Without a fraction of validation, the images of both train and validation are in train.

    Args:
        paths: of all files.
        fractions: of each split, see `name_fractions`.

    Raises:
        ManifestError: not all files are in such folders, none are in train or in test, or test has
            no fraction.
    """
    hint = "set data_validation.split to grouped in config.yaml, or use a source that has splits"
    given_split = paths.str.split("/").str[0].str.lower().map(SPLIT_OF_FOLDER)
    if given_split.isna().any() or (paths.str.count("/") < 2).any():
        raise ManifestError(f"split: as_given, but the data's folders name no splits; {hint}")
    if "validation" not in fractions:
        given_split = given_split.replace("validation", "train")
    missing = {"train", "test"} - set(given_split)
    if missing:
        raise ManifestError(
            f"split: as_given, but the data has no folder for {sorted(missing)[0]}; {hint}"
        )
    if "test" not in fractions:
        raise ManifestError(
            "split: as_given, and the data has a test split, but SPLIT has none: set SPLIT to "
            "[0.8, 0.2] in params.yaml to test on it, or data_validation.split to grouped in "
            "config.yaml to train on all images"
        )
    return given_split


def _keep_given_splits(
    used: pd.DataFrame, fractions: Mapping[str, float], seed: int
) -> pd.DataFrame:
    """Keep the given split, except that no group may be in two splits.

    A group that is in test stays there alone; one in train and validation stays in validation. So
    test is as it was given, and files are lost only where the model learns from them. Where there
    is a fraction of validation and the data has no such split, whole groups move there from train.
    """
    order = used["given_split"].map(SPLITS.index)
    group_split = order.groupby(used["group"]).transform("max").map(dict(enumerate(SPLITS)))
    leaks = used["given_split"] != group_split
    kept = used[~leaks]
    split = kept["given_split"].copy()
    if "validation" in fractions and "validation" not in set(used["given_split"]):
        train = kept[split == "train"]
        total = fractions["train"] + fractions["validation"]
        pair = {name: fractions[name] / total for name in ("train", "validation")}
        split.update(split_groups(train["group"], train["label"], pair, seed))
    for name in fractions:
        missing = sorted(set(used["label"]) - set(kept["label"][split == name]))
        if missing:
            raise ManifestError(
                f"split: as_given leaves no {', '.join(missing)} in {name} once duplicates and "
                "groups that cross splits are left out; set data_validation.split to grouped in "
                "config.yaml"
            )
    train_groups = kept[split == "train"].groupby("label")["group"].nunique()
    if "validation" not in fractions and train_groups.min() < _MIN_FOLDS:
        raise ManifestError(
            f"split: as_given leaves one group of {train_groups.idxmin()} in train, and training "
            "needs one for each of two folds: add images, loosen data_validation.group_pattern, or "
            "set data_validation.split to grouped in config.yaml"
        )
    reason = used["reason"].mask(leaks, f"{LEAKAGE}: its group is in " + group_split)
    return used.assign(split=split.reindex(used.index, fill_value=""), reason=reason)


def connect(first: np.ndarray, second: np.ndarray, count: int) -> np.ndarray:
    """Return the number of the connected component of each of `count` nodes."""
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(count, count))
    return connected_components(graph, directed=False)[1]
