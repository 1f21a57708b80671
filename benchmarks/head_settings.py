"""Compare settings of the heads, one change at a time, on the pipeline's data and split.

Needs the stages up to prepare_base_model (`make pipeline`). All cases share the feature cache. The
test split decides nothing: the out-of-fold log loss does. With `--nested 5` each image is in the
test split of one of five outer folds, whose groups the heads and the threshold haven't seen.
Experiments replace a function of `network.training`; they change the local heads alone.
"""

import argparse
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from benchmarks.measure import table
from cnnClassifier.components.cross_fitting import (
    TrainingImages,
    fit_heads,
    out_of_fold_predictions,
)
from cnnClassifier.components.training import image_features, load_network, positive_class
from cnnClassifier.config.configuration import ConfigurationManager
from cnnClassifier.entity.bundle import apply_temperature, apply_threshold
from cnnClassifier.entity.config_entity import FitConfig, TrainingConfig
from cnnClassifier.entity.manifest import Manifest
from cnnClassifier.evaluation.metrics import LabeledPredictions, compute_metrics
from cnnClassifier.imaging.augment import View, views_of
from cnnClassifier.network import training
from cnnClassifier.network.architecture import LINEAR, local_tail
from cnnClassifier.network.backend import Share
from cnnClassifier.network.cross_fitting import LinearHeads, assign_folds
from cnnClassifier.network.feature_cache import Features
from cnnClassifier.network.training import padded_sizes

CASES: dict[str, dict[str, Any]] = {
    "as in params.yaml": {},
    "1 view": {"views": 1},
    "3 views": {"views": 3},
    "local heads alone": {"head": "conv_max"},
    "linear heads alone": {"head": "linear"},
    "3 folds": {"folds": 3},
    "10 folds": {"folds": 10},
    "no class weights": {"class_weights": None},
    "learning rate 0.001": {"learning_rate": 0.001},
    "batches of 32": {"batch_size": 32},
    "label smoothing 0.1": {"label_smoothing": 0.1},
    "mixup of features": {"experiment": "mixup"},
    "class-balanced sampling": {"experiment": "balanced sampling", "class_weights": None},
    "equal weight per group": {"experiment": "group weights"},
    "mirrored second pass": {"experiment": "mirrored"},
}
METRICS = ("loss", "roc_auc", "balanced_accuracy")


