"""Fit the trainable part of the network on cached features."""

import hashlib
import json
import math
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.utils.class_weight import compute_sample_weight

from cnnClassifier.entity.config_entity import FitConfig
from cnnClassifier.network import backend
from cnnClassifier.network.architecture import NORM_LAYER, local_kind_of
from cnnClassifier.network.checkpoint import Checkpoint
from cnnClassifier.network.feature_cache import Features
from cnnClassifier.utils.errors import UserError

if TYPE_CHECKING:
    import keras

History = dict[str, list[float]]
EpochCallback = Callable[[dict[str, float], int], None]


class Fitted(NamedTuple):
    """The result of `fit`.

    Attributes:
        history: for each epoch the means over the heads of loss, val_loss and val_accuracy.
        probabilities: of each head at its best epoch, for every image without augmentation, float32
            (n, heads, classes).
        best_epochs: of each head, from 1, int (heads,).
    """

    history: History
    probabilities: np.ndarray
    best_epochs: np.ndarray


def fit(
    tail: "keras.Model",
    features: Features,
    labels: np.ndarray,
    held_out: np.ndarray,
    config: FitConfig,
    verbose: int | None = None,
    on_epoch: EpochCallback = lambda metrics, epoch: None,
    checkpoint_dir: Path | None = None,
) -> Fitted:
    """Fit all heads at once with Adam (Kingma & Ba 2014), each on the images not held out from it.

    The heads share no weights, so each is trained as if it were alone; what they read is read once.
    A head keeps the weights of the epoch with the lowest loss on the images held out from it. An
    epoch takes one of the views of each image, at random.

    Several processes that call it together divide each batch, and end with the same weights.

    Args:
        tail: from feature maps to probabilities, (n, heads, classes); a fitted one continues, see
            `snapshot`.
        features: the feature maps of n images in the same number of views, those of the first image
            first; the first view is the image itself.
        labels: int, (n,).
        held_out: bool, (n, heads). Without any, all epochs run, and the last weights are kept.
        config: maximum of epochs, patience, batch size, learning rate, class weights, seed.
        verbose: of `keras.Model.fit`; None: a bar on a terminal, lines in a log file.
        on_epoch: called with each epoch's metrics and its number, from 1.
        checkpoint_dir: continue an equal fit after its last epoch, if it was interrupted; None:
            always begin with the first one.

    Raises:
        UserError: another process has other data, weights or parameters.
    """
    import keras

    views = len(features) // len(labels)
    fitted = np.flatnonzero(~held_out.all(1))
    key = _key_of(tail, features, labels, held_out, config)
    _check_key(key)
    set_normalization(tail, features[_rows_of(fitted, views)])
    share = backend.share()
    sizes = padded_sizes(len(fitted), config.batch_size, share.devices)
    weights = _sample_weights(labels, held_out, config.class_weights)
    if verbose is None:
        verbose = 1 if sys.stdout.isatty() else 2
    with backend.data_parallel():
        model = backend.replica(tail, sizes)
        if not model.compiled:  # once: compiling again would trace again
            _compile(model, config)
        model.optimizer.learning_rate = config.learning_rate
        checkpoint = Checkpoint(checkpoint_dir, key, [*model.variables, *model.optimizer.variables])
        best = _BestEpochs(tail, features[::views], labels, held_out, config, on_epoch, checkpoint)
        callback = keras.callbacks.LambdaCallback(on_epoch_end=partial(best.update, model))
        if best.continues():
            model.fit(
                make_batches(features, labels, weights, fitted, config, sizes, share, best.epoch),
                initial_epoch=best.epoch,
                epochs=config.epochs,
                callbacks=[callback],
                shuffle=False,  # the data set shuffles, with its own seed
                verbose=verbose if share.process == 0 else 0,
            )
        _copy_variables(model, tail)  # also of a fit that was complete before
    best.assign_best()
    return Fitted(best.history, best.probabilities, best.epochs)


