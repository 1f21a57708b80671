"""Divide groups among train, validation and test, or keep the split that the data came with."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cnnClassifier.dataset.layout import SPLITS as SPLIT_OF_FOLDER
from cnnClassifier.entity.manifest import SPLITS
from cnnClassifier.utils.errors import ManifestError

LEAKAGE = "leakage"  # code of the reason to leave out a file of a given split
_MAX_PLACEMENTS = 200_000  # groups placed, over all attempts
_MAX_ATTEMPTS = 100


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
    for label, group_count in (table > 0).sum().items():
        if group_count < len(splits):
            raise ManifestError(
                f"class {label} needs a group (a patient, series or single image) for each of "
                f"{split_names}, and has {group_count} in all: add images, or loosen "
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
    for split in ("train", "test"):
        if split not in set(given_split):
            raise ManifestError(f"split: as_given, but the data has no folder for {split}; {hint}")
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


def check_leakage(table: pd.DataFrame) -> None:
    """Make sure that no content and no group is in two splits.

    Raises:
        ManifestError: one is.
    """
    used = table[table["split"] != ""]
    for column in ("sha256", "group"):
        split_counts = used.groupby(column)["split"].nunique()
        if split_counts.max() > 1:
            raise ManifestError(f"{column} {split_counts.idxmax()} is in two splits")
