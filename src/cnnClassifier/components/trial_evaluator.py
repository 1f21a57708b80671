"""Evaluate parameters in grouped folds: many trials in one process, on features that they share."""

import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from cnnClassifier.components.crossvalidation import FoldRunner, check_groups, grouped_folds
from cnnClassifier.components.prepare_base_model import PrepareBaseModel
from cnnClassifier.components.training import image_features, positive_class
from cnnClassifier.entity.config_entity import Choice, PrepareBaseModelConfig, SearchConfig
from cnnClassifier.entity.manifest import Manifest
from cnnClassifier.evaluation.metrics import compute_metrics
from cnnClassifier.imaging.augment import views_of
from cnnClassifier.network.architecture import (
    add_head,
    freeze_boundary,
    resolve_feature_layer,
    standalone_head,
)
from cnnClassifier.network.feature_cache import FeatureCache, Features, choose_precision, split_at
from cnnClassifier.network.serialization import load_model
from cnnClassifier.network.tf_setup import import_tensorflow
from cnnClassifier.network.training import make_deterministic, snapshot
from cnnClassifier.tracking.runs import Run
from cnnClassifier.tuning.report import METRIC_NAMES
from cnnClassifier.utils.errors import ConfigError

SPLITS = ("train", "validation")  # the test images are not used in the search
_MAX_TAILS = 32  # compiled models in memory


class TrialEvaluator:
    """Train and evaluate in folds of the training and validation images.

    Args:
        config: of the search.
        manifest: all images.

    Raises:
        ManifestError: a class has fewer groups than there are folds.
        ConfigError: a backbone has no such block.
    """

    def __init__(self, config: SearchConfig, manifest: Manifest) -> None:
        training, folds = config.crossvalidation.training, config.crossvalidation.folds
        import_tensorflow()
        make_deterministic(training.fit.seed)
        self._config = config
        self._entries = [entry for entry in manifest.entries if entry.split in SPLITS]
        self._labels = manifest.labels(self._entries)
        self._groups = np.array([entry.group for entry in self._entries])
        check_groups(self._entries, manifest.classes, folds)
        positive = positive_class(training.positive_class, manifest.classes)
        self._positive = manifest.classes.index(positive)
        views = config.space.get("VIEWS", Choice((training.augmentation.views,)))
        self._max_views = max(views.values) if isinstance(views, Choice) else int(views.high)
        self._tail = lru_cache(_MAX_TAILS)(self._build_tail)
        self._features: dict[tuple[str, str | None], Features] = {}
        for backbone in self._candidates("BACKBONE"):
            base, layer = self._load_base(backbone)
            for block in self._candidates("FINE_TUNE_FROM"):
                try:
                    boundary = freeze_boundary(backbone, layer, block, base)
                except ConfigError as error:
                    place = f"search.yaml: space, with {block} and {backbone}"
                    raise ConfigError(f"{place}: {error}") from None
                self._features[backbone, block] = self._compute(split_at(base, boundary)[0])

    def folds(self, params: Mapping[str, Any]) -> Iterator[dict[str, float]]:
        """Yield the metrics of each fold; they don't depend on earlier trials.

        Args:
            params: values from the search space, by key of params.yaml.
        """
        config = self._config.crossvalidation
        training, values = config.training, {**self._config.params, **params}
        views = params.get("VIEWS", training.augmentation.views)
        fit_changes = {
            "epochs": min(self._config.epochs, training.fit.epochs),
            "batch_size": values["BATCH_SIZE"],
            "learning_rate": values["LEARNING_RATE"],
        }
        changes = {
            "augmentation": training.augmentation.model_copy(update={"views": views}),
            "fit": training.fit.model_copy(update=fit_changes),
        }
        trial_config = config.model_copy(update={"training": training.model_copy(update=changes)})
        backbone, block = values["BACKBONE"], values["FINE_TUNE_FROM"]
        rows = np.arange(len(self._entries))[:, None] * self._max_views + np.arange(views)
        features = self._features[backbone, block][rows.ravel()]
        tail, restore = self._tail(backbone, block, values["HEAD"], values["DROPOUT"])
        restore()
        labels, groups = self._labels, self._groups
        runner = FoldRunner(trial_config, tail, features, labels, groups, self._positive)
        folds = grouped_folds(labels, groups, config.folds, training.fit.seed)
        for _, fold in zip(range(self._config.folds), folds, strict=False):
            metrics = compute_metrics(runner.run(*fold, Run()))
            yield {name: metrics[name] for name in METRIC_NAMES}

    def _candidates(self, key: str) -> tuple[Any, ...]:
        span = self._config.space.get(key)
        return span.values if isinstance(span, Choice) else (self._config.params[key],)

    def _compute(self, trunk: Any) -> Features:
        """Return the cached features of all images in all views."""
        training = self._config.crossvalidation.training
        cache = FeatureCache(training.cache_dir, trunk, choose_precision(training.precision))
        augmentation = training.augmentation.model_copy(update={"views": self._max_views})
        images = [(entry, views_of(entry.sha256, augmentation)) for entry in self._entries]
        return image_features(cache, images, training)

    def _load_base(self, backbone: str) -> tuple[Any, str]:
        """Load a backbone; return it with the name of the layer that a head is attached to."""
        import keras

        prepare = backbone_config(self._config, backbone)
        if backbone != self._config.prepare.backbone and not prepare.base_model_path.is_file():
            keras.utils.clear_session()  # else Keras numbers layers on: their features differ
            PrepareBaseModel(prepare).run()
        base = load_model(prepare.base_model_path, "run prepare_base_model first")
        return base, resolve_feature_layer(backbone, prepare.feature_layer, base)

    def _build_tail(self, backbone: str, block: str | None, head: str, dropout: float) -> Any:
        """Return a new tail, and a function that restores its first weights."""
        prepare = self._config.prepare
        options = (head, dropout, prepare.class_count, prepare.seed)
        if block is None:
            tail = standalone_head(self._features[backbone, block].shape, *options)
        else:
            base, layer = self._load_base(backbone)
            model = add_head(base, layer, *options)
            tail = split_at(model, freeze_boundary(backbone, layer, block, model))[1]
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
