"""Outputs of the frozen layers: computed once an image and view, kept on disk by content."""

import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cnnClassifier.utils.common import create_directories
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.progress import progress

if TYPE_CHECKING:
    import keras

_FORMAT = 1  # raise it when the same image and model would give another row


class Features:
    """Rows of cached feature maps, memory-mapped.

    Args:
        segments: arrays of float16, (rows, h, w, channels).
        places: (segment, row) of each item.
    """

    def __init__(self, segments: Sequence[np.ndarray], places: np.ndarray) -> None:
        self._segments = segments
        self._places = places
        self.shape = segments[0].shape[1:]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, items: slice | np.ndarray) -> "Features":
        return Features(self._segments, self._places[items])

    def take(self, items: np.ndarray) -> np.ndarray:
        """Read items into memory.

        Returns:
            float16, (len(items), h, w, channels); Keras casts it where that is fast.
        """
        out = np.empty((len(items), *self.shape), np.float16)
        for slot, (segment, row) in zip(out, self._places[items], strict=True):
            slot[...] = self._segments[segment][row]
        return out


class FeatureCache:
    """Feature maps of one frozen network on disk.

    Each run that computes something appends to a segment of its own: a file of rows and an index with a line for each
    row, written after it. A killed run leaves what it finished, and two runs at once don't meet.

    Args:
        cache_dir: shared by all networks.
        trunk: the frozen network, from RGB 0-255 to one feature map.
        precision: `float32`, `bfloat16` or `float16`: what it is computed in.
    """

    def __init__(self, cache_dir: Path, trunk: "keras.Model", precision: str) -> None:
        self._trunk = trunk
        self._precision = precision
        self.shape = tuple(trunk.output_shape[1:])
        self.folder = Path(cache_dir) / trunk_id(trunk, precision)[:24]

    def features(self, keys: Sequence[str], load: Callable[[int], np.ndarray]) -> Features:
        """Return the feature maps of images, computing those that aren't cached.

        Args:
            keys: one for each item; equal keys mean equal pixels.
            load: gives the pixels of item i, uint8 (height, width, 3). It runs in threads.
        """
        segments, index = self._read()
        missing = list(
            {key: i for i, key in reversed(list(enumerate(keys))) if key not in index}.items()
        )[::-1]
        logger.info(
            "frozen features: %d forward passes, %d from the cache",
            len(missing),
            len(keys) - len(missing),
        )
        if missing:
            self._compute(missing, load)
            segments, index = self._read()
        return Features(segments, np.array([index[key] for key in keys], np.int64).reshape(-1, 2))

    def _read(self) -> tuple[list[np.ndarray], dict[str, tuple[int, int]]]:
        segments: list[np.ndarray] = []
        index: dict[str, tuple[int, int]] = {}
        row_bytes = 2 * int(np.prod(self.shape))
        for path in sorted(self.folder.glob("*.index")):
            rows_path = path.with_suffix(".f16")
            rows = rows_path.stat().st_size // row_bytes if rows_path.exists() else 0
            keys = path.read_text(encoding="utf-8").split("\n")[:-1][
                :rows
            ]  # a line that was cut off doesn't count
            if keys:
                segments.append(np.memmap(rows_path, np.float16, "r", shape=(rows, *self.shape)))
                index.update({key: (len(segments) - 1, row) for row, key in enumerate(keys)})
        return segments, index

    def _compute(self, missing: list[tuple[str, int]], load: Callable[[int], np.ndarray]) -> None:
        create_directories(self.folder)
        name = self.folder / f"{time.time_ns():x}-{uuid.uuid4().hex[:8]}"
        run = forward(self._trunk, self._precision)
        size = _batch_size()
        with (
            name.with_suffix(".f16").open("wb") as rows,
            name.with_suffix(".index").open("w", encoding="utf-8") as index,
            progress(total=len(missing), desc=f"features ({self._precision})", unit="image") as bar,
        ):
            for keys, images in _batches(missing, load, size):
                maps = run(images)[: len(keys)]
                rows.write(np.clip(maps, -65504, 65504).astype(np.float16).tobytes())
                rows.flush()
                index.write("".join(f"{key}\n" for key in keys))
                index.flush()
                bar.update(len(keys))


def trunk_id(trunk: "keras.Model", precision: str) -> str:
    """Hash all that decides a feature map besides the image: layers, weights, precision."""
    digest = hashlib.sha256(f"{_FORMAT} {precision} ".encode())
    digest.update(json.dumps(trunk.get_config(), sort_keys=True, default=str).encode())
    for weight in trunk.weights:
        digest.update(np.ascontiguousarray(weight, dtype="<f4").tobytes())
    return digest.hexdigest()


def split_at(model: "keras.Model", boundary: str) -> tuple["keras.Model", "keras.Model"]:
    """Cut a model at a layer: the frozen trunk up to it, and the trainable tail after it.

    The two share their layers with `model`, so that what is fitted in the tail is fitted in the model.
    """
    import keras

    cut = model.get_layer(boundary).output
    trunk, tail = (
        keras.Model(model.input, cut, name="trunk"),
        keras.Model(cut, model.output, name="tail"),
    )
    for layer in trunk.layers:
        layer.trainable = False
    return trunk, tail


def forward(trunk: "keras.Model", precision: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that runs the trunk in `precision` on uint8 (n, height, width, 3) and gives float32."""
    import keras
    import tensorflow as tf

    model = trunk
    if precision != "float32":

        def recast(layer: "keras.layers.Layer") -> "keras.layers.Layer":
            config = layer.get_config()
            if "dtype" in config and not isinstance(layer, keras.layers.InputLayer):
                config["dtype"] = f"mixed_{precision}"
            return layer.__class__.from_config(config)

        model = keras.models.clone_model(trunk, clone_function=recast)
        model.set_weights(trunk.get_weights())

    @tf.function(jit_compile=False, reduce_retracing=True)
    def step(images: "tf.Tensor") -> "tf.Tensor":
        return tf.cast(model(tf.cast(images, tf.float32), training=False), tf.float32)

    return lambda images: step(tf.constant(images)).numpy()


def choose_precision(wanted: str) -> str:
    """Return the precision for the frozen part: `wanted`, or for `auto` the shortest that the machine computes in.

    bfloat16 where the CPU has instructions for it (elsewhere it is emulated and slow), float16 where there is a GPU.
    """
    import tensorflow as tf

    if wanted != "auto":
        return wanted
    if tf.config.list_physical_devices("GPU"):
        return "float16"
    return "bfloat16" if _cpu_has_bfloat16() else "float32"


def _batch_size() -> int:
    import tensorflow as tf

    return (
        32 if tf.config.list_physical_devices("GPU") else 4
    )  # on a CPU more isn't faster, and takes memory


def _batches(
    missing: list[tuple[str, int]], load: Callable[[int], np.ndarray], size: int
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Load ahead of the network, in batches of one shape, the last one padded with its first image."""
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        waiting = iter(missing)
        ahead = [(key, pool.submit(load, item)) for key, item in islice(waiting, 3 * size)]
        while ahead:
            batch, ahead = ahead[:size], ahead[size:]
            images = [future.result() for _, future in batch]
            ahead += [(key, pool.submit(load, item)) for key, item in islice(waiting, size)]
            images += images[:1] * (size - len(images))
            yield [key for key, _ in batch], np.stack(images)


def _cpu_has_bfloat16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
