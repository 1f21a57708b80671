"""Judge parameters in grouped folds: many sets of them in one process, on features that they share."""

import hashlib
import multiprocessing
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

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
from cnnClassifier.utils.errors import ConfigError

if TYPE_CHECKING:
    import keras

SPLITS = ("train", "validation")  # the test images have no say in what is chosen
FIGURES = ("loss", "roc_auc", "balanced_accuracy")
_MOST_TAILS = 32  # compiled ones that are kept


class Judge:
    """Fit and judge in the folds of the training and validation images.

    Args:
        config: what all sets of parameters share.
        manifest: all images.

    Raises:
        ManifestError: a class has fewer groups than there are folds.
        ConfigError: a backbone can't be trained from a block that is to be tried with it.
    """

    def __init__(self, config: SearchConfig, manifest: Manifest) -> None:
        import_tensorflow()
        make_deterministic(config.crossvalidation.training.fit.seed)
        self._config = config
        self._entries = [entry for entry in manifest.entries if entry.split in SPLITS]
        self._labels = manifest.labels(self._entries)
        self._groups = np.array([entry.group for entry in self._entries])
        check_groups(self._entries, manifest.classes, config.crossvalidation.folds)
        wanted = positive_class(config.crossvalidation.training.positive_class, manifest.classes)
        self._positive = manifest.classes.index(wanted)
        views = config.space.get("VIEWS")
        plain = config.crossvalidation.training.augmentation.views
        self._views = (
            plain
            if views is None
            else max(views.values)
            if isinstance(views, Choice)
            else int(views.high)
        )
        self._features: dict[tuple[str, str | None], Features] = {}
        self._tails: dict[tuple[Any, ...], tuple[keras.Model, Any]] = {}
        cuts = [cut for backbone in self._tried("BACKBONE") for cut in self._cuts(backbone)]
        for trunk, backbone, block in cuts:
            self._features[backbone, block] = self._compute(trunk)

    def folds(self, params: Mapping[str, Any]) -> Iterator[dict[str, float]]:
        """Yield what each fold says of some parameters: the same, whatever was judged before.

        Args:
            params: values of the space.
        """
        config = self._config.crossvalidation
        known = {**self._config.params, **params}
        training = config.training
        views = known["VIEWS"] if "VIEWS" in params else training.augmentation.views
        fit_changes = {
            "epochs": min(self._config.epochs, training.fit.epochs),
            "batch_size": known["BATCH_SIZE"],
            "learning_rate": known["LEARNING_RATE"],
        }
        changes = {
            "augmentation": training.augmentation.model_copy(update={"views": views}),
            "fit": training.fit.model_copy(update=fit_changes),
        }
        recipe = training.model_copy(update=changes)
        backbone, block = known["BACKBONE"], known["FINE_TUNE_FROM"]
        of_each_image = np.arange(len(self._entries))[:, None] * self._views + np.arange(views)
        features = self._features[backbone, block][of_each_image.ravel()]
        tail = self._tail(backbone, block, known["HEAD"], known["DROPOUT"])
        runner = FoldRunner(
            config.model_copy(update={"training": recipe}),
            tail,
            features,
            self._labels,
            self._groups,
            self._positive,
        )
        parts = grouped_folds(self._labels, self._groups, config.folds, training.fit.seed)
        for _, fold in zip(range(self._config.folds), parts, strict=False):
            found = compute_metrics(runner.run(*fold, Run()))
            yield {name: found[name] for name in FIGURES}

    def _tried(self, key: str) -> tuple[Any, ...]:
        span = self._config.space.get(key)
        return span.values if isinstance(span, Choice) else (self._config.params[key],)

    def _cuts(self, backbone: str) -> list[tuple["keras.Model", str, str | None]]:
        """Return a backbone's frozen part for each block that training may start from."""
        base, layer = self._base(backbone)
        found = []
        for block in self._tried("FINE_TUNE_FROM"):
            try:
                boundary = freeze_boundary(backbone, layer, block, base)
            except ConfigError as error:
                raise ConfigError(
                    f"search.yaml: space, with {block} and {backbone}: {error}"
                ) from None
            found.append((split_at(base, boundary)[0], backbone, block))
        return found

    def _compute(self, trunk: "keras.Model") -> Features:
        training = self._config.crossvalidation.training
        precision = choose_precision(training.precision)
        cache = FeatureCache(training.cache_dir, trunk, precision)
        augmentation = training.augmentation.model_copy(update={"views": self._views})
        images = [(entry, views_of(entry.sha256, augmentation)) for entry in self._entries]
        return image_features(cache, images, training)

    def _base(self, backbone: str) -> tuple["keras.Model", str]:
        """Load a backbone, and name the layer that a head stands on."""
        prepared = prepared_as(self._config, backbone)
        if backbone != self._config.prepare.backbone and not prepared.base_model_path.is_file():
            # In a process of its own: Keras numbers layers on, and other names would make other cached features.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                pool.submit(_prepare, prepared).result()
        base = load_model(prepared.base_model_path, "run prepare_base_model first")
        return base, resolve_feature_layer(backbone, prepared.feature_layer, base)

    def _tail(self, backbone: str, block: str | None, head: str, dropout: float) -> "keras.Model":
        """Return a compiled or new tail with its first weights."""
        key = (backbone, block, head, dropout)
        if key not in self._tails:
            if len(self._tails) == _MOST_TAILS:
                del self._tails[next(iter(self._tails))]
            tail = self._new_tail(*key)
            self._tails[key] = tail, snapshot(tail)
        tail, restore = self._tails[key]
        restore()
        return tail

    def _new_tail(
        self, backbone: str, block: str | None, head: str, dropout: float
    ) -> "keras.Model":
        prepare = self._config.prepare
        if block is None:
            return standalone_head(
                self._features[backbone, block].shape,
                head,
                dropout,
                prepare.class_count,
                prepare.seed,
            )
        base, layer = self._base(backbone)
        model = add_head(base, layer, head, dropout, prepare.class_count, prepare.seed)
        return split_at(model, freeze_boundary(backbone, layer, block, model))[1]


def prepared_as(config: SearchConfig, backbone: str) -> PrepareBaseModelConfig:
    """Return how a backbone is prepared: another one than in params.yaml with the feature layer that suits it."""
    if backbone == config.prepare.backbone:
        return config.prepare
    prepare = config.prepare
    made_of = hashlib.sha256(
        repr((prepare.image_size, prepare.weights, prepare.seed)).encode()
    ).hexdigest()
    folder = config.root_dir / "models" / f"{backbone}-{made_of[:8]}"
    changes = {
        "backbone": backbone,
        "feature_layer": "auto",
        "base_model_path": folder / "base_model.keras",
        "updated_base_model_path": folder / "updated_base_model.keras",
    }
    return prepare.model_copy(update=changes)


def _prepare(config: PrepareBaseModelConfig) -> None:
    PrepareBaseModel(config).run()
