"""The command crossvalidate: the metrics of the recipe on every image, in grouped folds."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from cnnClassifier.components.training import image_features, load_network, positive_class
from cnnClassifier.entity.bundle import apply_temperature, apply_threshold
from cnnClassifier.entity.config_entity import CrossValidationConfig, TrackingConfig
from cnnClassifier.entity.disclaimers import is_synthetic
from cnnClassifier.entity.manifest import SPLITS, Entry, Manifest
from cnnClassifier.evaluation.calibration import calibrate
from cnnClassifier.evaluation.metrics import LabeledPredictions, compute_metrics
from cnnClassifier.imaging.augment import views_of
from cnnClassifier.network.feature_cache import Features
from cnnClassifier.network.training import fit, predict, snapshot
from cnnClassifier.tracking.runs import Run, data_tags, start_run
from cnnClassifier.utils.common import atomic_write, save_json
from cnnClassifier.utils.errors import ManifestError
from cnnClassifier.utils.log import logger

if TYPE_CHECKING:
    import keras

Fold = tuple[np.ndarray, np.ndarray, np.ndarray]


class CrossValidation:
    """Train and evaluate in grouped, stratified folds; the frozen layers run once per view.

    In each fold a part of the training images, as large as a fold, decides when to stop, the
    temperature and the threshold; the held-out images decide nothing.

    Args:
        config: of the command.
        tracking: of the runs; None: they aren't logged.
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
        config, training = self.config, self.config.training
        manifest = Manifest.read(training.manifest_path)
        tags = data_tags(training.manifest_path, training.source_URL)
        name = f"{training.backbone} in {config.folds} folds"
        with start_run(self.tracking, name, tags) as run:
            run.log_datasets(manifest, training.source_URL, SPLITS)
            metrics, predictions = self._run_folds(manifest, run)
            summary: dict[str, Any] = {
                "n": predictions["path"].nunique(),
                "n_groups": predictions["group"].nunique(),
                "synthetic": is_synthetic(training.source_URL),
                **summarize(metrics),
            }
            with atomic_write(config.root_dir) as folder:
                folder.mkdir()
                save_json(folder / "scores.json", summary)
                table = folder / "oof_predictions.csv"
                predictions.to_csv(table, index=False, lineterminator="\n")
            run.log_artifacts(sorted(config.root_dir.iterdir()), "crossvalidation")
            for metric in metrics.columns.astype(str):
                value = summary[metric]
                run.log_metrics({f"{metric}_{key}": value[key] for key in ("mean", "std")})
        for metric in ("balanced_accuracy", "roc_auc"):
            mean, std = summary[metric]["mean"], summary[metric]["std"]
            logger.info("%s %.3f ± %.3f over %d folds", metric, mean, std, len(metrics))
        return summary

    def _run_folds(self, manifest: Manifest, run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return a row of metrics for each fold, and the prediction for each image and seed."""
        config, training = self.config, self.config.training
        entries = [entry for entry in manifest.entries if entry.split]
        check_groups(entries, manifest.classes, config.folds)
        labels = manifest.labels(entries)
        table = pd.DataFrame(entries)[["path", "group", "label"]]
        table = table.rename(columns={"label": "actual"})
        groups = table["group"].to_numpy(str)
        positive = manifest.classes.index(positive_class(training.positive_class, manifest.classes))
        network = load_network(training)
        images = [(entry, views_of(entry.sha256, training.augmentation)) for entry in entries]
        features = image_features(network.cache, images, training)
        runner = FoldRunner(config, network.tail, features, labels, groups, positive)
        metrics, predictions = [], {}
        for seed in config.seeds:
            folds = grouped_folds(labels, groups, config.folds, seed)
            for number, (fitted, stopped, held_out) in enumerate(folds, start=1):
                child = run.child_run(f"seed {seed}, fold {number}")
                result = runner.run(fitted, stopped, held_out, child)
                values = compute_metrics(result)
                child.log_metrics(values)
                child.finish()
                metrics.append(values)
                fold = table.iloc[held_out].copy()
                fold["predicted"] = np.array(manifest.classes)[result.predicted]
                fold[list(manifest.classes)] = result.probabilities.round(6)
                predictions[seed, number] = fold
                logger.info(
                    f"seed {seed}, fold {number} of {config.folds}: "
                    f"balanced accuracy {values['balanced_accuracy']:.3f}, "
                    f"ROC AUC {values['roc_auc']:.3f} on {len(held_out)} images"
                )
        all_predictions = pd.concat(predictions, names=["seed", "fold"])
        return pd.DataFrame(metrics), all_predictions.reset_index(["seed", "fold"])


class FoldRunner:
    """Fit the tail anew for each fold: it is compiled once, and its weights are reset.

    Args:
        config: of the command.
        tail: the trainable part of the network, with its first weights.
        features: every view of every image, the image itself first.
        labels: class index of each image, int (n,).
        groups: of each image, (n,).
        positive: index of the positive class.
    """

    def __init__(
        self,
        config: CrossValidationConfig,
        tail: "keras.Model",
        features: Features,
        labels: np.ndarray,
        groups: np.ndarray,
        positive: int,
    ) -> None:
        self._training = config.training
        self._tail = tail
        self._features = features
        self._labels = labels
        self._groups = groups
        self._positive = positive
        self._restore = snapshot(tail)

    def run(
        self, fitted: np.ndarray, stopped: np.ndarray, held_out: np.ndarray, run: Run
    ) -> LabeledPredictions:
        """Fit, calibrate, and predict the held-out images.

        Args:
            fitted: indices of the images to fit on, in every view.
            stopped: indices of the images for early stopping, temperature and threshold.
            held_out: indices of the images that decide nothing.
            run: logs the metrics of each epoch.

        Returns:
            The calibrated predictions for the held-out images.
        """
        training, tail, labels = self._training, self._tail, self._labels
        views = training.augmentation.views
        every_view = (fitted[:, None] * views + np.arange(views)).ravel()
        without_augmentation = self._features[::views]
        validation = without_augmentation[stopped]
        self._restore()
        fit(
            tail,
            self._features[every_view],
            np.repeat(labels[fitted], views),
            validation,
            labels[stopped],
            training.fit,
            verbose=0,
            on_epoch=run.log_metrics,
        )
        decision = calibrate(labels[stopped], predict(tail, validation), self._positive, None)
        uncalibrated = predict(tail, without_augmentation[held_out])
        probabilities = apply_temperature(uncalibrated, decision["temperature"])
        return LabeledPredictions.create(
            labels[held_out],
            probabilities,
            apply_threshold(probabilities, self._positive, decision["threshold"]),
            self._groups[held_out],
            self._positive,
        )


def grouped_folds(labels: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> Iterator[Fold]:
    """Yield for each fold the images to fit on, to calibrate on, and to evaluate on.

    Args:
        labels: int, (n,).
        groups: of each image, (n,); a group is never in two parts.
        folds: at least 3.
        seed: of the shuffle.
    """
    outer = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    inner = StratifiedGroupKFold(folds - 1, shuffle=True, random_state=seed)
    for rest, held_out in outer.split(labels, labels, groups):
        fitted, stopped = next(inner.split(labels[rest], labels[rest], groups[rest]))
        yield rest[fitted], rest[stopped], held_out


def check_groups(entries: list[Entry], classes: tuple[str, ...], folds: int) -> None:
    """Check that every fold can contain every class.

    Raises:
        ManifestError: a class has fewer groups than folds.
    """
    for label in classes:
        count = len({entry.group for entry in entries if entry.label == label})
        if count < folds:
            raise ManifestError(
                f"class {label} has {count} groups, fewer than FOLDS: {folds} in params.yaml"
            )


def summarize(metrics: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return each metric's mean, standard deviation over the folds, and value in each fold.

    Args:
        metrics: one row per fold, one column per metric.
    """
    summary: dict[Any, dict[str, Any]] = metrics.agg(["mean", "std"]).to_dict()
    for name, values in summary.items():
        values["folds"] = metrics[name].tolist()
    return summary
