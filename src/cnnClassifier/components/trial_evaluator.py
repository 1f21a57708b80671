"""Evaluate hyperparameters in grouped folds: many trials in one process, on shared features."""

import hashlib
import multiprocessing
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnClassifier.components.crossvalidation import FoldRunner, check_groups, grouped_folds
from cnnClassifier.components.prepare_base_model import PrepareBaseModel
from cnnClassifier.components.training_inputs import image_features, positive_class
from cnnClassifier.entity.config_entity import Choice, PrepareBaseModelConfig, SearchConfig
from cnnClassifier.entity.manifest import Manifest
from cnnClassifier.evaluation.metrics import compute_metrics
from cnnClassifier.imaging.augment import views_of
from cnnClassifier.network.backbones import freeze_boundary, resolve_feature_layer
from cnnClassifier.network.feature_cache import FeatureCache, Features, choose_precision, split_at
from cnnClassifier.network.heads import add_head, standalone_head
from cnnClassifier.network.serialization import load_model
from cnnClassifier.network.tf_setup import import_tensorflow
from cnnClassifier.network.training import make_deterministic, snapshot
from cnnClassifier.tracking.runs import Run
from cnnClassifier.utils.errors import ConfigError

if TYPE_CHECKING:
    import keras

SPLITS = ("train", "validation")  # the test images are not used
METRICS = ("loss", "roc_auc", "balanced_accuracy")
_MAX_COMPILED_TAILS = 32


class TrialEvaluator:
    """Fit and evaluate in folds of the training and validation images.

    Args:
        config: the settings that all trials share.
        manifest: all images.

    Raises:
        ManifestError: a class has fewer groups than there are folds.
        ConfigError: a backbone can't be trained from a block of the search space.
    """

    def __init__(self, config: SearchConfig, manifest: Manifest) -> None:
        training = config.crossvalidation.training
        import_tensorflow()
        make_deterministic(training.fit.seed)
        self._config = config
        self._entries = [entry for entry in manifest.entries if entry.split in SPLITS]
        self._labels = manifest.labels(self._entries)
        self._groups = np.array([entry.group for entry in self._entries])
        check_groups(self._entries, manifest.classes, config.crossvalidation.folds)
        positive = positive_class(training.positive_class, manifest.classes)
        self._positive = manifest.classes.index(positive)
        self._views = training.augmentation.views
        if views := config.space.get("VIEWS"):
            self._views = max(views.values) if isinstance(views, Choice) else int(views.high)
        self._get_tail = lru_cache(_MAX_COMPILED_TAILS)(self._create_tail)
        self._features: dict[tuple[str, str | None], Features] = {}
        trunks = {}
        for backbone in self._candidates("BACKBONE"):
            for block in self._candidates("FINE_TUNE_FROM"):
                trunks[backbone, block] = self._frozen_part(backbone, block)
        for key, trunk in trunks.items():  # computed after all combinations have been checked
            self._features[key] = self._compute_features(trunk)

    def evaluate(self, params: Mapping[str, Any]) -> Iterator[dict[str, float]]:
        """Yield the metrics of each fold; they do not depend on earlier trials.

        Args:
            params: values of the search space.
        """
        config = self._config.crossvalidation
        training = config.training
        params = {"VIEWS": training.augmentation.views, **params}
        params = {**self._config.params, **params}
        backbone, block, views = params["BACKBONE"], params["FINE_TUNE_FROM"], params["VIEWS"]
        fit_changes = {
            "epochs": min(self._config.epochs, training.fit.epochs),
            "batch_size": params["BATCH_SIZE"],
            "learning_rate": params["LEARNING_RATE"],
        }
        changes = {
            "augmentation": training.augmentation.model_copy(update={"views": views}),
            "fit": training.fit.model_copy(update=fit_changes),
        }
        trial_training = training.model_copy(update=changes)
        # The features have all views of each image; this trial uses the first ones.
        rows = np.arange(len(self._entries))[:, None] * self._views + np.arange(views)
        tail, restore = self._get_tail(backbone, block, params["HEAD"], params["DROPOUT"])
        restore()
        runner = FoldRunner(
            config.model_copy(update={"training": trial_training}),
            tail,
            self._features[backbone, block][rows.ravel()],
            self._labels,
            self._groups,
            self._positive,
        )
        folds = grouped_folds(self._labels, self._groups, config.folds, training.fit.seed)
        for fold in islice(folds, self._config.folds):
            metrics = compute_metrics(runner.run(*fold, Run()))
            yield {name: metrics[name] for name in METRICS}

    def _candidates(self, key: str) -> tuple[Any, ...]:
        dimension = self._config.space.get(key)
        return dimension.values if isinstance(dimension, Choice) else (self._config.params[key],)

    def _frozen_part(self, backbone: str, block: str | None) -> "keras.Model":
        base, layer = self._load_backbone(backbone)
        try:
            return split_at(base, freeze_boundary(backbone, layer, block, base))[0]
        except ConfigError as error:
            raise ConfigError(f"search.yaml: space, with {block} and {backbone}: {error}") from None

    def _compute_features(self, trunk: "keras.Model") -> Features:
        training = self._config.crossvalidation.training
        cache = FeatureCache(training.cache_dir, trunk, choose_precision(training.precision))
        augmentation = training.augmentation.model_copy(update={"views": self._views})
        images = [(entry, views_of(entry.sha256, augmentation)) for entry in self._entries]
        return image_features(cache, images, training)

    def _load_backbone(self, backbone: str) -> tuple["keras.Model", str]:
        """Load a backbone, and return it with the name of its feature layer."""
        prepare = prepare_config(self._config, backbone)
        if backbone != self._config.prepare.backbone and not prepare.base_model_path.is_file():
            # In another process: Keras numbers layers, and the cached features depend on names.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                pool.submit(_prepare, prepare).result()
        base = load_model(prepare.base_model_path, "run prepare_base_model first")
        return base, resolve_feature_layer(backbone, prepare.feature_layer, base)

    def _create_tail(
        self, backbone: str, block: str | None, head: str, dropout: float
    ) -> tuple["keras.Model", Any]:
        """Return a new tail, and a function that restores its initial weights."""
        prepare = self._config.prepare
        arguments = (head, dropout, prepare.class_count, prepare.seed)
        if block is None:
            tail = standalone_head(self._features[backbone, block].shape, *arguments)
        else:
            base, layer = self._load_backbone(backbone)
            model = add_head(base, layer, *arguments)
            tail = split_at(model, freeze_boundary(backbone, layer, block, model))[1]
        return tail, snapshot(tail)


def prepare_config(config: SearchConfig, backbone: str) -> PrepareBaseModelConfig:
    """Return the settings to prepare a backbone; another one gets its default feature layer."""
    prepare = config.prepare
    if backbone == prepare.backbone:
        return prepare
    settings = repr((prepare.image_size, prepare.weights, prepare.seed))
    digest = hashlib.sha256(settings.encode()).hexdigest()
    folder = config.root_dir / "models" / f"{backbone}-{digest[:8]}"
    changes = {
        "backbone": backbone,
        "feature_layer": "auto",
        "base_model_path": folder / "base_model.keras",
        "updated_base_model_path": folder / "updated_base_model.keras",
    }
    return prepare.model_copy(update=changes)


def _prepare(config: PrepareBaseModelConfig) -> None:
    PrepareBaseModel(config).run()
