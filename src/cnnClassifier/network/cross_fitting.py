"""Cross-fitting: a head for each fold, and predictions by heads that haven't seen the image.

Cross-fitting: Chernozhukov et al. 2018; the mean of the heads: Lakshminarayanan et al. 2017; the
weights of two kinds of head from out-of-fold predictions: stacking, Wolpert 1992.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from cnnClassifier.entity.config_entity import FitConfig
from cnnClassifier.network.feature_cache import Features
from cnnClassifier.network.training import EpochCallback, History, fit, snapshot
from cnnClassifier.utils.errors import DivergenceError, UserError

if TYPE_CHECKING:
    import keras

_L2_STRENGTHS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 1.0)  # C of LogisticRegression
_WEIGHTS = np.linspace(0, 1, 21)


class LinearHeads(NamedTuple):
    """Logistic regression in folds.

    Attributes:
        out_of_fold: probabilities, (repeats, n, classes); NaN where an image is in no fold.
        kernels: of the heads of the first repeat, (folds, features, classes).
        biases: likewise, (folds, classes).
        l2_strength: scikit-learn's C.
    """

    out_of_fold: np.ndarray
    kernels: np.ndarray
    biases: np.ndarray
    l2_strength: float


def assign_folds(
    labels: np.ndarray, groups: np.ndarray, folds: int, repeats: int, seed: int
) -> np.ndarray:
    """Assign whole groups to folds that have every class in about the same share.

    Args:
        labels: int, (n,).
        groups: of each image, (n,).
        folds: number of folds, at most the number of groups of each class.
        repeats: number of different assignments.
        seed: of the first assignment; the others have the next ones.

    Returns:
        The fold of each image in each repeat, int (repeats, n).
    """
    assignments = np.empty((repeats, len(labels)), int)
    for repeat in range(repeats):
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed + repeat)
        for fold, (_, held_out) in enumerate(splitter.split(labels, labels, groups)):
            assignments[repeat, held_out] = fold
    return assignments


def cross_fit(
    tail: "keras.Model",
    features: Features,
    labels: np.ndarray,
    folds: np.ndarray,
    config: FitConfig,
    verbose: int | None = None,
    on_epoch: EpochCallback = lambda metrics, epoch: None,
    checkpoint_dir: Path | None = None,
) -> tuple[np.ndarray, History]:
    """Fit the heads of a tail in folds; predict each image by a head that hasn't seen it.

    A tail with one head for each fold is fitted once for each repeat and ends with the heads of the
    first. A tail with one head for several folds, of a backbone with trained blocks, is fitted once
    for each fold; at last on all images, for the median of the best numbers of epochs.

    Args:
        tail: from feature maps to probabilities, (n, heads, classes), with its first weights.
        features: the views of the first image, then those of the second, and so on.
        labels: int, (n,).
        folds: int, (repeats, n), see `assign_folds`; -1: the image is never held out.
        config: of the optimization.
        verbose: of `keras.Model.fit`, for the first repeat or the last fit.
        on_epoch: called after each of their epochs.
        checkpoint_dir: see `fit`, for all fits.

    Returns:
        Probabilities, float32 (repeats, n, classes), NaN where an image is in no fold; and the
        history of the first repeat, or of the last fit.

    Raises:
        DivergenceError: the loss is not finite.
    """
    options: dict[str, Any]
    restore = snapshot(tail)
    heads, count = tail.output_shape[1], int(folds.max()) + 1
    out_of_fold = np.full((*folds.shape, tail.output_shape[-1]), np.nan, np.float32)
    if heads == count:
        for repeat in reversed(range(len(folds))):
            restore()
            held_out = _held_out(folds[repeat], np.arange(count))
            options = {"verbose": 0, "checkpoint_dir": checkpoint_dir}
            if repeat == 0:  # the last one
                options |= {"verbose": verbose, "on_epoch": on_epoch}
            fitted = fit(tail, features, labels, held_out, config, **options)
            out_of_fold[repeat] = _of_held_out(fitted.probabilities, held_out)
    else:
        best_epochs = []
        for fold in range(count):
            restore()
            held_out = _held_out(folds[0], np.array([fold]))
            options = {"verbose": 0, "checkpoint_dir": checkpoint_dir}
            fitted = fit(tail, features, labels, held_out, config, **options)
            out_of_fold[0, held_out[:, 0]] = fitted.probabilities[held_out[:, 0], 0]
            best_epochs.append(fitted.best_epochs[0])
        restore()
        everything = config.model_copy(update={"epochs": max(1, int(np.median(best_epochs)))})
        held_out = np.zeros((len(labels), 1), bool)
        options = {"verbose": verbose, "on_epoch": on_epoch, "checkpoint_dir": checkpoint_dir}
        fitted = fit(tail, features, labels, held_out, everything, **options)
    _check_finite(out_of_fold[folds >= 0], config)
    return out_of_fold, fitted.history


def _check_finite(probabilities: np.ndarray, config: FitConfig) -> None:
    if not np.isfinite(probabilities).all():
        raise DivergenceError(
            f"training diverged: lower LEARNING_RATE in params.yaml, now {config.learning_rate:g}"
        )


def _held_out(assignment: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return whether each of some folds holds an image out, bool (n, folds)."""
    return np.equal(assignment[:, np.newaxis], folds)