def _check_key(key: str) -> None:
    """Check that all processes fit the same."""
    if backend.broadcast(key.encode()) != key.encode():
        raise UserError(
            "this process has other images, features, weights or parameters than process 0: use "
            "the same files, the same params.yaml and, if the processors differ, PRECISION: float32"
        )


def _compile(model: "keras.Model", config: FitConfig) -> None:
    import keras

    adam = keras.optimizers.Adam(config.learning_rate)
    model.compile(optimizer=adam, loss=_loss(config.label_smoothing))
    adam.build(model.trainable_variables)


def _loss(label_smoothing: float) -> Any:
    """Return the cross-entropy of class indices, (n, heads), with smoothed labels."""
    import keras

    if not label_smoothing:
        return "sparse_categorical_crossentropy"

    def smoothed(labels: Any, probabilities: Any) -> Any:
        targets = keras.ops.one_hot(keras.ops.cast(labels, "int32"), probabilities.shape[-1])
        return keras.losses.categorical_crossentropy(
            targets, probabilities, label_smoothing=label_smoothing
        )

    return smoothed


def snapshot(tail: "keras.Model") -> Callable[[], None]:
    """Copy the weights of a tail; return a function that restores them and resets the optimizer."""
    weights = [variable.numpy().copy() for variable in tail.variables]

    def restore() -> None:
        for variable, value in zip(tail.variables, weights, strict=True):
            variable.assign(value)
        for variable in tail.optimizer.variables if tail.compiled else ():
            if variable.name != "learning_rate":
                variable.assign(np.zeros(variable.shape))

    return restore


def predict(tail: "keras.Model", features: Features) -> np.ndarray:
    """Return the tail's probabilities, float32 (n, heads, classes)."""
    return np.concatenate([np.asarray(tail.predict_on_batch(x)) for x in features.batches()])


def pooled_features(
    model: "keras.Model", boundary: str, feature_layer: str, features: Features
) -> np.ndarray:
    """Return the feature layer's output averaged over the map, float32 (n, channels).

    Args:
        model: from RGB 0-255, with fitted weights.
        boundary: the layer whose maps are cached.
        feature_layer: the same, or a later one where blocks of the backbone are trained.
        features: n cached feature maps.
    """
    import keras

    run = np.asarray
    if boundary != feature_layer:
        start, end = model.get_layer(boundary).output, model.get_layer(feature_layer).output
        run = keras.Model(start, end).predict_on_batch
    pooled = [np.asarray(run(x)).mean((1, 2), dtype=np.float32) for x in features.batches()]
    return np.concatenate(pooled)


def trains_backbone(tail: "keras.Model") -> bool:
    """Return whether the tail has blocks of the backbone below its heads."""
    norm = tail.get_layer(NORM_LAYER)
    return any(layer.weights for layer in tail.layers[: tail.layers.index(norm)])


def set_normalization(tail: "keras.Model", features: Features) -> None:
    """Freeze the normalization at the statistics of the training features.

    These are exact, and an epoch takes half the time of one that learns them. Labels aren't used,
    so the heads can share it. Where blocks of the backbone are trained, the features change, and
    the layer learns as usual.
    """
    if trains_backbone(tail):
        return
    norm = tail.get_layer(NORM_LAYER)
    channels = norm.gamma.shape[0]
    is_averaged = local_kind_of(tail) == "average"
    total, squares = np.zeros(channels), np.zeros(channels)
    for batch in features.batches():
        x = batch.astype(np.float32)
        if is_averaged:
            x = x.mean((1, 2))
        x = x.reshape(len(x), -1, channels)
        total += x.mean(1, dtype=np.float64).sum(0)
        squares += (x**2).mean(1, dtype=np.float64).sum(0)
    mean = total / len(features)
    variance = np.maximum(squares / len(features) - mean**2, 0)
    gamma, beta, _, _ = norm.get_weights()
    norm.set_weights([gamma, beta, mean, variance])
    norm.trainable = False


def _rows_of(images: np.ndarray, views: int) -> np.ndarray:
    """Return the rows of all views of images."""
    return (images[:, None] * views + np.arange(views)).ravel()


