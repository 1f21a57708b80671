"""What training and cross-validation share: the model cut in two, the cached features, the positive class."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cnnClassifier.entity.config_entity import TrainingConfig
from cnnClassifier.entity.dicom_options import DicomOptions
from cnnClassifier.entity.manifest import Entry
from cnnClassifier.imaging.augment import View, augment
from cnnClassifier.imaging.prepare import prepare
from cnnClassifier.network.backbones import freeze_boundary, resolve_feature_layer
from cnnClassifier.network.feature_cache import FeatureCache, Features, choose_precision, split_at
from cnnClassifier.network.serialization import load_model
from cnnClassifier.network.tf_setup import import_tensorflow
from cnnClassifier.network.training import make_deterministic
from cnnClassifier.utils.errors import ConfigError

if TYPE_CHECKING:
    import keras

_HARMLESS = ("normal", "negative", "healthy", "benign", "control")


def plain_image(entry: Entry, config: TrainingConfig) -> np.ndarray:
    """Return an image as the model takes it, without augmentation: uint8, `image_size`."""
    data = (config.data_dir / entry.path).read_bytes()
    return prepare(
        data, config.image_size, config.max_pixels, DicomOptions.parse(config.dicom_window)
    )


def image_features(
    cache: FeatureCache, items: Sequence[tuple[Entry, View]], config: TrainingConfig
) -> Features:
    """Return the cached feature map of each image and view, computing those that are missing."""

    def load(number: int) -> np.ndarray:
        entry, view = items[number]
        return augment(plain_image(entry, config), view)

    read = "" if config.dicom_window == "auto" else f":{config.dicom_window}"
    return cache.features([f"{entry.sha256}:{view.key}{read}" for entry, view in items], load)


def open_model(config: TrainingConfig) -> tuple["keras.Model", "keras.Model", str, FeatureCache]:
    """Load the prepared model and cut it at the freeze boundary.

    Returns:
        The model, its trainable tail, the feature layer's name, and the cache of the frozen part's outputs.
    """
    import_tensorflow()
    make_deterministic(config.fit.seed)
    model = load_model(config.updated_base_model_path, "run prepare_base_model first")
    layer = resolve_feature_layer(config.backbone, config.feature_layer, model)
    trunk, tail = split_at(
        model, freeze_boundary(config.backbone, layer, config.fine_tune_from, model)
    )
    cache = FeatureCache(config.cache_dir, trunk, choose_precision(config.precision))
    return model, tail, layer, cache


def positive_class(wanted: str, classes: tuple[str, ...]) -> str:
    """Return the class whose sensitivity is reported; `auto` takes the first that isn't named like a harmless one.

    Raises:
        ConfigError: no class is called so.
    """
    if wanted == "auto":
        return next(
            (name for name in classes if not name.lower().startswith(_HARMLESS)), classes[0]
        )
    if wanted not in classes:
        raise ConfigError(
            f"params.yaml: POSITIVE_CLASS: expected auto or one of {', '.join(classes)}, found {wanted!r}"
        )
    return wanted
