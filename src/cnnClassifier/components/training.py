"""Stage training: fit the heads in folds on cached features, combine them, write the bundle."""

import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from cnnClassifier.components.cross_fitting import (
    FittedHeads,
    TrainingImages,
    fit_heads,
    out_of_fold_predictions,
)
from cnnClassifier.entity.bundle import (
    CROSS_VALIDATION_FILE,
    HISTORY_FILE,
    INT8_FILE,
    MODEL_FILE,
    OOD_DETECTOR_FILE,
    OUT_OF_FOLD_FILE,
    ModelBundle,
)
from cnnClassifier.entity.config_entity import TrackingConfig, TrainingConfig
from cnnClassifier.entity.dicom_options import DicomOptions
from cnnClassifier.entity.disclaimers import is_synthetic
from cnnClassifier.entity.drift import DriftReference
from cnnClassifier.entity.manifest import Entry, Manifest
from cnnClassifier.evaluation.cross_validation import (
    baseline_note,
    compare_with_baseline,
    heads_note,
)
from cnnClassifier.evaluation.drift import build_reference
from cnnClassifier.evaluation.metrics import LabeledPredictions
from cnnClassifier.imaging.augment import View, views_of
from cnnClassifier.imaging.decode import prepare
from cnnClassifier.imaging.view_loader import ViewLoader
from cnnClassifier.network import backend
from cnnClassifier.network.architecture import (
    LINEAR,
    combine_heads,
    freeze_boundary,
    heads_of,
    local_kind_of,
    requested_kind,
    resolve_feature_layer,
)
from cnnClassifier.network.feature_cache import FeatureCache, Features, choose_precision, split_at
from cnnClassifier.network.openvino_model import write_int8
from cnnClassifier.network.out_of_distribution import fit_detector
from cnnClassifier.network.serialization import load_model, save_model
from cnnClassifier.network.training import History, pooled_features
from cnnClassifier.tracking.runs import Run, data_tags, start_run
from cnnClassifier.tracking.store import TRAINED
from cnnClassifier.utils.common import atomic_write, save_json, sha256_of
from cnnClassifier.utils.errors import BundleError, ConfigError
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.source_files import read_bytes

if TYPE_CHECKING:
    import keras

_NEGATIVE_PREFIXES = ("normal", "negative", "healthy", "benign", "control")
_PACKAGES = ("numpy", "pillow")
_INT8_PACKAGES = ("openvino", "nncf")
_CALIBRATION_IMAGES = 32  # more take a tenth of a second each and change nothing


class Network(NamedTuple):
    """The prepared model, cut at the freeze boundary.

    Attributes:
        model: from RGB 0-255 to probabilities, with the heads of all folds.
        tail: its trainable part, from the frozen part's output to the probabilities of the local
            heads; None where there are none.
        boundary: name of the last frozen layer.
        feature_layer: name of the layer that the local heads see.
        cache: of the frozen part's outputs.
    """

    model: "keras.Model"
    tail: "keras.Model | None"
    boundary: str
    feature_layer: str
    cache: FeatureCache


