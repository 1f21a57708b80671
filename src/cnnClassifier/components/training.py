"""Stage training: fit the trainable part of the network on cached features, write the bundle."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from cnnClassifier.entity.bundle import (
    HISTORY_FILE,
    INT8_FILE,
    MODEL_FILE,
    OOD_DETECTOR_FILE,
    ModelBundle,
)
from cnnClassifier.entity.config_entity import TrackingConfig, TrainingConfig
from cnnClassifier.entity.dicom_options import DicomOptions
from cnnClassifier.entity.disclaimers import is_synthetic
from cnnClassifier.entity.manifest import Entry, Manifest
from cnnClassifier.evaluation.calibration import calibrate
from cnnClassifier.imaging.augment import View, augment, views_of
from cnnClassifier.imaging.decode import prepare
from cnnClassifier.network.architecture import freeze_boundary, resolve_feature_layer
from cnnClassifier.network.feature_cache import FeatureCache, Features, choose_precision, split_at
from cnnClassifier.network.openvino_model import export_openvino, quantize, save_openvino
from cnnClassifier.network.out_of_distribution import fit_detector
from cnnClassifier.network.serialization import load_model, save_model
from cnnClassifier.network.tf_setup import import_tensorflow
from cnnClassifier.network.training import (
    History,
    fit,
    make_deterministic,
    pooled_features,
    predict,
)
from cnnClassifier.tracking.runs import Run, data_tags, start_run
from cnnClassifier.tracking.store import TRAINED
from cnnClassifier.utils.common import atomic_write, sha256_of
from cnnClassifier.utils.errors import ConfigError
from cnnClassifier.utils.log import logger

if TYPE_CHECKING:
    import keras

_NEGATIVE_PREFIXES = ("normal", "negative", "healthy", "benign", "control")
_PACKAGES = ("keras", "tensorflow", "numpy", "pillow")
_INT8_PACKAGES = ("openvino", "nncf")
_CALIBRATION_IMAGES = 32  # more take a tenth of a second each and change nothing


class Network(NamedTuple):
    """The prepared model, cut at the freeze boundary.

    Attributes:
        model: from RGB 0-255 to probabilities.
        tail: its trainable part, from the frozen part's output to probabilities.
        feature_layer: name of the layer that the head is attached to.
        cache: of the frozen part's outputs.
    """

    model: "keras.Model"
    tail: "keras.Model"
    feature_layer: str
    cache: FeatureCache


class Training:
    """Train the head on cached features and write the bundle.

    Args:
        config: of the stage.
        tracking: of the run, which evaluation continues; None: it isn't logged.
    """

    def __init__(self, config: TrainingConfig, tracking: TrackingConfig | None = None) -> None:
        self.config = config
        self.tracking = tracking

    def run(self) -> ModelBundle:
        """Train, and write `model.keras`, `model.json`, `ood_detector.npz`, `history.csv` and,
        with `int8`, `model_int8.zip`.

        Returns:
            The bundle as written.

        Raises:
            ManifestError: a split is empty or lacks a class.
        """
        config = self.config
        manifest = Manifest.read(config.manifest_path)
        tags = data_tags(config.manifest_path, config.source_URL)
        with start_run(self.tracking, config.backbone, tags) as run:
            run.log_datasets(manifest, config.source_URL, ("train", "validation"))
            bundle = self._train(manifest, run)
            run.set_tags({"model_sha256": bundle.model_sha256, "state": TRAINED})
        return bundle

    def _train(self, manifest: Manifest, run: Run) -> ModelBundle:
        config, views = self.config, self.config.augmentation.views
        train, validation = manifest.in_split("train"), manifest.in_split("validation")
        positive = positive_class(config.positive_class, manifest.classes)
        network = load_network(config)
        images = [(entry, views_of(entry.sha256, config.augmentation)) for entry in train]
        images += [(entry, [View()]) for entry in validation]
        features = image_features(network.cache, images, config)
        train_features = features[: len(train) * views]
        validation_features = features[len(train) * views :]
        validation_labels = manifest.labels(validation)
        history = fit(
            network.tail,
            train_features,
            np.repeat(manifest.labels(train), views),
            validation_features,
            validation_labels,
            config.fit,
            on_epoch=run.log_metrics,
        )
        decision = calibrate(
            validation_labels,
            predict(network.tail, validation_features),
            manifest.classes.index(positive),
            config.min_sensitivity,
        )
        # The first view of each image is the image itself.
        pooled = pooled_features(network.tail, network.feature_layer, train_features[::views])
        groups = [entry.group for entry in train]
        detector, ood_threshold = fit_detector(pooled, groups, config.ood_quantile)
        with atomic_write(config.bundle_dir) as folder:
            save_model(network.model, folder / MODEL_FILE)
            detector.save(folder / OOD_DETECTOR_FILE)
            _write_history(folder / HISTORY_FILE, history)
            if config.int8:
                self._write_int8(folder / INT8_FILE, network, train)
            bundle = self._describe(
                folder,
                classes=manifest.classes,
                positive_class=positive,
                feature_layer=network.feature_layer,
                ood_threshold=ood_threshold,
                **decision,
            )
            bundle.write(folder)
        epochs, best = len(history["loss"]), min(history["val_loss"])
        logger.info("trained %d epochs; best validation loss %.4f", epochs, best)
        return bundle

    def _write_int8(self, path: Path, network: Network, train: list[Entry]) -> None:
        openvino_network, activation_map = export_openvino(network.model, network.feature_layer)
        order = np.random.default_rng(self.config.fit.seed).permutation(len(train))
        images = [load_image(train[i], self.config) for i in order[:_CALIBRATION_IMAGES]]
        save_openvino(path, quantize(openvino_network, images), activation_map)

    def _describe(self, folder: Path, **results: Any) -> ModelBundle:
        """Return the bundle with what training found, what was configured, and the hashes."""
        config = self.config
        packages = _PACKAGES + _INT8_PACKAGES if config.int8 else _PACKAGES
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
    table = pd.DataFrame(history)
    table.insert(0, "epoch", range(1, len(table) + 1))
    table.to_csv(path, index=False, lineterminator="\n")


def load_network(config: TrainingConfig) -> Network:
    """Load the prepared model and cut it at the freeze boundary."""
    import_tensorflow()
    make_deterministic(config.fit.seed)
    model = load_model(config.updated_base_model_path, "run prepare_base_model first")
    layer = resolve_feature_layer(config.backbone, config.feature_layer, model)
    boundary = freeze_boundary(config.backbone, layer, config.fine_tune_from, model)
    trunk, tail = split_at(model, boundary)
    cache = FeatureCache(config.cache_dir, trunk, choose_precision(config.precision))
    return Network(model, tail, layer, cache)


def load_image(entry: Entry, config: TrainingConfig) -> np.ndarray:
    """Return an image as the model takes it, without augmentation: uint8, `image_size`."""
    data = (config.data_dir / entry.path).read_bytes()
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

    def load(number: int, missing: list[int]) -> list[np.ndarray]:
        entry, views = images[number]
        pixels = load_image(entry, config)
        return [augment(pixels, views[view]) for view in missing]

    suffix = "" if config.dicom_window == "auto" else f":{config.dicom_window}"
    keys = []
    for entry, views in images:
        keys.append([f"{entry.sha256}:{view}{suffix}" for view in views])
    return cache.features(keys, load)


def positive_class(requested: str, classes: tuple[str, ...]) -> str:
    """Return the positive class; `auto` takes the first that isn't named like a negative one.

    Raises:
        ConfigError: there is no such class.
    """
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
