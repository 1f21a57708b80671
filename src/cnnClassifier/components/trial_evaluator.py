"""Evaluate parameters as training would: many trials in one process, on shared features."""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnClassifier.components.cross_fitting import (
    FittedHeads,
    TrainingImages,
    fit_heads,
    fit_linear,
    out_of_fold_predictions,
)
from cnnClassifier.components.prepare_base_model import PrepareBaseModel
from cnnClassifier.components.training import image_features, positive_class
from cnnClassifier.entity.config_entity import Choice, PrepareBaseModelConfig, SearchConfig
from cnnClassifier.entity.manifest import Manifest
from cnnClassifier.evaluation.metrics import compute_metrics
from cnnClassifier.imaging.augment import views_of
from cnnClassifier.network import backend
from cnnClassifier.network.architecture import (
    LINEAR,
    freeze_boundary,
    local_tail,
    requested_kind,
    resolve_feature_layer,
)
from cnnClassifier.network.cross_fitting import LinearHeads
from cnnClassifier.network.feature_cache import FeatureCache, Features, choose_precision, split_at
from cnnClassifier.network.serialization import load_model
from cnnClassifier.network.training import EpochCallback, snapshot
from cnnClassifier.tuning.report import METRIC_NAMES
from cnnClassifier.utils.errors import ConfigError

if TYPE_CHECKING:
    import keras

_MAX_TAILS = 32  # compiled models in memory


class TrialEvaluator:
    """Train in one repeat of the folds of all images outside the test split.

    Args:
        config: of the search.
        manifest: all images.

    Raises:
        ManifestError: a class is missing, or has a single group.
        ConfigError: a backbone has no such block.
    """

    def __init__(self, config: SearchConfig, manifest: Manifest) -> None:
        training = config.training
        backend.start()
        backend.make_deterministic(training.fit.seed)
        self._config = config
        self._images = TrainingImages.read(manifest, training, repeats=1)
        positive = positive_class(training.positive_class, manifest.classes)
        self._class_count = len(manifest.classes)
        self._positive = manifest.classes.index(positive) if positive else None
        views = config.space.get("VIEWS", Choice((training.augmentation.views,)))
        self._max_views = max(views.values) if isinstance(views, Choice) else int(views.high)
        self._tail = lru_cache(_MAX_TAILS)(self._build_tail)
        self._linear = lru_cache(None)(self._fit_linear)
        self._features: dict[tuple[str, str | None], Features] = {}
        for backbone in self._candidates("BACKBONE"):
            model, layer = self._load(backbone)
            for block in self._candidates("FINE_TUNE_FROM"):
                try:
                    boundary = freeze_boundary(backbone, layer, block, model)
                except ConfigError as error:
                    place = f"search.yaml: space, with {block} and {backbone}"
                    raise ConfigError(f"{place}: {error}") from None
                self._features[backbone, block] = self._compute(split_at(model, boundary, 1)[0])

    def metrics(self, params: Mapping[str, Any], on_epoch: EpochCallback) -> dict[str, float]:
        """Train, and compute the metrics of the out-of-fold predictions.

        Args:
            params: values from the search space, by key of params.yaml.
            on_epoch: see `cross_fit`; it may raise to end the trial.
        """
        probabilities = self.fit(params, on_epoch).probabilities
        predictions, _ = out_of_fold_predictions(self._images, probabilities, self._positive, None)
        metrics = compute_metrics(predictions)
        return {name: metrics[name] for name in METRIC_NAMES}

    def fit(self, params: Mapping[str, Any], on_epoch: EpochCallback) -> FittedHeads:
        """Train as the stage training does, whatever trials ran before."""
        training, values = self._config.training, {**self._config.params, **params}
        changes = {
            "epochs": min(self._config.epochs, training.fit.epochs),
            "batch_size": values["BATCH_SIZE"],
            "learning_rate": values["LEARNING_RATE"],
        }
        fit_config = training.fit.model_copy(update=changes)
        backbone, block, head = values["BACKBONE"], values["FINE_TUNE_FROM"], values["HEAD"]
        views = params.get("VIEWS", training.augmentation.views)
        images = np.arange(len(self._images.entries))
        rows = images[:, None] * self._max_views + np.arange(views)
        features = self._features[backbone, block][rows.ravel()]
        tail = None
        if head != LINEAR:
            kind = requested_kind(head)
            tail, restore = self._tail(backbone, block, kind, values["DROPOUT"])
            restore()
        linear = self._linear(backbone, block)
        return fit_heads(tail, features, self._images, head, fit_config, 0, on_epoch, linear)

    def _candidates(self, key: str) -> tuple[Any, ...]:
        span = self._config.space.get(key)
        return span.values if isinstance(span, Choice) else (self._config.params[key],)

    def _compute(self, trunk: Any) -> Features:
        """Return the cached features of all images in all views."""
        training = self._config.training
        cache = FeatureCache(training.features_dir, trunk, choose_precision(training.precision))
        augmentation = training.augmentation.model_copy(update={"views": self._max_views})
        images = [(entry, views_of(entry.sha256, augmentation)) for entry in self._images.entries]
        return image_features(cache, images, training)

    def _load(self, backbone: str) -> tuple["keras.Model", str]:
        """Load a prepared model; return it with the name of the layer that local heads see."""
        import keras

        prepare = backbone_config(self._config, backbone)
        path = prepare.updated_base_model_path
        if backbone != self._config.prepare.backbone and not path.is_file():
            keras.utils.clear_session()  # else Keras numbers layers on: their features differ
            PrepareBaseModel(prepare).run()
        model = load_model(path, "run prepare_base_model first")
        return model, resolve_feature_layer(backbone, prepare.feature_layer, model)

    def _fit_linear(self, backbone: str, block: str | None) -> LinearHeads:
        """Fit the linear heads; the other parameters don't change them."""
        return fit_linear(self._features[backbone, block], self._images, self._config.training.fit)

    def _build_tail(self, backbone: str, block: str | None, kind: str, dropout: float) -> Any:
        """Return a new tail, and a function that restores its first weights."""
        import keras

        prepare, count = self._config.prepare, self._images.fold_count
        cut = x = keras.Input(self._features[backbone, block].shape)
        if block is not None:
            model, layer = self._load(backbone)
            boundary = freeze_boundary(backbone, layer, block, model)
            cut, x = model.get_layer(boundary).output, model.get_layer(layer).output
            count = 1
        tail = local_tail(cut, x, kind, count, dropout, self._class_count, prepare.seed)
        return tail, snapshot(tail)


def backbone_config(config: SearchConfig, backbone: str) -> PrepareBaseModelConfig:
    """Return how a backbone is prepared; other backbones have their default feature layer."""
    prepare = config.prepare
    if backbone == prepare.backbone:
        return prepare
    key = repr((prepare.image_size, prepare.weights, prepare.seed))
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    folder = config.root_dir / "models" / f"{backbone}-{digest}"
    changes = {
        "backbone": backbone,
        "feature_layer": "auto",
        "base_model_path": folder / "base_model.keras",
        "updated_base_model_path": folder / "updated_base_model.keras",
    }
    return prepare.model_copy(update=changes)