def main() -> None:
    """Fit every case with every seed, and print a table, lowest out-of-fold loss first."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    parser.add_argument("--nested", type=int, help="outer folds; default: the split of the data")
    arguments = parser.parse_args()
    config = ConfigurationManager().training()
    manifest = Manifest.read(config.manifest_path)
    rows = []
    for case in arguments.cases:
        results = []
        for seed in arguments.seeds:
            nested = nested_manifests(manifest, arguments.nested, seed) if arguments.nested else []
            results.append(evaluate(config, nested or [manifest], CASES[case], seed))
        found = pd.DataFrame(results)
        means, deviations = found.mean(), found.std()
        cells = [f"{means[name]:.3f} ± {deviations[name]:.3f}" for name in found]
        rows.append((means.iloc[0], [case, *cells]))
        print(rows[-1][1], flush=True)
    names = [f"{split} {metric}" for split in ("out-of-fold", "test") for metric in METRICS]
    print(table(["settings", *names, "weight of local"], [row for _, row in sorted(rows)]))


class Experiment:
    """A way to train or predict that the project doesn't have; replaces functions while open.

    Args:
        name: `mixup` (Zhang et al. 2018, of features, alpha 0.2), `balanced sampling` (classes are
            drawn equally often), `group weights`, `mirrored` (the mean with the mirrored image's
            prediction), or None.
        groups: of the training images.
        seed: of mixup.
    """

    def __init__(self, name: str | None, groups: np.ndarray, seed: int) -> None:
        self.name = name
        self.mirrored: dict[int, Features] = {}  # by number of images
        self._groups = groups
        self._rng = np.random.default_rng(seed)
        self._original = dict(vars(training))

    def __enter__(self) -> None:
        replacements = {
            "mixup": {"make_batches": self._mixed_batches, "_loss": lambda smoothing: mixed_loss},
            "balanced sampling": {"make_batches": self._balanced_batches},
            "group weights": {"_sample_weights": self._group_weights},
            "mirrored": {"predict": self.predict},
            None: {},
        }
        vars(training).update(replacements[self.name])

    def __exit__(self, *error: object) -> None:
        vars(training).update(self._original)

    def predict(self, tail: Any, features: Features) -> np.ndarray:
        """Return the tail's probabilities, (n, heads, classes)."""
        probabilities = self._original["predict"](tail, features)
        if self.name == "mirrored":
            mirrored = self._original["predict"](tail, self.mirrored[len(features)])
            probabilities = (probabilities + mirrored) / 2
        return probabilities

    def _group_weights(self, labels: np.ndarray, held_out: np.ndarray, balanced: Any) -> np.ndarray:
        """Return weights with which all groups of a class count the same."""
        weights = np.zeros(held_out.shape, np.float32)
        sizes = pd.Series(self._groups).map(pd.Series(self._groups).value_counts()).to_numpy()
        for head in range(held_out.shape[1]):
            fitted = ~held_out[:, head]
            for label in np.unique(labels):
                used = fitted & (labels == label)
                weights[used, head] = 1 / sizes[used]
                weights[used, head] /= weights[used, head].sum()
            weights[:, head] *= fitted.sum() / weights[:, head].sum()
        return weights

    def _balanced_batches(
        self,
        features: Features,
        labels: np.ndarray,
        weights: np.ndarray,
        fitted: np.ndarray,
        config: FitConfig,
        _: Mapping[int, int],
        share: Share,
        *rest: int,
    ) -> Any:
        counts = np.bincount(labels[fitted])
        repeated = []
        for label, count in enumerate(counts):
            repeated.append(np.resize(fitted[labels[fitted] == label], max(counts) if count else 0))
        images = np.concatenate(repeated)
        sizes = padded_sizes(len(images), config.batch_size, share.devices)
        arguments = (features, labels, weights, images, config, sizes, share, *rest)
        return self._original["make_batches"](*arguments)

    def _mixed_batches(self, *arguments: Any) -> Any:
        batches = self._original["make_batches"](*arguments)
        read = type(batches).__getitem__

        def mixed(batch: Any, number: int) -> tuple[np.ndarray, ...]:
            x, labels, weights = read(batch, number)
            share = np.float16(self._rng.beta(0.2, 0.2))
            other = self._rng.permutation(len(x))
            shares = np.full(labels.shape, share, np.float32)
            targets = np.stack([labels, labels[other], shares], axis=2)
            # A head sees no mixture with an image that is held out from it.
            used = np.where(weights[other] > 0, weights, 0)
            return share * x + (1 - share) * x[other], targets, used

        type(batches).__getitem__ = mixed
        return batches


def mixed_loss(targets: Any, probabilities: Any) -> Any:
    """Return the cross-entropy of two labels and the first one's share, (n, heads, 3)."""
    import keras

    of_labels = []
    for index in (0, 1):
        labels = keras.ops.cast(targets[..., index], "int32")
        of_labels.append(keras.losses.sparse_categorical_crossentropy(labels, probabilities))
    share = targets[..., 2]
    return share * of_labels[0] + (1 - share) * of_labels[1]


def nested_manifests(manifest: Manifest, folds: int, seed: int) -> list[Manifest]:
    """Return a manifest for each outer fold of the used images: its groups are the test split."""
    entries = [entry for entry in manifest.entries if entry.split]
    groups = np.array([entry.group for entry in entries])
    outer = assign_folds(manifest.labels(entries), groups, folds, 1, seed)[0]
    found = []
    for fold in range(folds):
        splits = np.where(outer == fold, "test", "train")
        pairs = zip(entries, splits, strict=True)
        found.append(Manifest(tuple(entry._replace(split=str(split)) for entry, split in pairs)))
    return found


