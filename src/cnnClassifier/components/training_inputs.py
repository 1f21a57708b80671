"""What training, cross-validation and search share: the network, cached features, the classes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

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

_NEGATIVE_PREFIXES = ("normal", "negative", "healthy", "benign", "control")


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
        keys.append([f"{entry.sha256}:{view.key}{suffix}" for view in views])
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
