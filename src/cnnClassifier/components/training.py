"""Stage training: fit the trainable part on cached features and write the bundle."""

from importlib.metadata import version

import numpy as np

from cnnClassifier.components.training_inputs import (
    image_features,
    open_model,
    plain_image,
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
from cnnClassifier.network.training import fit, pooled_features, predict
from cnnClassifier.tracking.datasets import data_tags, log_splits
from cnnClassifier.tracking.tracker import TRAINED, Tracker, track
from cnnClassifier.utils.common import atomic_write, sha256_of, write_csv
from cnnClassifier.utils.log import logger

_MADE_WITH = ("keras", "tensorflow", "numpy", "pillow")
_CALIBRATION_IMAGES = 32  # more cost a tenth of a second each and change nothing
_PATIENCE_S = 60.0  # for what tracking hasn't sent yet when training is done


class Training:
    """Fit the trainable part of the prepared model on the training split.

    Args:
        config: how.
        tracking: where the run is logged while it goes on; evaluation goes on with it.
    """

    def __init__(self, config: TrainingConfig, tracking: TrackingConfig | None = None) -> None:
        self.config = config
        self.tracking = tracking

    def run(self) -> ModelBundle:
        """Train and write the bundle: `model.keras`, `model.json`, `ood_detector.npz`, `history.csv`, `model_int8.zip`.

        Returns:
            The bundle as written.

        Raises:
            ManifestError: a split is empty or a class is missing from it.
        """
        manifest = Manifest.read(self.config.manifest_path)
        tags = data_tags(self.config.manifest_path, self.config.source_URL)
        with track(self.tracking, self.config.backbone, tags, patience_s=_PATIENCE_S) as tracker:
            log_splits(tracker, manifest, self.config.source_URL, "train", "validation")
            bundle = self._train(manifest, tracker)
            tracker.tags({"model_sha256": bundle.model_sha256, "state": TRAINED})
        return bundle

    def _train(self, manifest: Manifest, tracker: Tracker) -> ModelBundle:
        config = self.config
        train, validation = manifest.of("train"), manifest.of("validation")
        positive = positive_class(config.positive_class, manifest.classes)
        model, tail, layer, cache = open_model(config)
        items = [
            (entry, view) for entry in train for view in views_of(entry.sha256, config.augmentation)
        ]
        cut = len(items)
        items += [(entry, View()) for entry in validation]
        features = image_features(cache, items, config)
        labels = manifest.labels([entry for entry, _ in items])
        history = fit(
            tail,
            features[:cut],
            labels[:cut],
            features[cut:],
            labels[cut:],
            config.fit,
            on_epoch=tracker.metrics,
        )
        decision = calibrate(
            labels[cut:],
            predict(tail, features[cut:]),
            manifest.classes.index(positive),
            config.min_sensitivity,
        )
        plain = np.array([number for number, (_, view) in enumerate(items[:cut]) if view == View()])
        pooled = pooled_features(tail, layer, features[plain])
        groups = [items[number][0].group for number in plain]
        reference, limit = fit_detector(pooled, groups, config.ood_quantile)
        with atomic_write(config.bundle_dir) as staged:
            save_model(model, staged / MODEL_FILE)
            reference.save(staged / OOD_DETECTOR_FILE)
            if config.int8:
                graph, activation = export_openvino(model, layer)
                save_openvino(
                    staged / INT8_FILE, quantize(graph, self._calibration_images(train)), activation
                )
            epochs = enumerate(zip(*history.values(), strict=True), start=1)
            write_csv(
                staged / HISTORY_FILE,
                ("epoch", *history),
                ((epoch, *values) for epoch, values in epochs),
            )
            bundle = ModelBundle(
                classes=manifest.classes,
                positive_class=positive,
                image_size=config.image_size,
                **decision,
                feature_layer=layer,
                ood_threshold=limit,
                backbone=config.backbone,
                data_source=config.source_URL,
                synthetic=is_synthetic(config.source_URL),
                model_sha256=sha256_of(staged / MODEL_FILE),
                ood_detector_sha256=sha256_of(staged / OOD_DETECTOR_FILE),
                manifest_sha256=sha256_of(config.manifest_path),
                dicom_window=config.dicom_window,
                int8_sha256=sha256_of(staged / INT8_FILE) if config.int8 else None,
                versions={
                    name: version(name)
                    for name in (*_MADE_WITH, *(("openvino", "nncf") * config.int8))
                },
            )
            bundle.write(staged)
        logger.info(
            "trained %d epochs; best validation loss %.4f",
            len(history["loss"]),
            min(history["val_loss"]),
        )
        return bundle

    def _calibration_images(self, train: list[Entry]) -> list[np.ndarray]:
        order = np.random.default_rng(self.config.fit.seed).permutation(len(train))[
            :_CALIBRATION_IMAGES
        ]
        return [plain_image(train[place], self.config) for place in order]