def evaluate(
    config: TrainingConfig, manifests: list[Manifest], changes: dict[str, Any], seed: int
) -> dict[str, float]:
    """Fit the heads with changed settings on each manifest's training images.

    Returns:
        The metrics of the out-of-fold predictions and of the test splits, each of the images of all
        manifests together.
    """
    fits = [fit(config, manifest, changes, seed) for manifest in manifests]
    result = {}
    for number, split in enumerate(("out-of-fold", "test")):
        metrics = compute_metrics(joined([of_manifest[number] for of_manifest in fits]))
        result |= {f"{split} {name}": metrics[name] for name in METRICS}
    return result | {"weight": float(np.mean([weight for _, _, weight in fits]))}


def joined(predictions: list[LabeledPredictions]) -> LabeledPredictions:
    """Return the predictions for several sets of images as one."""
    columns = ("labels", "probabilities", "predicted")
    arrays = [np.concatenate([getattr(p, name) for p in predictions]) for name in columns]
    groups = [f"{n}/{group}" for n, p in enumerate(predictions) for group in p.groups]
    return LabeledPredictions.create(*arrays, groups, predictions[0].positive)


def fit(
    config: TrainingConfig, manifest: Manifest, changes: dict[str, Any], seed: int
) -> tuple[LabeledPredictions, LabeledPredictions, float]:
    """Return the out-of-fold predictions, those for the test split, and the local heads' weight."""
    names = ("class_weights", "learning_rate", "batch_size", "label_smoothing")
    fit_changes = {name: changes[name] for name in names if name in changes}
    views = changes.get("views", config.augmentation.views)
    network = load_network(config, config.folds)
    config = config.model_copy(
        update={
            "fit": config.fit.model_copy(update={"seed": seed, **fit_changes}),
            "augmentation": config.augmentation.model_copy(update={"views": views}),
            "folds": changes.get("folds", config.folds),
        }
    )
    head = changes.get("head", config.head)
    images = TrainingImages.read(manifest, config, config.repeats)
    entries = [(entry, views_of(entry.sha256, config.augmentation)) for entry in images.entries]
    features = image_features(network.cache, entries, config)
    test = manifest.in_split("test")
    test_features = image_features(network.cache, [(e, [View()]) for e in test], config)
    experiment = Experiment(changes.get("experiment"), images.groups, seed)
    if experiment.name == "mirrored":
        for known, of_entries in ((features[::views], images.entries), (test_features, test)):
            mirrored = [(entry, [View(flip=True)]) for entry in of_entries]
            experiment.mirrored[len(known)] = image_features(network.cache, mirrored, config)
    tail = None
    classes = len(manifest.classes)
    if head != LINEAR:
        import keras

        maps = keras.Input(features.shape)
        tail = local_tail(maps, maps, "conv_max", images.fold_count, 0.3, classes, seed)
    with experiment:
        fitted = fit_heads(tail, features, images, head, config.fit, verbose=0)
    positive = None
    if classes == 2:
        positive = manifest.classes.index(positive_class(config.positive_class, manifest.classes))
    out_of_fold, decision = out_of_fold_predictions(images, fitted.probabilities, positive, None)
    combined = np.zeros((len(test), classes))
    for kind, described in fitted.heads.items():
        if kind == LINEAR:
            of_heads = linear_probabilities(fitted.linear, test_features)
        else:
            of_heads = experiment.predict(tail, test_features)
        for number in range(images.fold_count):
            calibrated = apply_temperature(of_heads[:, number], described.temperature)
            combined += described.weight / images.fold_count * calibrated
    combined = apply_temperature(combined, decision["temperature"])
    predicted = apply_threshold(combined, positive, decision["threshold"])
    groups = [entry.group for entry in test]
    labels = manifest.labels(test)
    tested = LabeledPredictions.create(labels, combined, predicted, groups, positive)
    weights = {kind: described.weight for kind, described in fitted.heads.items()}
    return out_of_fold, tested, weights.get("conv_max", 0.0)


def linear_probabilities(heads: LinearHeads, features: Features) -> np.ndarray:
    """Return the probabilities of each linear head, (n, heads, classes)."""
    averages = features.averages().astype(np.float64)
    logits = np.einsum("nd,fdc->nfc", averages, heads.kernels) + heads.biases
    return softmax(logits, axis=2)


if __name__ == "__main__":
    main()
