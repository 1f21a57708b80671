"""Divide groups among train, validation and test."""

from collections.abc import Sequence

import numpy as np

from cnnClassifier.entity.manifest import SPLITS
from cnnClassifier.utils.errors import ManifestError

_WORK = 200_000  # groups placed, over all tries


def split_groups(
    groups: Sequence[str], labels: Sequence[str], shares: tuple[float, float, float], seed: int
) -> dict[str, str]:
    """Assign whole groups to splits, as near to the wished shares of each class as the groups allow.

    Large groups go first, each to the split that lacks most of its classes; of several shuffled tries the one whose
    shares come nearest is taken.

    Args:
        groups: of each image.
        labels: class of each image.
        shares: of train, validation and test.
        seed: equal seeds give equal splits.

    Returns:
        For each group its split.

    Raises:
        ManifestError: a class has fewer than three groups, or can't be brought into every split.
    """
    names = sorted(set(groups))
    classes = sorted(set(labels))
    counts = np.zeros((len(names), len(classes)))
    np.add.at(
        counts,
        (np.searchsorted(names, list(groups)), np.searchsorted(classes, list(labels))),
        1,
    )
    for label, present in zip(classes, (counts > 0).sum(0), strict=True):
        if present < len(SPLITS):
            count = f"{present} group{'' if present == 1 else 's'}"
            raise ManifestError(
                f"class {label} has {count} (patients, series or single images); train, validation and test need one "
                "each: add images, or loosen data_validation.group_pattern in config.yaml"
            )
    wanted = np.outer(shares, counts.sum(0))
    rng = np.random.default_rng(seed)
    best, best_cost = None, np.inf
    for _ in range(max(1, min(100, _WORK // len(names)))):
        order = rng.permutation(len(names))
        order = order[np.argsort(-counts[order].sum(1), kind="stable")]
        placed = _place(counts, order, wanted)
        got = np.stack([counts[placed == split].sum(0) for split in range(len(SPLITS))])
        cost = float(np.abs(got - wanted).max(initial=0, where=wanted > 0)) + (1e9 if (got == 0).any() else 0)
        if cost < best_cost:
            best, best_cost = placed, cost
    if best is None or best_cost >= 1e9:
        raise ManifestError(
            "the groups can't be divided so that train, validation and test each hold every class: "
            "loosen data_validation.group_pattern in config.yaml, or add images"
        )
    return {name: SPLITS[split] for name, split in zip(names, best, strict=True)}


def _place(counts: np.ndarray, order: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    lacking = wanted.copy()
    scale = 1 / np.maximum(wanted, 1e-9)
    placed = np.zeros(len(counts), int)
    for group in order:
        split = int(((lacking * scale) @ (counts[group] > 0)).argmax())
        placed[group] = split
        lacking[split] -= counts[group]
    return placed
