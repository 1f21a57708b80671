"""Fit the trainable part of the network on cached features."""

import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from sklearn.utils.class_weight import compute_class_weight

from cnnClassifier.entity.config_entity import FitConfig
from cnnClassifier.network.architecture import NORM_LAYER
from cnnClassifier.network.feature_cache import Features

if TYPE_CHECKING:
    import keras

History = dict[str, list[float]]
EpochCallback = Callable[[dict[str, float], int], None]


def make_deterministic(seed: int) -> None:
    """Seed Python, NumPy and TensorFlow, and use deterministic kernels."""
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
    on_epoch: EpochCallback = lambda metrics, epoch: None,
) -> History:
    """Fit the tail with Adam (Kingma & Ba 2014); keep the weights with the best validation loss.

    Args:
        tail: from a feature map to probabilities; a fitted one continues, see `snapshot`.
        train: n feature maps, every view of every training image.
        train_labels: int, (n,).
        validation: m feature maps.
        validation_labels: int, (m,).
        config: maximum of epochs, patience, batch size, learning rate, class weights, seed.
        verbose: of `keras.Model.fit`; None: a bar on a terminal, lines in a log file.
        on_epoch: called with each epoch's metrics and its number, from 1.

    Returns:
        For each epoch loss, accuracy, val_loss and val_accuracy.
    """
    import keras

    set_normalization(tail, train)
    if not tail.compiled:  # once: compiling again would trace again
        adam = keras.optimizers.Adam(config.learning_rate)
        tail.compile(optimizer=adam, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        adam.build(tail.trainable_variables)
    tail.optimizer.learning_rate = config.learning_rate
    callbacks = [
        keras.callbacks.EarlyStopping(
            monitor="val_loss", patience=config.patience, restore_best_weights=True
        ),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: on_epoch(logs, epoch + 1)),
    ]
    if verbose is None:
        verbose = 1 if sys.stdout.isatty() else 2
    history = tail.fit(
        _dataset(train, train_labels, config.batch_size, config.seed),
        validation_data=_dataset(validation, validation_labels, 64, None),
        epochs=config.epochs,
        class_weight=_class_weights(train_labels) if config.class_weights == "balanced" else None,
        callbacks=callbacks,
        shuffle=False,  # the data set shuffles, with its own seed
        verbose=verbose,
    )
    return {name: list(map(float, values)) for name, values in history.history.items()}


def snapshot(tail: "keras.Model") -> Callable[[], None]:
    """Copy the weights of a tail; return a function that restores them and resets the optimizer."""
    weights = [np.array(variable.numpy(), copy=True) for variable in tail.variables]

    def restore() -> None:
        for variable, value in zip(tail.variables, weights, strict=True):
            variable.assign(value)
        for variable in tail.optimizer.variables if tail.compiled else ():
            if variable.name != "learning_rate":
                variable.assign(np.zeros(variable.shape))

    return restore


def predict(tail: "keras.Model", features: Features) -> np.ndarray:
    """Return the tail's probabilities, float32 (n, classes)."""
    return np.concatenate([np.asarray(tail.predict_on_batch(x)) for x in features.batches()])


def pooled_features(tail: "keras.Model", feature_layer: str, features: Features) -> np.ndarray:
    """Return the feature layer's output averaged over the map, float32 (n, channels).

    Args:
        tail: from the cached feature maps to probabilities.
        feature_layer: the layer that the head is attached to: inside the tail where blocks of the
            backbone are trained, else the tail's input.
        features: n cached feature maps.
    """
    import keras

    run = np.asarray
    if feature_layer in [layer.name for layer in tail.layers]:
        run = keras.Model(tail.input, tail.get_layer(feature_layer).output).predict_on_batch
    pooled = [np.asarray(run(x)).mean((1, 2), dtype=np.float32) for x in features.batches()]
    return np.concatenate(pooled)


def set_normalization(tail: "keras.Model", train: Features) -> None:
    """Freeze a normalization that is the tail's first layer at the training features' statistics.

    These are exact, and an epoch takes half the time of one that learns them. Where blocks of the
    backbone are trained, the features change, and the layer learns as usual.
    """
    norm = tail.layers[1]
    if norm.name != NORM_LAYER:
        return
    total, squares = np.zeros(train.shape[-1]), np.zeros(train.shape[-1])
    for batch in train.batches():
        x = batch.astype(np.float32)
        total += x.mean((1, 2), dtype=np.float64).sum(0)
        squares += (x**2).mean((1, 2), dtype=np.float64).sum(0)
    mean = total / len(train)
    variance = np.maximum(squares / len(train) - mean**2, 0)
    gamma, beta, _, _ = norm.get_weights()
    norm.set_weights([gamma, beta, mean, variance])
    norm.trainable = False


def _class_weights(labels: np.ndarray) -> dict[int, float]:
    """Return the weights that balance the classes: n / (classes × images of the class)."""
    classes = np.unique(labels)
    weights = compute_class_weight("balanced", classes=classes, y=labels)
    return dict(zip(classes.tolist(), weights.tolist(), strict=True))


def _dataset(
    features: Features, labels: np.ndarray, batch_size: int, seed: int | None
) -> "keras.utils.PyDataset":
    import keras

    class Batches(keras.utils.PyDataset):
        """Read batches from the cache; with a seed, shuffle them before each epoch."""

        def __init__(self) -> None:
            super().__init__()
            self._rng = np.random.default_rng(seed)
            self._order = np.arange(len(labels))
            self.on_epoch_end()

        def __len__(self) -> int:
            return math.ceil(len(labels) / batch_size)

        def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
            items = self._order[number * batch_size : (number + 1) * batch_size]
            return features.take(items), labels[items]

        def on_epoch_end(self) -> None:
            if seed is not None:
                self._rng.shuffle(self._order)

    return Batches()
