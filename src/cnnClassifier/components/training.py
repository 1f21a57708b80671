"""Stage training: fit the trainable part on cached features and write the bundle."""

import csv
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import log_loss

from cnnClassifier.assessment.calibration import best_threshold, fit_temperature, threshold_for_sensitivity
from cnnClassifier.entity.bundle import HISTORY_FILE, MODEL_FILE, REFERENCE_FILE, ModelBundle, temper
from cnnClassifier.entity.config_entity import TrainingConfig
from cnnClassifier.entity.manifest import Entry, Manifest
from cnnClassifier.imaging.augment import View, augment, views_of
from cnnClassifier.imaging.prepare import prepare
from cnnClassifier.network.backbones import feature_layer_of, freeze_boundary
from cnnClassifier.network.familiarity import fit_reference
from cnnClassifier.network.features import FeatureCache, Features, choose_precision, split_at
from cnnClassifier.network.files import load_model, save_model
from cnnClassifier.network.fit import History, fit, make_deterministic, pooled_features, predict
from cnnClassifier.network.quiet import import_tensorflow
from cnnClassifier.utils.common import replacing, sha256_of
from cnnClassifier.utils.errors import ConfigError
from cnnClassifier.utils.log import logger

_HARMLESS = ("normal", "negative", "healthy", "benign", "control")


class Training:
    """Fit the trainable part of the prepared model on the training split."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config

    def run(self) -> ModelBundle:
        """Train and write the bundle: `model.keras`, `model.json`, `history.csv`.

        Returns:
            The bundle as written.

        Raises:
            ManifestError: a split is empty or a class is missing from it.
        """
        config = self.config
        manifest = Manifest.read(config.manifest_path)
        train, validation = manifest.of("train"), manifest.of("validation")
        positive = positive_class(config.positive_class, manifest.classes)
        import_tensorflow()
        make_deterministic(config.fit.seed)
        model = load_model(config.updated_base_model_path, "run prepare_base_model first")
        layer = feature_layer_of(config.backbone, config.feature_layer, model)
        trunk, tail = split_at(model, freeze_boundary(config.backbone, layer, config.fine_tune_from, model))
        cache = FeatureCache(config.cache_dir, trunk, choose_precision(trunk, config.precision, config.cache_dir))
        items = [(entry, view) for entry in train for view in views_of(entry.sha256, config.augmentation)]
        cut = len(items)
        items += [(entry, View()) for entry in validation]
        features = self._features(cache, items)
        labels = manifest.labels([entry for entry, _ in items])
        history = fit(tail, features[:cut], labels[:cut], features[cut:], labels[cut:], config.fit)
        decision = decide_on_validation(
            labels[cut:], predict(tail, features[cut:]), manifest.classes.index(positive), config.min_sensitivity
        )
        plain = np.array([number for number, (_, view) in enumerate(items[:cut]) if view == View()])
        pooled = pooled_features(tail, layer, features[plain])
        groups = [items[number][0].group for number in plain]
        reference, limit = fit_reference(pooled, groups, config.familiar_share)
        with replacing(config.bundle_dir) as staged:
            save_model(model, staged / MODEL_FILE)
            reference.save(staged / REFERENCE_FILE)
            _write_history(staged / HISTORY_FILE, history)
            bundle = ModelBundle(
                classes=manifest.classes,
                positive_class=positive,
                image_size=config.image_size,
                **decision,
                feature_layer=layer,
                unfamiliar_limit=limit,
                backbone=config.backbone,
                data_source=config.source_URL,
                synthetic=config.source_URL.startswith("phantom:"),
                model_sha256=sha256_of(staged / MODEL_FILE),
                reference_sha256=sha256_of(staged / REFERENCE_FILE),
                manifest_sha256=sha256_of(config.manifest_path),
                versions={name: version(name) for name in ("keras", "tensorflow", "numpy", "pillow")},
            )
            bundle.write(staged)
        logger.info("trained %d epochs; best validation loss %.4f", len(history["loss"]), min(history["val_loss"]))
        return bundle

    def _features(self, cache: FeatureCache, items: list[tuple[Entry, View]]) -> Features:
        config = self.config

        def load(number: int) -> np.ndarray:
            entry, view = items[number]
            data = (config.data_dir / entry.path).read_bytes()
            return augment(prepare(data, config.image_size, config.max_pixels), view)

        return cache.features([f"{entry.sha256}:{view.key}" for entry, view in items], load)


def decide_on_validation(
    labels: np.ndarray, probabilities: np.ndarray, positive: int, min_sensitivity: float | None
) -> dict[str, Any]:
    """Fix temperature, threshold and operating points on the validation split, as the bundle holds them."""
    temperature = fit_temperature(labels, probabilities)
    calibrated = temper(probabilities, temperature)
    columns = np.arange(probabilities.shape[1])
    is_positive, score = labels == positive, calibrated[:, positive]
    points = {"default": best_threshold(is_positive, score)}
    if min_sensitivity is not None:
        points[f"sensitivity>={min_sensitivity:g}"] = threshold_for_sensitivity(is_positive, score, min_sensitivity)
    return {
        "temperature": temperature,
        "threshold": points["default"],
        "operating_points": points,
        "validation": {
            "n": len(labels),
            "loss": round(float(log_loss(labels, temper(probabilities, 1.0), labels=columns)), 6),
            "loss_calibrated": round(float(log_loss(labels, calibrated, labels=columns)), 6),
        },
    }


def positive_class(wanted: str, classes: tuple[str, ...]) -> str:
    """Return the class whose sensitivity is reported; `auto` takes the first that isn't named like a harmless one.

    Raises:
        ConfigError: no class is called so.
    """
    if wanted == "auto":
        return next((name for name in classes if not name.lower().startswith(_HARMLESS)), classes[0])
    if wanted not in classes:
        raise ConfigError(
            f"params.yaml: POSITIVE_CLASS: expected auto or one of {', '.join(classes)}, found {wanted!r}"
        )
    return wanted


def _write_history(path: Path, history: History) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["epoch", *history])
        writer.writerows([epoch, *values] for epoch, values in enumerate(zip(*history.values(), strict=True), start=1))
