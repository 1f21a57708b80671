"""Divide groups among train, validation and test, or keep the split that the data came with."""

from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from cnnClassifier.dataset.layout import SPLITS as SPLIT_FOLDERS
from cnnClassifier.entity.manifest import SPLITS
from cnnClassifier.utils.errors import ManifestError

_WORK = 200_000  # groups placed, over all tries


def split_groups(
    groups: Sequence[str], labels: Sequence[str], shares: Sequence[float], seed: int
) -> dict[str, str]:
    """Assign whole groups to splits, as near to the wished shares of each class as the groups allow.

    Large groups go first, each to the split that lacks most of its classes; of several shuffled tries the one whose
    shares come nearest is taken.

    Args:
        groups: of each image.
        labels: class of each image.
        shares: of train, validation and test; or of train and validation alone.
        seed: equal seeds give equal splits.

    Returns:
        For each group its split.

    Raises:
        ManifestError: a class has fewer groups than there are splits, or can't be brought into every split.
    """
    splits = SPLITS[: len(shares)]
    all_splits = f"{', '.join(splits[:-1])} and {splits[-1]}"
    names = sorted(set(groups))
    classes = sorted(set(labels))
    counts = np.zeros((len(names), len(classes)))
    np.add.at(
        counts,
        (np.searchsorted(names, list(groups)), np.searchsorted(classes, list(labels))),
        1,
    )
    for label, present in zip(classes, (counts > 0).sum(0), strict=True):
        if present < len(splits):
            raise ManifestError(
                f"class {label} has {present} group{'' if present == 1 else 's'} (patients, series or single images); "
                f"{all_splits} need one each: add images, or loosen data_validation.group_pattern in config.yaml"
            )
    wanted = np.outer(shares, counts.sum(0))
    rng = np.random.default_rng(seed)
    best, best_cost = None, np.inf
    for _ in range(max(1, min(100, _WORK // len(names)))):
        order = rng.permutation(len(names))
        order = order[np.argsort(-counts[order].sum(1), kind="stable")]
        placed = _place(counts, order, wanted)
        got = np.stack([counts[placed == split].sum(0) for split in range(len(splits))])
        cost = float(np.abs(got - wanted).max(initial=0, where=wanted > 0)) + (
            1e9 if (got == 0).any() else 0
        )
        if cost < best_cost:
            best, best_cost = placed, cost
    if best is None or best_cost >= 1e9:
        raise ManifestError(
            f"the groups can't be divided so that {all_splits} each hold every class: "
            "loosen data_validation.group_pattern in config.yaml, or add images"
        )
    return {name: splits[split] for name, split in zip(names, best, strict=True)}


def _place(counts: np.ndarray, order: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    lacking = wanted.copy()
    scale = 1 / np.maximum(wanted, 1e-9)
    placed = np.zeros(len(counts), int)
    for group in order:
        split = int(((lacking * scale) @ (counts[group] > 0)).argmax())
        placed[group] = split
        lacking[split] -= counts[group]
    return placed


def given_splits(paths: Sequence[str]) -> list[str]:
    """Return the split that each file's folder names: `train`, `validation` or `test`.

    Raises:
        ManifestError: the data isn't divided into folders of that kind, or has no train or no test folder.
    """
    mend = "set data_validation.split to grouped in config.yaml, or take a source that is split"
    parts = [PurePosixPath(path).parts for path in paths]
    if not all(len(part) > 2 and part[0].lower() in SPLIT_FOLDERS for part in parts):
        raise ManifestError(f"split: as_given, but the data's folders give no split; {mend}")
    given = [SPLIT_FOLDERS[part[0].lower()] for part in parts]
    for split in ("train", "test"):
        if split not in given:
            raise ManifestError(f"split: as_given, but the data has no folder for {split}; {mend}")
    return given


def keep_given(
    given: Sequence[str],
    groups: Sequence[str],
    labels: Sequence[str],
    shares: Sequence[float],
    seed: int,
) -> list[str]:
    """Keep a given split as far as no group stands in two of them.

    A group that stands in test stays there alone; one that stands in train and validation stays in validation. So
    test is as it was given, and what is lost is lost where it may be learnt from. Where no validation is given, whole
    groups are taken from train for it, at its share of the two.

    Args:
        given: split of each image.
        groups: of each image.
        labels: class of each image.
        shares: of train, validation and test.
        seed: for what is taken from train.

    Returns:
        The split of each image; empty for one whose group stands in a split that goes before.

    Raises:
        ManifestError: a class is missing from a split, or can't be divided between train and validation.
    """
    home: dict[str, str] = {}
    for group, split in zip(groups, given, strict=True):
        home[group] = max(home.get(group, ""), split, key=("", *SPLITS).index)
    kept = [
        split if home[group] == split else "" for group, split in zip(groups, given, strict=True)
    ]
    if "validation" not in given:
        train = [place for place, split in enumerate(kept) if split == "train"]
        pair = (shares[0] / (shares[0] + shares[1]), shares[1] / (shares[0] + shares[1]))
        drawn = split_groups(
            [groups[place] for place in train], [labels[place] for place in train], pair, seed
        )
        for place in train:
            kept[place] = drawn[groups[place]]
    for split in SPLITS:
        missing = set(labels) - {
            label for label, its in zip(labels, kept, strict=True) if its == split
        }
        if missing:
            raise ManifestError(
                f"split: as_given leaves no {', '.join(sorted(missing))} in {split} once copies and groups that cross "
                "splits are left out; set data_validation.split to grouped in config.yaml"
            )
    return kept
