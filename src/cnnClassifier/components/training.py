"""Stage training: fit the trainable part of the network on cached features, write the bundle."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cnnClassifier.components.training_inputs import (
    Network,
    image_features,
    load_image,
    load_network,
    positive_class,
)
from cnnClassifier.entity.bundle import (
    HISTORY_FILE,
    INT8_FILE,
    MODEL_FILE,
    OOD_DETECTOR_FILE,
    ModelBundle,
)
from cnnClassifier.entity.config_entity import TrackingConfig, TrainingConfig
from cnnClassifier.entity.disclaimers import is_synthetic
from cnnClassifier.entity.manifest import Entry, Manifest
from cnnClassifier.evaluation.calibration import calibrate
from cnnClassifier.imaging.augment import View, views_of
from cnnClassifier.network.openvino_export import export_openvino, save_openvino
from cnnClassifier.network.out_of_distribution import fit_detector
from cnnClassifier.network.quantization import quantize
from cnnClassifier.network.serialization import save_model
from cnnClassifier.network.training import History, fit, pooled_features, predict
from cnnClassifier.tracking.datasets import data_tags, log_splits
from cnnClassifier.tracking.tracker import TRAINED, Tracker, track
from cnnClassifier.utils.common import atomic_write, sha256_of
from cnnClassifier.utils.log import logger

_PACKAGES = ("keras", "tensorflow", "numpy", "pillow")
_INT8_PACKAGES = ("openvino", "nncf")
_CALIBRATION_IMAGES = 32  # more take a tenth of a second each and change nothing
_TRACKING_TIMEOUT_S = 60.0  # for what isn't sent yet at the end of the training


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
        with track(self.tracking, config.backbone, tags, patience_s=_TRACKING_TIMEOUT_S) as tracker:
            log_splits(tracker, manifest, config.source_URL, "train", "validation")
            bundle = self._train(manifest, tracker)
            tracker.tags({"model_sha256": bundle.model_sha256, "state": TRAINED})
        return bundle

    def _train(self, manifest: Manifest, tracker: Tracker) -> ModelBundle:
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
            on_epoch=tracker.metrics,
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
