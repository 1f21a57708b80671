"""What can be told of the class without looking at the content."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from cnnClassifier.dataset.audit import FileFacts

SHORTCUTS = {
    "file_facts": "file facts (size, aspect, mode, bytes)",
    "size": "width, height and aspect",
    "grey": "mean and spread of grey",
    "border": "border pixels (the outer 5 % on each side)",
    "thumbnail": "a 32×32 thumbnail",
}
MOST_IMAGES = 5000  # that the models are fitted to; more would take minutes and change nothing
_FOLDS = 5
_COMPONENTS = 40
_ROUNDING = 1e-6  # variance of a component of nothing, where many images are copies
_MOST_REPEATS = 5
_RESAMPLES = 300
_INTERVAL = (2.5, 97.5)


@dataclass(frozen=True)
class Reach:
    """How well the classes are told apart: area under the ROC curve, and its 95 % interval over groups."""

    auc: float
    low: float
    high: float


@threadpool_limits.wrap(
    limits=1
)  # the matrices are small: threads would wait for one another most of the time
def shortcuts(facts: Sequence[FileFacts], groups: Sequence[str], seed: int) -> dict[str, Reach]:
    """Measure how far simple models get on what isn't the content.

    Each is a logistic regression, of the thumbnail on its principal components (Turk & Pentland 1991), assessed on
    folds that keep groups whole; with few images the mean of several ways to make the folds, which would else decide
    much. The interval is a bootstrap over groups.
    With more than two classes the AUC is the mean of each class against the rest. Of more than `MOST_IMAGES` images
    some are drawn, as many of each class as there can be.

    Args:
        facts: the images in use.
        groups: of each image.
        seed: equal seeds give equal figures.

    Returns:
        For each of `SHORTCUTS` its reach; nothing where a class has fewer than two groups.
    """
    chosen = _sample([fact.label for fact in facts], seed)
    facts = [facts[place] for place in chosen]
    names, labels = np.unique([fact.label for fact in facts], return_inverse=True)
    units = np.unique([groups[place] for place in chosen], return_inverse=True)[1]
    folds = min(_FOLDS, *(len(np.unique(units[labels == label])) for label in range(len(names))))
    if len(names) < 2 or folds < 2:
        return {}
    # The same resamples for all: what differs between two figures is then the shortcut alone.
    rng = np.random.default_rng(seed)
    count = units.max() + 1
    drawn = [
        np.bincount(rng.integers(count, size=count), minlength=count)[units]
        for _ in range(_RESAMPLES)
    ]
    weights = np.stack([np.ones(len(labels), int), *drawn])
    times = max(1, min(_MOST_REPEATS, MOST_IMAGES // (2 * len(labels))))
    found = {}
    for name, table in _tables(facts).items():
        repeats = [
            _aucs(labels, _out_of_fold(table, labels, units, folds, seed + n), weights)
            for n in range(times)
        ]
        aucs = np.mean(repeats, axis=0)
        low, high = np.nanpercentile(aucs, _INTERVAL)
        found[name] = Reach(round(float(aucs[0]), 4), round(float(low), 4), round(float(high), 4))
    return found


def _sample(labels: Sequence[str], seed: int) -> np.ndarray:
    """Return the places of at most `MOST_IMAGES`, in order; large classes give up images before small ones."""
    order = np.random.default_rng(seed).permutation(len(labels))
    rank = np.empty(len(labels), int)
    seen: dict[str, int] = {}
    for place in order:
        rank[place] = seen[labels[place]] = seen.get(labels[place], -1) + 1
    return np.sort(order[np.argsort(rank[order], kind="stable")][:MOST_IMAGES])


def _tables(facts: Sequence[FileFacts]) -> dict[str, np.ndarray]:
    """Return for each shortcut what its model sees: float64, (images, figures)."""
    width, height = np.array([fact.shape for fact in facts], float).T
    size = np.log(np.stack([width, height, width / height], 1))
    stored = np.log([fact.bytes for fact in facts])
    kinds = sorted({(fact.mode, fact.format) for fact in facts})
    kind = np.array([[(fact.mode, fact.format) == one for one in kinds] for fact in facts], float)
    thumbnails = np.stack([fact.thumbnail for fact in facts])
    return {
        "file_facts": np.column_stack([size, stored, stored - np.log(width * height), kind]),
        "size": size,
        "grey": np.array([fact.grey for fact in facts]),
        "border": np.array([fact.border for fact in facts]),
        "thumbnail": thumbnails.reshape(len(facts), 32, 2, 32, 2)
        .mean((2, 4))
        .reshape(len(facts), -1),
    }


def _out_of_fold(
    table: np.ndarray, labels: np.ndarray, units: np.ndarray, folds: int, seed: int
) -> np.ndarray:
    """Return the probabilities that a model gives to images whose groups it hasn't seen: (images, classes)."""
    from sklearn.decomposition import PCA
    from sklearn.feature_selection import VarianceThreshold
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scores = np.zeros((len(labels), labels.max() + 1))
    for train, test in StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(
        table, labels, units
    ):
        known = np.unique(labels[train])
        if len(known) == 1:
            scores[test, known[0]] = 1
            continue
        # A thousand grey levels of a few hundred images would be learnt by heart.
        main = PCA(min(_COMPONENTS, len(train)), random_state=seed)
        fewer = [main, VarianceThreshold(_ROUNDING)] if table.shape[1] > _COMPONENTS else []
        logistic = LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000)
        model = make_pipeline(*fewer, StandardScaler(), logistic)
        scores[np.ix_(test, known)] = model.fit(table[train], labels[train]).predict_proba(
            table[test]
        )
    return scores


def _aucs(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return for each row of weights the AUC, the mean of each class against the rest where there are more than two.

    Args:
        labels: (images,).
        scores: (images, classes).
        weights: whole numbers, (rows, images).

    Returns:
        float64, (rows,); NaN where a row leaves a class no image.
    """
    classes = [1] if scores.shape[1] == 2 else range(scores.shape[1])
    aucs = []
    for label in classes:
        order = np.argsort(scores[:, label], kind="stable")
        levels = np.flatnonzero(np.diff(scores[order, label], prepend=-1))
        is_class = labels[order] == label
        inside = np.add.reduceat(weights[:, order] * is_class, levels, axis=1)
        outside = np.add.reduceat(weights[:, order] * ~is_class, levels, axis=1)
        won = (inside * (outside.cumsum(1) - outside / 2)).sum(1)
        pairs = (inside.sum(1) * outside.sum(1)).astype(float)
        aucs.append(np.divide(won, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0))
    return np.mean(aucs, axis=0)
