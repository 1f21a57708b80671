"""The command crossvalidate: how good is the recipe, on every image, in grouped folds."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from cnnClassifier.components.training_inputs import image_features, open_model, positive_class
from cnnClassifier.entity.bundle import apply_temperature, apply_threshold
from cnnClassifier.entity.config_entity import CrossValidationConfig, TrackingConfig
from cnnClassifier.entity.disclaimers import is_synthetic
from cnnClassifier.entity.manifest import SPLITS, Entry, Manifest
from cnnClassifier.evaluation.calibration import calibrate
from cnnClassifier.evaluation.metrics import LabeledPredictions, compute_metrics
from cnnClassifier.imaging.augment import views_of
from cnnClassifier.network.feature_cache import Features
from cnnClassifier.network.training import fit, predict, snapshot
from cnnClassifier.tracking.datasets import data_tags, log_splits
from cnnClassifier.tracking.tracker import Tracker, track
from cnnClassifier.utils.common import atomic_write, save_json, write_csv
from cnnClassifier.utils.errors import ManifestError
from cnnClassifier.utils.log import logger

if TYPE_CHECKING:
    import keras


class CrossValidation:
    """Train and judge the recipe in grouped, stratified folds; the frozen part runs once an image and view.

    In each fold a part of the training images, as large as a fold, decides when to stop, the temperature and the
    threshold; the held-out images decide nothing.
    """

    def __init__(
        self, config: CrossValidationConfig, tracking: TrackingConfig | None = None
    ) -> None:
        self.config = config
        self.tracking = tracking

    def run(self) -> dict[str, Any]:
        """Run all folds of all seeds, and write `scores.json` and `oof_predictions.csv`.

        Returns:
            The content of `scores.json`.

        Raises:
            ManifestError: a class has fewer groups than there are folds.
        """
        training = self.config.training
        manifest = Manifest.read(training.manifest_path)
        tags = data_tags(training.manifest_path, training.source_URL)
        with track(
            self.tracking, f"{training.backbone} in {self.config.folds} folds", tags
        ) as tracker:
            log_splits(tracker, manifest, training.source_URL, *SPLITS)
            return self._run(manifest, tracker)

    def _run(self, manifest: Manifest, tracker: Tracker) -> dict[str, Any]:
        config, training = self.config, self.config.training
        entries = [entry for entry in manifest.entries if entry.split]
        labels, groups = manifest.labels(entries), np.array([entry.group for entry in entries])
        check_groups(entries, manifest.classes, config.folds)
        positive = manifest.classes.index(positive_class(training.positive_class, manifest.classes))
        _, tail, _, cache = open_model(training)
        items = [
            (entry, view)
            for entry in entries
            for view in views_of(entry.sha256, training.augmentation)
        ]
        features = image_features(cache, items, training)
        every_fold = FoldRunner(config, tail, features, labels, groups, positive)
        folds, rows = [], []
        for seed in config.seeds:
            parts = grouped_folds(labels, groups, config.folds, seed)
            for number, (fitted, stopped, held_out) in enumerate(parts, 1):
                run = tracker.child(f"seed {seed}, fold {number}")
                outcome = every_fold.run(fitted, stopped, held_out, run)
                result = compute_metrics(outcome)
                run.metrics(
                    {name: value for name, value in result.items() if isinstance(value, float)}
                )
                run.finish()
                folds.append({"seed": seed, "fold": number, "n": len(held_out), **result})
                probabilities = outcome.probabilities.round(6).tolist()
                rows += [
                    (
                        seed,
                        number,
                        entries[i].path,
                        entries[i].group,
                        entries[i].label,
                        manifest.classes[call],
                        *row,
                    )
                    for i, call, row in zip(held_out, outcome.predicted, probabilities, strict=True)
                ]
                logger.info(
                    "seed %d, fold %d of %d: balanced accuracy %.3f, ROC AUC %.3f on %d images",
                    *(
                        seed,
                        number,
                        config.folds,
                        result["balanced_accuracy"],
                        result["roc_auc"],
                        len(held_out),
                    ),
                )
        summary = summarise(
            folds, len(entries), len(set(groups)), is_synthetic(training.source_URL)
        )
        with atomic_write(config.root_dir) as staged:
            staged.mkdir()
            save_json(staged / "scores.json", summary)
            header = ("seed", "fold", "path", "group", "actual", "predicted", *manifest.classes)
            write_csv(staged / "oof_predictions.csv", header, rows)
        tracker.files("crossvalidation", sorted(config.root_dir.iterdir()))
        summed = {name: value for name, value in summary.items() if isinstance(value, dict)}
        tracker.metrics(
            {
                f"{name}_{key}": value[key]
                for name, value in summed.items()
                for key in ("mean", "spread")
            }
        )
        for name in ("balanced_accuracy", "roc_auc"):
            logger.info(
                "%s %.3f ± %.3f over %d folds",
                name,
                summary[name]["mean"],
                summary[name]["spread"],
                len(folds),
            )
        return summary


class FoldRunner:
    """Fit the tail anew for each fold: compiled once, brought back to its first weights every time."""

    def __init__(
        self,
        config: CrossValidationConfig,
        tail: "keras.Model",
        features: Features,
        labels: np.ndarray,
        groups: np.ndarray,
        positive: int,
    ) -> None:
        self._config, self._tail, self._features = config, tail, features
        self._labels, self._groups, self._positive = labels, groups, positive
        self._restore = snapshot(tail)

    def run(
        self, fitted: np.ndarray, stopped: np.ndarray, held_out: np.ndarray, tracker: Tracker
    ) -> LabeledPredictions:
        """Fit, calibrate, and judge the held-out images.

        Args:
            fitted: images to fit on, in every view.
            stopped: images that decide when to stop, temperature and threshold.
            held_out: images that decide nothing.
            tracker: takes each epoch's figures.

        Returns:
            Calibrated predictions of the held-out images, decided by the threshold.
        """
        training, tail, labels = self._config.training, self._tail, self._labels
        views = training.augmentation.views
        every_view = (fitted[:, None] * views + np.arange(views)).ravel()
        as_is = self._features[::views]
        self._restore()
        fit(
            tail,
            self._features[every_view],
            np.repeat(labels[fitted], views),
            as_is[stopped],
            labels[stopped],
            training.fit,
            verbose=0,
            on_epoch=tracker.metrics,
        )
        decision = calibrate(labels[stopped], predict(tail, as_is[stopped]), self._positive, None)
        probabilities = apply_temperature(predict(tail, as_is[held_out]), decision["temperature"])
        return LabeledPredictions.create(
            labels[held_out],
            probabilities,
            apply_threshold(probabilities, self._positive, decision["threshold"]),
            self._groups[held_out],
            self._positive,
        )


def grouped_folds(
    labels: np.ndarray, groups: np.ndarray, folds: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield for each fold the images to fit on, to stop and calibrate on, and to judge on; groups stay whole.

    Args:
        labels: int, (n,).
        groups: of each image, (n,).
        folds: at least 3.
        seed: of the shuffle.
    """
    outer = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    inner = StratifiedGroupKFold(folds - 1, shuffle=True, random_state=seed)
    for seen, held_out in outer.split(labels, labels, groups):
        fitted, stopped = next(inner.split(labels[seen], labels[seen], groups[seen]))
        yield seen[fitted], seen[stopped], held_out


def check_groups(entries: list[Entry], classes: tuple[str, ...], folds: int) -> None:
    """Make sure that every fold can hold every class.

    Raises:
        ManifestError: a class has fewer groups than folds.
    """
    for label in classes:
        count = len({entry.group for entry in entries if entry.label == label})
        if count < folds:
            raise ManifestError(
                f"class {label} has {count} groups, fewer than FOLDS: {folds} in params.yaml"
            )


def summarise(
    folds: list[dict[str, Any]], images: int, groups: int, synthetic: bool
) -> dict[str, Any]:
    """Return mean, spread (standard deviation over folds) and each fold's value of every metric."""
    names = [name for name, value in folds[0].items() if isinstance(value, float)]
    summary: dict[str, Any] = {"n": images, "n_groups": groups, "synthetic": synthetic}
    for name in names:
        values = [fold[name] for fold in folds]
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        summary[name] = {"mean": float(np.mean(values)), "spread": spread, "folds": values}
    return summary