class Training:
    """Train the heads on cached features and write the bundle.

    Args:
        config: of the stage.
        tracking: of the run, which evaluation continues; None: it isn't logged.
    """

    def __init__(self, config: TrainingConfig, tracking: TrackingConfig | None = None) -> None:
        self.config = config
        self.tracking = tracking

    def run(self) -> ModelBundle | None:
        """Train, and write the bundle: `model.keras`, `model.json`, `ood_detector.npz`,
        `history.csv`, `out_of_fold.csv`, `cross_validation.json` and, with `int8`,
        `model_int8.zip`.

        Returns:
            The bundle as written; None in a process that helps process 0, which writes it.

        Raises:
            ManifestError: a split is empty or lacks a class.
            BundleError: the prepared model has another number of heads.
            UserError: the processes can't connect, or have other data or parameters.
        """
        config = self.config
        manifest = Manifest.read(config.manifest_path)
        if config.distributed.process > 0:
            self._fit(manifest, Run())
            backend.broadcast()  # wait until process 0 has written the bundle
            return None
        tags = data_tags(config.manifest_path, config.source_URL)
        with start_run(self.tracking, config.backbone, tags) as run:
            run.log_datasets(manifest, config.source_URL, ("train", "validation"))
            bundle = self._train(manifest, run)
            run.set_tags({"model_sha256": bundle.model_sha256, "state": TRAINED})
        backend.broadcast()
        return bundle

    def _fit(
        self, manifest: Manifest, run: Run
    ) -> tuple[TrainingImages, Network, Features, FittedHeads]:
        """Do what all processes of a distributed training do."""
        config = self.config
        repeats = 1 if config.fine_tune_from else config.repeats
        images = TrainingImages.read(manifest, config, repeats)
        network = load_network(config, images.fold_count)
        views = [(entry, views_of(entry.sha256, config.augmentation)) for entry in images.entries]
        features = image_features(network.cache, views, config)
        # Heads on frozen features take seconds: not worth a file for each epoch.
        is_long = config.fine_tune_from or config.distributed.processes > 1
        fitted = fit_heads(
            network.tail,
            features,
            images,
            config.head,
            config.fit,
            on_epoch=run.log_metrics,
            checkpoint_dir=self._checkpoint_dir if is_long else None,
        )
        return images, network, features, fitted

    @property
    def _checkpoint_dir(self) -> Path:
        return self.config.bundle_dir.with_name(f"{self.config.bundle_dir.name}.checkpoints")

    def _train(self, manifest: Manifest, run: Run) -> ModelBundle:
        config, classes = self.config, manifest.classes
        positive = positive_class(config.positive_class, classes)
        images, network, features, fitted = self._fit(manifest, run)
        predictions, decision = out_of_fold_predictions(
            images,
            fitted.probabilities,
            classes.index(positive) if positive else None,
            config.min_sensitivity,
        )
        # The first view of each image is the image itself.
        originals = features[:: config.augmentation.views]
        pooled = pooled_features(network.model, network.boundary, network.feature_layer, originals)
        detector, distances = fit_detector(pooled, images.groups)
        model = joined_model(network.model, fitted, images.fold_count)
        with atomic_write(config.bundle_dir) as folder:
            save_model(model, folder / MODEL_FILE)
            detector.save(folder / OOD_DETECTOR_FILE)
            _write_history(folder / HISTORY_FILE, fitted.history)
            if config.int8:
                self._write_int8(folder, network.feature_layer, images.entries)
            bundle = self._describe(
                folder,
                classes=classes,
                positive_class=positive,
                feature_layer=network.feature_layer,
                ood_threshold=round(float(np.quantile(distances, config.ood_quantile)), 4),
                drift_reference=drift_reference(images, predictions, distances),
                heads=fitted.heads,
                max_disagreement=fitted.max_disagreement,
                **decision,
            )
            bundle.write(folder)
            heads = min(images.fold_count, config.head_count)
            summary = self._cross_validate(folder, bundle, images, fitted, predictions, heads)
        shutil.rmtree(self._checkpoint_dir, ignore_errors=True)
        run.log_metrics({f"cv_{name}": value for name, value in summary["metrics"].items()})
        _log_summary(summary)
        return bundle

    def _cross_validate(
        self,
        folder: Path,
        bundle: ModelBundle,
        images: TrainingImages,
        fitted: FittedHeads,
        predictions: LabeledPredictions,
        heads: int,
    ) -> dict[str, Any]:
        """Write the predictions by heads that haven't seen the image, and their metrics.

        Args:
            folder: of the files.
            bundle: the model.
            images: of the training.
            fitted: the heads and their predictions.
            predictions: of the model, for the images held out.
            heads: number of heads of each kind in the model.
        """
        config, used = self.config, images.is_held_out
        linear = fitted.out_of_fold[LINEAR]
        baseline, _ = out_of_fold_predictions(images, linear, bundle.positive_index, None)
        entries = [entry for entry, is_used in zip(images.entries, used, strict=True) if is_used]
        table = out_of_fold_table(entries, bundle.classes, predictions)
        table["fold"] = images.folds[0, used] + 1
        table["disagreement"] = fitted.disagreement[used].round(6)
        for kind, values in fitted.out_of_fold.items():
            columns = [f"{kind}:{name}" for name in bundle.classes]
            table[columns] = values[used].round(6)
        table.to_csv(folder / OUT_OF_FOLD_FILE, index=False, lineterminator="\n")
        summary = {
            "model_sha256": bundle.model_sha256,
            "heads": heads,
            "folds": images.fold_count,
            "repeats": len(images.folds),
            "fixed_validation_split": not used.all(),
            "weights": {kind: head.weight for kind, head in bundle.heads.items()},
            "l2_strength": fitted.linear.l2_strength,
            **compare_with_baseline(
                predictions, baseline, config.bootstrap_samples, config.fit.seed
            ),
        }
        save_json(folder / CROSS_VALIDATION_FILE, summary)
        return summary

    def _write_int8(self, folder: Path, feature_layer: str, entries: list[Entry]) -> None:
        order = np.random.default_rng(self.config.fit.seed).permutation(len(entries))
        images = [load_image(entries[i], self.config) for i in order[:_CALIBRATION_IMAGES]]
        files = (folder / INT8_FILE, folder / MODEL_FILE)
        backend.run_on_openvino(write_int8, *files, feature_layer, images)

    def _describe(self, folder: Path, **results: Any) -> ModelBundle:
        """Return the bundle with what training found, what was configured, and the hashes."""
        config = self.config
        packages = ["keras", backend.name(), *_PACKAGES, *(_INT8_PACKAGES if config.int8 else ())]
        return ModelBundle(
            **results,
            image_size=config.image_size,
            backbone=config.backbone,
            data_source=config.source_URL,
            synthetic=is_synthetic(config.source_URL),
            dicom_window=config.dicom_window,
            model_sha256=sha256_of(folder / MODEL_FILE),
            ood_detector_sha256=sha256_of(folder / OOD_DETECTOR_FILE),
            int8_sha256=sha256_of(folder / INT8_FILE) if config.int8 else None,
            manifest_sha256=sha256_of(config.manifest_path),
            versions={name: version(name) for name in packages},
            bundle_dir=config.bundle_dir,
        )


