"""Fit the trainable part of the network on cached features."""

import math
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from cnnClassifier.entity.config_entity import FitConfig
from cnnClassifier.network.feature_cache import Features
from cnnClassifier.network.heads import NORM_LAYER

if TYPE_CHECKING:
    import keras

History = dict[str, list[float]]


def make_deterministic(seed: int) -> None:
    """Seed Python, NumPy and TensorFlow, and take deterministic kernels: equal runs give equal weights."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def fit(
    tail: "keras.Model",
    train: Features,
    train_labels: np.ndarray,
    validation: Features,
    validation_labels: np.ndarray,
    config: FitConfig,
    verbose: int | None = None,
    on_epoch: Callable[[dict[str, float], int], None] | None = None,
) -> History:
    """Fit the tail with Adam (Kingma & Ba 2014) on cross-entropy, and keep the weights of the best validation loss.

    Args:
        tail: from a feature map to probabilities; one that was fitted goes on from there (see `snapshot`).
        train: n feature maps, every view of every training image.
        train_labels: int, (n,).
        validation: m feature maps.
        validation_labels: int, (m,).
        config: epochs at the most, patience, batch size, learning rate, class weights, seed.
        verbose: 1 shows Keras's bar, 2 a line an epoch, 0 nothing; None: the bar on a terminal, lines in a log.
        on_epoch: is handed each epoch's figures and its number, from 1.

    Returns:
        For each epoch loss, accuracy, val_loss and val_accuracy.
    """
    import keras

    standardise(tail, train)
    if not tail.compiled:  # once: compiling again would trace again
        adam = keras.optimizers.Adam(config.learning_rate)
        tail.compile(optimizer=adam, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        adam.build(tail.trainable_variables)
    tail.optimizer.learning_rate = config.learning_rate
    stop = keras.callbacks.EarlyStopping(
        monitor="val_loss", patience=config.patience, restore_best_weights=True, start_from_epoch=0
    )
    history = tail.fit(
        _batches(train, train_labels, config.batch_size, config.seed),
        validation_data=_batches(validation, validation_labels, 64, None),
        epochs=config.epochs,
        class_weight=class_weights(train_labels) if config.class_weights == "balanced" else None,
        callbacks=[stop, *([_epochs_to(on_epoch)] if on_epoch else [])],
        shuffle=False,  # Batches shuffles, by its own seed
        verbose=(1 if sys.stdout.isatty() else 2) if verbose is None else verbose,
    )
    return {name: [float(value) for value in values] for name, values in history.history.items()}


def _epochs_to(on_epoch: Callable[[dict[str, float], int], None]) -> "keras.callbacks.Callback":
    import keras

    return keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: on_epoch(logs, epoch + 1)
    )


def snapshot(tail: "keras.Model") -> Callable[[], None]:
    """Remember a compiled or new tail's weights; return a function that brings it back to them, optimiser included."""
    weights = [
        np.array(variable.numpy(), copy=True) for variable in tail.variables
    ]  # never a view of the variable

    def restore() -> None:
        for variable, value in zip(tail.variables, weights, strict=True):
            variable.assign(value)
        for variable in tail.optimizer.variables if tail.compiled else ():
            if variable.name != "learning_rate":
                variable.assign(np.zeros(variable.shape))

    return restore


def predict(tail: "keras.Model", features: Features) -> np.ndarray:
    """Return the tail's probabilities, float32 (n, classes)."""
    return np.concatenate(
        [
            np.asarray(tail.predict_on_batch(features.take(items)))
            for items in _in_blocks(len(features))
        ]
    )


def pooled_features(tail: "keras.Model", feature_layer: str, features: Features) -> np.ndarray:
    """Return the feature layer's output averaged over the map, float32 (n, channels).

    Args:
        tail: from the cached feature maps to probabilities.
        feature_layer: what the head stands on: inside the tail where blocks of the backbone are trained, or its input.
        features: n cached feature maps.
    """
    import keras

    inside = [layer for layer in tail.layers if layer.name == feature_layer]
    run = keras.Model(tail.input, inside[0].output).predict_on_batch if inside else np.asarray
    return np.concatenate(
        [
            np.asarray(run(features.take(items))).mean((1, 2), dtype=np.float32)
            for items in _in_blocks(len(features))
        ]
    )


def standardise(tail: "keras.Model", train: Features) -> None:
    """Give a normalisation that is the tail's first layer the training features' mean and spread, and leave it so.

    It is exact, and an epoch takes half the time of one that learns them. Where blocks of the backbone are trained
    the features change, and the layer learns as usual.
    """
    norm = tail.layers[1]
    if norm.name != NORM_LAYER:
        return
    total, squares = np.zeros(train.shape[-1]), np.zeros(train.shape[-1])
    for items in _in_blocks(len(train)):
        block = train.take(items).astype(np.float32)
        total += block.mean((1, 2), dtype=np.float64).sum(0)
        squares += (block**2).mean((1, 2), dtype=np.float64).sum(0)
    mean = total / len(train)
    norm.set_weights([*norm.get_weights()[:2], mean, np.maximum(squares / len(train) - mean**2, 0)])
    norm.trainable = False


def class_weights(labels: np.ndarray) -> dict[int, float]:
    """Return weights that let each class count alike: n / (classes × n of the class)."""
    counts = np.bincount(labels)
    return {
        label: float(len(labels) / (np.count_nonzero(counts) * count))
        for label, count in enumerate(counts)
        if count
    }


def _in_blocks(count: int, size: int = 64) -> Iterator[np.ndarray]:
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))


def _batches(
    features: Features, labels: np.ndarray, size: int, seed: int | None
) -> "keras.utils.PyDataset":
    import keras

    class Batches(keras.utils.PyDataset):
        """Read batches from the memory map; shuffled anew each epoch where there is a seed."""

        def __init__(self) -> None:
            super().__init__()
            self._rng = np.random.default_rng(seed)
            self._order = np.arange(len(labels))
            self.on_epoch_end()

        def __len__(self) -> int:
            return math.ceil(len(labels) / size)

        def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
            items = self._order[number * size : (number + 1) * size]
            return features.take(items), labels[items]

        def on_epoch_end(self) -> None:
            if seed is not None:
                self._rng.shuffle(self._order)

    return Batches()