def _sample_weights(
    labels: np.ndarray, held_out: np.ndarray, class_weights: str | None
) -> np.ndarray:
    """Return the weight of each image for each head, 0 where it is held out, (n, heads)."""
    weights = np.zeros(held_out.shape, np.float32)
    for head in range(held_out.shape[1]):
        fitted = ~held_out[:, head]
        weights[fitted, head] = compute_sample_weight(class_weights, labels[fitted])
    return weights


def _variables_of_heads(tail: "keras.Model", count: int) -> list[list[Any]]:
    """Return the variables of each head; a single head has all, also those of trained blocks."""
    if count == 1:
        return [list(tail.weights)]
    kind = local_kind_of(tail)
    variables: list[list[Any]] = []
    for number in range(count):
        name = f"{kind}_{number}"
        layers = [layer for layer in tail.layers if f"{layer.name}_".startswith(f"{name}_")]
        variables.append([weight for layer in layers for weight in layer.weights])
    return variables


def _key_of(
    tail: "keras.Model",
    features: Features,
    labels: np.ndarray,
    held_out: np.ndarray,
    config: FitConfig,
) -> str:
    """Hash all that decides the result of a fit."""
    settings = f"{backend.name()} {config.model_dump_json()} {features.digest()} "
    digest = hashlib.sha256(settings.encode())
    digest.update(json.dumps(tail.get_config(), sort_keys=True, default=str).encode())
    for values in (labels, held_out, *tail.get_weights()):
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


class _BestEpochs:
    """After each epoch compare each head's loss on the images held out from it.

    Args:
        tail: which is evaluated, and gets the weights.
        images: without augmentation.
        labels: of the images.
        held_out: bool, (n, heads).
        config: patience, maximum of epochs.
        on_epoch: see `fit`.
        checkpoint: of the fit; what it has is restored.

    Attributes:
        epoch: number of epochs that are done.
        epochs, probabilities, history: see `Fitted`.
    """

    def __init__(
        self,
        tail: "keras.Model",
        images: Features,
        labels: np.ndarray,
        held_out: np.ndarray,
        config: FitConfig,
        on_epoch: EpochCallback,
        checkpoint: Checkpoint,
    ) -> None:
        heads = held_out.shape[1]
        self._tail, self._images, self._labels = tail, images, labels
        self._held_out, self._config, self._on_epoch = held_out, config, on_epoch
        self._checkpoint = checkpoint
        self._variables = _variables_of_heads(tail, heads)
        self.epoch = 0
        self.epochs = np.zeros(heads, int)
        self.probabilities = np.full((*held_out.shape, tail.output_shape[-1]), np.nan, "f4")
        self.history: History = {}
        self._losses = np.full(heads, np.inf)
        self._weights: list[list[np.ndarray]] = [[]] * heads
        if state := checkpoint.read():
            self._restore(state)

    def continues(self) -> bool:
        """Return whether there is another epoch."""
        is_over = (self.epoch - self.epochs >= self._config.patience).all()
        return self.epoch < self._config.epochs and not is_over

    def assign_best(self) -> None:
        """Give each head the weights of its best epoch."""
        for head, values in enumerate(self._weights):
            for variable, value in zip(self._variables[head], values, strict=False):
                variable.assign(value)

    def update(self, model: "keras.Model", epoch: int, logs: dict[str, float]) -> None:
        """Take the state of a model, the tail or its replica, after an epoch, from 0."""
        self.epoch = epoch + 1
        _copy_variables(model, self._tail)
        if self._held_out.any():
            self._evaluate(logs)
        else:
            self.epochs[:] = self.epoch
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        self._on_epoch(logs, self.epoch)
        self._checkpoint.write(self._state())
        if not self.continues():
            model.stop_training = True

    def _evaluate(self, logs: dict[str, float]) -> None:
        probabilities = predict(self._tail, self._images)
        true = np.take_along_axis(probabilities, self._labels[:, None, None], 2)[..., 0]
        losses = -np.log(np.clip(true, 1e-7, 1)).astype(np.float64)
        # Another processor may differ in the last digit, but all must decide alike.
        means = np.mean(losses, axis=0, where=self._held_out)
        means = np.frombuffer(backend.broadcast(means.tobytes()))
        correct = probabilities.argmax(2) == self._labels[:, None]
        logs["val_loss"] = float(means.mean())
        logs["val_accuracy"] = float(correct[self._held_out].mean())
        for head in np.flatnonzero(means < self._losses):
            self.epochs[head] = self.epoch
            self._losses[head] = means[head]
            self.probabilities[:, head] = probabilities[:, head]
            self._weights[head] = [weight.numpy().copy() for weight in self._variables[head]]

    def _state(self) -> dict[str, np.ndarray]:
        state = {
            "epochs": self.epochs,
            "losses": self._losses,
            "probabilities": self.probabilities,
            "names": np.array(list(self.history)),
            "history": np.array(list(self.history.values())),
        }
        for head, values in enumerate(self._weights):
            state |= {f"head {head} {index}": value for index, value in enumerate(values)}
        return state

    def _restore(self, state: Mapping[str, np.ndarray]) -> None:
        self.epochs, self._losses = state["epochs"], state["losses"]
        self.probabilities = state["probabilities"]
        values = state["history"].tolist()
        self.history = dict(zip(state["names"].tolist(), values, strict=True))
        self.epoch = state["history"].shape[1]
        for head in range(len(self._weights)):
            keys = [f"head {head} {index}" for index in range(len(self._variables[head]))]
            self._weights[head] = [state[key] for key in keys if key in state]
        for number, metrics in enumerate(zip(*values, strict=True), 1):
            self._on_epoch(dict(zip(self.history, metrics, strict=True)), number)