def _write_history(path: Path, history: History) -> None:
    table = pd.DataFrame(history or {"loss": [], "val_loss": []})
    table.insert(0, "epoch", range(1, len(table) + 1))
    table.to_csv(path, index=False, lineterminator="\n")


def _log_summary(summary: dict[str, Any]) -> None:
    logger.info(
        "Weights: %s. Log loss %.4f on %d images by heads that haven't seen them; the linear "
        "baseline %.4f",
        *(heads_note(summary), summary["metrics"]["loss"], summary["n"]),
        summary["baseline"]["metrics"]["loss"],
    )
    if not summary["loss_difference"]["better"]:
        logger.warning("%s", baseline_note(summary))


def out_of_fold_table(
    entries: list[Entry], classes: tuple[str, ...], predictions: LabeledPredictions
) -> pd.DataFrame:
    """Return a row for each image: path, sha256, group, actual, predicted, and probabilities."""
    names = np.array(classes)
    table = pd.DataFrame(entries)[["path", "sha256", "group"]]
    table["actual"] = names[predictions.labels]
    table["predicted"] = names[predictions.predicted]
    probabilities = pd.DataFrame(predictions.probabilities.round(6), columns=names)
    return pd.concat([table, probabilities], axis=1)  # a class may be named like a column


def drift_reference(
    images: TrainingImages, predictions: LabeledPredictions, distances: np.ndarray
) -> DriftReference:
    """Describe the images that a fold holds out, as the server sees new ones.

    Args:
        images: of the training.
        predictions: for those that a fold holds out, by heads that haven't seen them.
        distances: of all images, by detectors that haven't seen them.
    """
    used = images.is_held_out
    table = pd.DataFrame(images.entries)[used]
    features = {
        "probability": predictions.confidence,
        "distance": distances[used],
        "width": table["width"],
        "height": table["height"],
        "mean_intensity": table["mean_intensity"],
    }
    class_count = predictions.probabilities.shape[1]
    return build_reference(features, predictions.predicted, class_count, images.groups[used])


