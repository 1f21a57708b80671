"""Measure how well simple models tell the classes apart without the content of the images."""

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

SHORTCUTS = {
    "file_properties": "file properties (size, aspect ratio, mode, bytes)",
    "size": "width, height and aspect ratio",
    "gray": "mean and standard deviation of the gray levels",
    "border": "border pixels (the outer 5% on each side)",
    "thumbnail": "a 32×32 thumbnail",
}
MAX_IMAGES = 5000  # that the models are fitted to; more would take minutes and change nothing
_N_SPLITS = 5
_COMPONENTS = 40
_MIN_VARIANCE = 1e-6  # of a principal component; below it is rounding, where many images are equal
_MAX_REPEATS = 5
_N_RESAMPLES = 300


# The matrices are small: threads would mostly wait for one another.
@threadpool_limits.wrap(limits=1)
def measure_shortcuts(
    table: pd.DataFrame, thumbnails: np.ndarray, seed: int
) -> dict[str, dict[str, float]]:
    """Measure the ROC AUC that simple models reach on what isn't the content.

    Each is a logistic regression, of the thumbnail on its principal components (Turk & Pentland
    1991), evaluated in folds that keep groups whole. With few images the folds decide much, so the
    AUC is averaged over several ways to make them. The interval is a bootstrap over groups. With
    more than two classes the AUC is the mean of each class against the rest. Of more than
    `MAX_IMAGES` images a sample is drawn, as balanced as possible.

    Args:
        table: the images in use, of the columns `label`, `group`, `width`, `height`, `bytes`,
            `mode`, `format`, `mean_intensity`, `gray_std` and `border_*`.
        thumbnails: uint8, (images, 32, 32).
        seed: equal seeds give equal values.

    Returns:
        For each key of `SHORTCUTS` its `auc` and 95% interval, `low` and `high`; nothing where a
        class has fewer than two groups.
    """
    sample = _balanced_sample(table["label"].to_numpy(), seed)
    table, thumbnails = table.iloc[sample], thumbnails[sample]
    n_splits = min(_N_SPLITS, table.groupby("label")["group"].nunique().min())
    if table["label"].nunique() < 2 or n_splits < 2:
        return {}
    labels = pd.factorize(table["label"], sort=True)[0]
    groups, group_names = pd.factorize(table["group"], sort=True)
    # The same resamples for all, so that two values differ by the shortcut alone.
    rng = np.random.default_rng(seed)
    count = len(group_names)
    resamples = rng.multinomial(count, np.full(count, 1 / count), _N_RESAMPLES)[:, groups]
    weights = np.vstack([np.ones(len(labels), int), resamples])
    repeats = max(1, min(_MAX_REPEATS, MAX_IMAGES // (2 * len(labels))))
    result = {}
    for name, features in _features(table, thumbnails).items():
        aucs = np.zeros(len(weights))
        for repeat in range(repeats):
            scores = _predict_out_of_fold(features, labels, groups, n_splits, seed + repeat)
            aucs += weighted_auc(labels, scores, weights) / repeats
        values = [aucs[0], *np.nanpercentile(aucs, (2.5, 97.5))]
        result[name] = dict(zip(("auc", "low", "high"), np.round(values, 4).tolist(), strict=True))
    return result


def _balanced_sample(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return the rows of at most `MAX_IMAGES` images, sorted; large classes lose images first."""
    order = np.random.default_rng(seed).permutation(len(labels))
    rank_in_class = pd.Series(labels[order]).groupby(labels[order]).cumcount()
    return np.sort(order[np.argsort(rank_in_class, kind="stable")][:MAX_IMAGES])


def _features(table: pd.DataFrame, thumbnails: np.ndarray) -> dict[str, np.ndarray]:
    """Return the input of each shortcut's model: float64, (images, features)."""
    aspect_ratio = table["width"] / table["height"]
    size = np.log(np.column_stack([table["width"], table["height"], aspect_ratio]))
    file_bytes = np.log(table["bytes"])
    bytes_per_pixel = file_bytes - np.log(table["width"] * table["height"])
    kind = pd.get_dummies(table["mode"] + " " + table["format"], dtype=float)
    return {
        "file_properties": np.column_stack([size, file_bytes, bytes_per_pixel, kind]),
        "size": size,
        "gray": table[["mean_intensity", "gray_std"]].to_numpy(),
        "border": table.filter(like="border_").to_numpy(),
        "thumbnail": thumbnails.reshape(len(table), -1).astype(float),
    }


def _predict_out_of_fold(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, n_splits: int, seed: int
) -> np.ndarray:
    """Return the probabilities of images whose groups the model hasn't seen: (images, classes)."""
    from sklearn.decomposition import PCA
    from sklearn.feature_selection import VarianceThreshold
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scores = np.zeros((len(labels), labels.max() + 1))
    splitter = StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)
    for train, test in splitter.split(features, labels, groups):
        classes = np.unique(labels[train])
        if len(classes) == 1:
            scores[test, classes[0]] = 1
            continue
        steps = [StandardScaler()]
        if features.shape[1] > _COMPONENTS:
            # A thousand gray levels of a few hundred images would be learnt by heart.
            components = PCA(min(_COMPONENTS, len(train)), random_state=seed)
            steps = [components, VarianceThreshold(_MIN_VARIANCE), *steps]
        steps.append(LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000))
        model = make_pipeline(*steps).fit(features[train], labels[train])
        scores[np.ix_(test, classes)] = model.predict_proba(features[test])
    return scores


def weighted_auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the ROC AUC for many weightings of the images at once.

    It is the Mann-Whitney statistic, with ties counted half, as
    `sklearn.metrics.roc_auc_score(..., sample_weight=...)` gives for one row of weights.

    Args:
        labels: class indices, (images,).
        scores: (images, classes).
        weights: whole numbers, (rows, images).

    Returns:
        float64, (rows,), the mean over classes if there are more than two; NaN where the weights
        leave a class without images.
    """
    classes = [1] if scores.shape[1] == 2 else range(scores.shape[1])
    aucs = []
    for label in classes:
        order = np.argsort(scores[:, label], kind="stable")
        starts = np.flatnonzero(np.diff(scores[order, label], prepend=-1))
        is_class = labels[order] == label
        positives = np.add.reduceat(weights[:, order] * is_class, starts, axis=1)
        negatives = np.add.reduceat(weights[:, order] * ~is_class, starts, axis=1)
        wins = (positives * (negatives.cumsum(1) - negatives / 2)).sum(1)
        pairs = (positives.sum(1) * negatives.sum(1)).astype(float)
        aucs.append(np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0))
    return np.mean(aucs, axis=0)