def _copy_variables(source: "keras.Model", target: "keras.Model") -> None:
    if source is target:
        return
    for variable, copied in zip(target.variables, source.variables, strict=True):
        variable.assign(copied.numpy())


def padded_sizes(total: int, batch_size: int, devices: int) -> dict[int, int]:
    """Return the number of rows of the batches, by the number with padding.

    The padding makes a batch divisible by the number of devices. Only the last batch may be
    smaller; its number with padding is another one, too.
    """
    last = total % batch_size or batch_size
    full_size = math.ceil(batch_size / devices) * devices
    last_size = math.ceil(last / devices) * devices
    if last < batch_size and last_size == full_size:
        last_size += devices
    return {full_size: batch_size, last_size: last}


def make_batches(
    features: Features,
    labels: np.ndarray,
    weights: np.ndarray,
    fitted: np.ndarray,
    config: FitConfig,
    sizes: Mapping[int, int],
    share: backend.Share,
    epochs: int = 0,
) -> "keras.utils.PyDataset":
    """Return the batches, or this process's share of the rows of each.

    Args:
        features: of all images, in all views.
        labels: of all images.
        weights: of each image for each head.
        fitted: which images to train on.
        config: batch size, seed.
        sizes: from `padded_sizes`.
        share: of this process.
        epochs: number of epochs that are done.
    """
    import keras

    views = len(features) // len(labels)
    heads = weights.shape[1]

    class Batches(keras.utils.PyDataset):
        """Read batches from the cache; before each epoch shuffle, and choose a view of each."""

        def __init__(self) -> None:
            super().__init__()
            self._rng = np.random.default_rng(config.seed)
            for _ in range(1 + epochs):
                self.on_epoch_end()

        def __len__(self) -> int:
            return math.ceil(len(fitted) / config.batch_size)

        def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            start = number * config.batch_size
            count = min(config.batch_size, len(fitted) - start)
            size = next(size for size, rows in sizes.items() if rows == count) // share.processes
            rows = np.arange(share.process * size, (share.process + 1) * size)
            items = start + np.minimum(rows, count - 1)  # the padding repeats the last row
            images = self._images[items]
            targets = np.repeat(labels[images][:, None], heads, axis=1)
            return features.take(self._rows[items]), targets, weights[images]

        def on_epoch_end(self) -> None:
            self._images = self._rng.permutation(fitted)
            self._rows = self._images * views + self._rng.integers(views, size=len(fitted))

    return Batches()