def load_network(config: TrainingConfig, folds: int) -> Network:
    """Load the prepared model and cut it at the freeze boundary.

    Args:
        config: of the stage.
        folds: number of folds; with a head for each, further heads are left out.

    Raises:
        BundleError: the model is missing, or was prepared with other parameters.
        ConfigError: the backbone has no such layer or block.
    """
    backend.start(config.distributed)
    backend.make_deterministic(config.fit.seed)
    hint = "run prepare_base_model"
    model = load_model(config.updated_base_model_path, f"{hint} first")
    expected = requested_kind(config.head)
    found = (local_kind_of(model) or LINEAR, len(heads_of(model, LINEAR)))
    if found != (expected, config.head_count):
        raise BundleError(
            f"{config.updated_base_model_path} has {found[1]} heads {found[0]}, but params.yaml "
            f"asks for {config.head_count} heads {expected}; {hint} again"
        )
    layer = resolve_feature_layer(config.backbone, config.feature_layer, model)
    boundary = freeze_boundary(config.backbone, layer, config.fine_tune_from, model)
    trunk, tail = split_at(model, boundary, min(folds, config.head_count))
    cache = FeatureCache(config.features_dir, trunk, choose_precision(config.precision))
    return Network(model, tail, boundary, layer, cache)


def joined_model(model: "keras.Model", fitted: FittedHeads, folds: int) -> "keras.Model":
    """Return the model with the fitted heads: the weighted mean of their calibrated probabilities.

    Args:
        model: whose local heads are fitted; the linear ones are set here.
        fitted: weights, temperatures, and the linear heads.
        folds: number of folds.
    """
    count = min(folds, len(heads_of(model, LINEAR)))
    for kind, described in fitted.heads.items():
        for number, head in enumerate(heads_of(model, kind)[:count]):
            kernel, bias = head.get_weights()
            if kind == LINEAR:
                kernel, bias = fitted.linear.kernels[number], fitted.linear.biases[number]
            # Divided by the temperature, the logits give calibrated probabilities.
            head.set_weights([kernel / described.temperature, bias / described.temperature])
    weights = {kind: described.weight for kind, described in fitted.heads.items()}
    return combine_heads(model, weights, count)


def load_image(entry: Entry, config: TrainingConfig) -> np.ndarray:
    """Return an image as the model takes it, without augmentation: uint8, `image_size`."""
    data = read_bytes(config.data_dir, entry.path)
    dicom_options = DicomOptions.parse(config.dicom_window)
    return prepare(data, config.image_size, config.max_pixels, dicom_options)


def image_features(
    cache: FeatureCache, images: Sequence[tuple[Entry, Sequence[View]]], config: TrainingConfig
) -> Features:
    """Return the cached feature maps of images, computing those that are missing.

    Args:
        cache: of the frozen part.
        images: each with its views. An image is decoded once for all of them.
        config: how images are read.

    Returns:
        The views of the first image, then those of the second, and so on.
    """
    suffix = "" if config.dicom_window == "auto" else f":{config.dicom_window}"
    keys = []
    for entry, views in images:
        keys.append([f"{entry.sha256}:{view}{suffix}" for view in views])
    loader = ViewLoader(
        config.data_dir.absolute(),
        config.image_size,
        config.max_pixels,
        DicomOptions.parse(config.dicom_window),
    )
    files = [(entry.path, views) for entry, views in images]
    share = backend.share()
    with config.parallel.connect() as workers:
        if share.processes > 1:  # each computes a part; what no shared folder brings, all compute
            part = slice(share.process, None, share.processes)
            cache.features(keys[part], files[part], loader, workers)
            backend.broadcast()
        return cache.features(keys, files, loader, workers)


def positive_class(requested: str, classes: tuple[str, ...]) -> str | None:
    """Return the positive class.

    `auto` takes the first of two that isn't named like a negative one; of more classes, none.

    Raises:
        ConfigError: there is no such class.
    """
    if requested == "auto" and len(classes) > 2:
        return None
    if requested == "auto":
        for name in classes:
            if not name.lower().startswith(_NEGATIVE_PREFIXES):
                return name
        return classes[0]
    if requested not in classes:
        raise ConfigError(
            f"params.yaml: POSITIVE_CLASS: expected auto or one of {', '.join(classes)}, "
            f"found {requested!r}"
        )
    return requested
