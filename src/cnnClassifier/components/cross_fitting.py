"""Fit the heads of both kinds in folds, and combine them: for training and for search trials."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from cnnClassifier.entity.bundle import (
    HeadKind,
    apply_temperature,
    apply_threshold,
    heads_disagreement,
)
from cnnClassifier.entity.config_entity import FitConfig, TrainingConfig
from cnnClassifier.entity.manifest import Entry, Manifest
from cnnClassifier.evaluation.calibration import calibrate, fit_temperature
from cnnClassifier.evaluation.metrics import LabeledPredictions
from cnnClassifier.network.architecture import LINEAR, local_kind_of
from cnnClassifier.network.cross_fitting import (
    LinearHeads,
    assign_folds,
    combination_weights,
    cross_fit,
    fit_linear_heads,
)
from cnnClassifier.network.feature_cache import Features
from cnnClassifier.network.training import EpochCallback, History, trains_backbone
from cnnClassifier.utils.errors import ManifestError

if TYPE_CHECKING:
    import keras

_DISAGREEMENT_QUANTILE = 0.95  # of the training images; above it a prediction is uncertain


@dataclass(frozen=True)
class TrainingImages:
    """All images outside the test split, with their folds.

    Attributes:
        entries: of the manifest.
        labels: class indices, int (n,).
        groups: of each image, str (n,).
        folds: the fold that holds an image out in each repeat, int (repeats, n); -1: none. With a
            fixed validation split its images are the only fold.
    """

    entries: list[Entry]
    labels: np.ndarray
    groups: np.ndarray
    folds: np.ndarray

    @classmethod
    def read(cls, manifest: Manifest, config: TrainingConfig, repeats: int) -> "TrainingImages":
        """Take the images of the manifest, and assign them to folds.

        Raises:
            ManifestError: a class is missing, or has a single group.
        """
        train = manifest.in_split("train")
        validation = [entry for entry in manifest.entries if entry.split == "validation"]
        entries = sorted(train + validation)
        labels = manifest.labels(entries)
        groups = np.array([entry.group for entry in entries])
        if validation:
            manifest.in_split("validation")  # it has every class
            in_validation = [entry.split == "validation" for entry in entries]
            return cls(entries, labels, groups, np.where(in_validation, 0, -1)[np.newaxis])
        counts = pd.Series(groups).groupby(labels).nunique()
        if counts.min() < 2:
            name = manifest.classes[int(counts.to_numpy().argmin())]
            raise ManifestError(
                f"class {name} has one group (related images, or a single one) outside the test "
                "split: training needs two, one to learn from and one to check on; add images"
            )
        folds = min(config.folds, int(counts.min()))
        return cls(
            entries, labels, groups, assign_folds(labels, groups, folds, repeats, config.fit.seed)
        )

    @property
    def fold_count(self) -> int:
        """Number of folds: fewer than FOLDS where a class has fewer groups."""
        return int(self.folds.max()) + 1

    @property
    def is_held_out(self) -> np.ndarray:
        """Whether a fold holds the image out, bool (n,)."""
        return self.folds[0] >= 0


class FittedHeads(NamedTuple):
    """The heads, and what those predict that haven't seen the image.

    Attributes:
        heads: weight and temperature of each kind in the combination; those of weight 0 are left
            out.
        out_of_fold: calibrated probabilities of each kind, the baseline `linear` always among them,
            (n, classes): the mean over the repeats; NaN where an image is never held out.
        probabilities: of the combination, likewise.
        disagreement: of the repeats on each image, (n,).
        linear: the linear heads.
        history: of the local heads; empty where there are none.
    """

    heads: dict[str, HeadKind]
    out_of_fold: dict[str, np.ndarray]
    probabilities: np.ndarray
    disagreement: np.ndarray
    linear: LinearHeads
    history: History

    @property
    def max_disagreement(self) -> float | None:
        """Limit for an uncertain prediction; None if there is one repeat alone."""
        if not self.disagreement.any():
            return None
        return round(float(np.quantile(self.disagreement, _DISAGREEMENT_QUANTILE)), 4)


def fit_linear(features: Features, images: TrainingImages, config: FitConfig) -> LinearHeads:
    """Fit the linear heads on the block averages of the images without augmentation."""
    views = len(features) // len(images.labels)
    averages = features[::views].averages().astype(np.float64)
    return fit_linear_heads(averages, images.labels, images.folds, config.class_weights)


def fit_heads(
    tail: "keras.Model | None",
    features: Features,
    images: TrainingImages,
    head: str,
    config: FitConfig,
    verbose: int | None = None,
    on_epoch: EpochCallback = lambda metrics, epoch: None,
    linear: LinearHeads | None = None,
    checkpoint_dir: Path | None = None,
) -> FittedHeads:
    """Fit the local heads and the linear ones in the same folds, and weight the two kinds.

    Args:
        tail: from the cached feature maps to the local heads' probabilities; None: there are none.
        features: of the images, in one or more views.
        images: their labels and folds.
        head: as HEAD in params.yaml. `auto` combines both kinds, except where blocks of the
            backbone are trained: the linear heads need the maps as they were.
        config: of the optimization.
        verbose: see `cross_fit`.
        on_epoch: see `cross_fit`.
        linear: from `fit_linear` on the same images; None: they are fitted as well.
        checkpoint_dir: see `cross_fit`.
    """
    labels, folds = images.labels, images.folds
    linear = linear or fit_linear(features, images, config)
    by_kind: dict[str, np.ndarray] = {}
    history: History = {}
    if tail is not None:
        kind = str(local_kind_of(tail))
        by_kind[kind], history = cross_fit(
            tail, features, labels, folds, config, verbose, on_epoch, checkpoint_dir
        )
    by_kind[LINEAR] = linear.out_of_fold
    temperatures = {}
    for kind, probabilities in by_kind.items():
        temperatures[kind] = _temperature(labels, probabilities)
        by_kind[kind] = _calibrated(probabilities, temperatures[kind])
    candidates = dict(by_kind)
    is_fine_tuned = tail is not None and trains_backbone(tail)
    if head != LINEAR and (head != "auto" or is_fine_tuned):
        del candidates[LINEAR]
    weights = combination_weights(labels, candidates)
    combined = np.sum([weights[kind] * by_kind[kind] for kind in candidates], axis=0)
    heads = {}
    for kind, weight in weights.items():
        if weight > 0:
            heads[kind] = HeadKind(weight=weight, temperature=temperatures[kind])
    return FittedHeads(
        heads=heads,
        out_of_fold={kind: probabilities.mean(0) for kind, probabilities in by_kind.items()},
        probabilities=combined.mean(0),
        disagreement=heads_disagreement(combined.transpose(1, 0, 2)),
        linear=linear,
        history=history,
    )


def out_of_fold_predictions(
    images: TrainingImages,
    probabilities: np.ndarray,
    positive: int | None,
    min_sensitivity: float | None,
) -> tuple[LabeledPredictions, dict[str, Any]]:
    """Calibrate what a fold holds out, and choose thresholds.

    Args:
        images: with labels and folds.
        probabilities: by heads that haven't seen the image, (n, classes).
        positive: index of the positive class, if there is one.
        min_sensitivity: see `calibrate`.

    Returns:
        The predictions for the images that a fold holds out, and what `calibrate` chose.
    """
    used = images.is_held_out
    labels = images.labels[used]
    decision = calibrate(labels, probabilities[used], positive, min_sensitivity)
    calibrated = apply_temperature(probabilities[used], decision["temperature"])
    predicted = apply_threshold(calibrated, positive, decision["threshold"])
    predictions = LabeledPredictions.create(
        labels, calibrated, predicted, images.groups[used], positive
    )
    return predictions, decision


def _temperature(labels: np.ndarray, out_of_fold: np.ndarray) -> float:
    """Return the temperature for the predictions of all repeats, (repeats, n, classes)."""
    used = np.isfinite(out_of_fold[..., 0])
    repeated = np.broadcast_to(labels, used.shape)
    return fit_temperature(repeated[used], out_of_fold[used])


def _calibrated(out_of_fold: np.ndarray, temperature: float) -> np.ndarray:
    calibrated = np.full(out_of_fold.shape, np.nan)
    used = np.isfinite(out_of_fold[..., 0])
    calibrated[used] = apply_temperature(out_of_fold[used], temperature)
    return calibrated