def _of_held_out(probabilities: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Return for each image the prediction of the head that it was held out from, else NaN."""
    of_head = np.take_along_axis(probabilities, held_out.argmax(1)[:, None, None], axis=1)[:, 0]
    return np.where(held_out.any(axis=1, keepdims=True), of_head, np.nan)


# With more threads these small products wait for each other, above all on a busy machine.
@threadpool_limits.wrap(limits=1)
def fit_linear_heads(
    features: np.ndarray, labels: np.ndarray, folds: np.ndarray, class_weights: str | None
) -> LinearHeads:
    """Fit multinomial logistic regression on standardized features, once for each fold.

    The L2 strength is the one with the lowest out-of-fold log loss, averaged over the repeats.

    Args:
        features: float, (n, features).
        labels: int, (n,); every class occurs in what remains without any one fold.
        folds: int, (repeats, n), see `cross_fit`.
        class_weights: `balanced` or None.
    """
    best: LinearHeads | None = None
    best_loss = np.inf
    for l2_strength in _L2_STRENGTHS:
        heads = _fit_linear_heads(features, labels, folds, class_weights, l2_strength)
        loss = mean_log_loss(labels, heads.out_of_fold)
        if loss < best_loss:
            best, best_loss = heads, loss
    if best is None:
        raise UserError("the features have values that are not finite: use PRECISION: float32")
    return best


def _fit_linear_heads(
    features: np.ndarray,
    labels: np.ndarray,
    folds: np.ndarray,
    class_weights: str | None,
    l2_strength: float,
) -> LinearHeads:
    classes = labels.max() + 1
    out_of_fold = np.full((*folds.shape, classes), np.nan)
    kernels, biases = [], []
    for repeat, assignment in enumerate(folds):
        for fold in range(folds.max() + 1):
            held_out = assignment == fold
            scaler = StandardScaler().fit(features[~held_out])
            regression = LogisticRegression(
                C=l2_strength, class_weight=class_weights, max_iter=1000
            )
            regression.fit(scaler.transform(features[~held_out]), labels[~held_out])
            scaled = scaler.transform(features[held_out])
            out_of_fold[repeat, held_out] = regression.predict_proba(scaled)
            if repeat == 0:
                kernel, bias = _as_softmax(regression.coef_, regression.intercept_)
                kernels.append(kernel / scaler.scale_[:, None])
                biases.append(bias - scaler.mean_ @ kernels[-1])
    return LinearHeads(out_of_fold, np.array(kernels), np.array(biases), l2_strength)


def _as_softmax(coefficients: np.ndarray, intercept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return kernel and bias of a softmax layer; scikit-learn has one row for two classes."""
    if len(coefficients) == 1:
        coefficients = np.concatenate([-coefficients / 2, coefficients / 2])
        intercept = np.concatenate([-intercept / 2, intercept / 2])
    return coefficients.T, intercept


def combination_weights(
    labels: np.ndarray, out_of_fold: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Find the convex combination of one or two kinds of head with the lowest log loss.

    Args:
        labels: int, (n,).
        out_of_fold: calibrated probabilities of each kind, (repeats, n, classes); the log loss is
            averaged over the repeats.

    Returns:
        The weight of each kind, in steps of 0.05; they sum to 1.
    """
    if len(out_of_fold) == 1:
        return dict.fromkeys(out_of_fold, 1.0)
    (first, a), (second, b) = out_of_fold.items()
    losses = [mean_log_loss(labels, weight * a + (1 - weight) * b) for weight in _WEIGHTS]
    weight = round(float(_WEIGHTS[int(np.argmin(losses))]), 2)
    return {first: weight, second: round(1 - weight, 2)}


def mean_log_loss(labels: np.ndarray, out_of_fold: np.ndarray) -> float:
    """Return the log loss averaged over the repeats, of the images that are in a fold.

    Args:
        labels: int, (n,).
        out_of_fold: probabilities, (repeats, n, classes).
    """
    losses = []
    for probabilities in out_of_fold:
        used = np.isfinite(probabilities[:, 0])
        classes = np.arange(probabilities.shape[1])
        normalized = probabilities[used] / probabilities[used].sum(1, keepdims=True)
        losses.append(log_loss(labels[used], normalized.astype(np.float64), labels=classes))
    return float(np.mean(losses))
