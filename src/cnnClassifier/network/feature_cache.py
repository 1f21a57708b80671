"""Feature maps of the frozen layers: computed once per view, cached on disk by content."""

import hashlib
import json
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cnnClassifier.utils.common import create_directories
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.progress import progress

if TYPE_CHECKING:
    import keras

_FORMAT = 1  # raise it when the same image and model would give another feature map
_MAX_FLOAT16 = 65504
_MAX_THREADS = 4
Loader = Callable[[int, list[int]], Sequence[np.ndarray]]


class Features:
    """Rows of cached feature maps, memory-mapped.

    Args:
        segments: arrays of float16, (rows, h, w, channels).
        positions: (segment, row) of each item, int (n, 2).
    """

    def __init__(self, segments: Sequence[np.ndarray], positions: np.ndarray) -> None:
        self._segments = segments
        self._positions = positions
        self.shape = segments[0].shape[1:]

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, items: slice | np.ndarray) -> "Features":
        return Features(self._segments, self._positions[items])

    def take(self, items: np.ndarray) -> np.ndarray:
        """Read items into memory.

        Returns:
            float16, (len(items), h, w, channels); Keras casts it where that is fast.
        """
        out = np.empty((len(items), *self.shape), np.float16)
        for number, (segment, row) in enumerate(self._positions[items]):
            out[number] = self._segments[segment][row]
        return out

    def batches(self, size: int = 64) -> Iterator[np.ndarray]:
        """Yield all items in order, so many at a time."""
        for start in range(0, len(self), size):
            yield self.take(np.arange(start, min(start + size, len(self))))


@dataclass
class _MissingImage:
    """An image with views that aren't cached yet, and the cache keys of these views."""

    image: int
    views: list[int]
    keys: list[str]


class FeatureCache:
    """Feature maps of one frozen network on disk.

    Each run that computes something appends to a segment of its own: a file of rows, and an index
    with one line for each row, written after the row. A killed run leaves all rows that it
    finished, and two runs at once never write to the same file.

    Args:
        cache_dir: shared by all networks.
        trunk: the frozen network, from RGB 0-255 to one feature map.
        precision: of its arithmetic: `float32`, `bfloat16` or `float16`.
    """

    def __init__(self, cache_dir: Path, trunk: "keras.Model", precision: str) -> None:
        self._trunk = trunk
        self._precision = precision
        self.shape = tuple(trunk.output_shape[1:])
        self.folder = Path(cache_dir) / trunk_id(trunk, precision)[:24]

    def features(self, keys: Sequence[Sequence[str]], load: Loader) -> Features:
        """Return the feature maps of images, computing those that aren't cached.

        Args:
            keys: for each image the cache keys of its views; equal keys mean equal pixels.
            load: returns the pixels of some views of an image, uint8 (height, width, 3) each, so
                that the image is decoded once for all of them. It runs in threads.

        Returns:
            The views of the first image, then those of the second, and so on.
        """
        segments, index = self._read()
        missing, count = _missing_images(keys, index)
        total = sum(map(len, keys))
        logger.info("frozen features: %d forward passes, %d from the cache", count, total - count)
        if missing:
            self._compute(missing, count, load)
            segments, index = self._read()
        positions = []
        for image_keys in keys:
            positions += [index[key] for key in image_keys]
        return Features(segments, np.array(positions, np.int64).reshape(-1, 2))

    def _read(self) -> tuple[list[np.ndarray], dict[str, tuple[int, int]]]:
        segments: list[np.ndarray] = []
        index: dict[str, tuple[int, int]] = {}
        row_bytes = 2 * int(np.prod(self.shape))
        for path in sorted(self.folder.glob("*.index")):
            rows_path = path.with_suffix(".f16")
            rows = rows_path.stat().st_size // row_bytes if rows_path.exists() else 0
            lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # without an incomplete line
            if not lines or not rows:
                continue
            for row, key in enumerate(lines[:rows]):
                index[key] = (len(segments), row)
            shape = (min(rows, len(lines)), *self.shape)
            segments.append(np.memmap(rows_path, np.float16, "r", shape=shape))
        return segments, index

    def _compute(self, missing: list[_MissingImage], count: int, load: Loader) -> None:
        create_directories(self.folder)
        name = self.folder / f"{time.time_ns():x}-{uuid.uuid4().hex[:8]}"
        run = forward(self._trunk, self._precision)
        with (
            name.with_suffix(".f16").open("wb") as rows,
            name.with_suffix(".index").open("w", encoding="utf-8") as index,
            progress(total=count, desc=f"features ({self._precision})", unit="image") as bar,
        ):
            for keys, images in _batches(_load_ahead(missing, load), _batch_size()):
                maps = run(images)[: len(keys)].clip(-_MAX_FLOAT16, _MAX_FLOAT16)
                rows.write(maps.astype(np.float16).tobytes())
                rows.flush()
                index.writelines(f"{key}\n" for key in keys)
                index.flush()
                bar.update(len(keys))


def _missing_images(
    keys: Sequence[Sequence[str]], index: dict[str, tuple[int, int]]
) -> tuple[list[_MissingImage], int]:
    """Return the images with views that aren't cached, each key once; and the number of views."""
    missing: list[_MissingImage] = []
    known = set(index)
    for image, image_keys in enumerate(keys):
        found = _MissingImage(image, [], [])
        for view, key in enumerate(image_keys):
            if key not in known:
                known.add(key)
                found.views.append(view)
                found.keys.append(key)
        if found.keys:
            missing.append(found)
    return missing, len(known) - len(index)


def _load_ahead(missing: Iterable[_MissingImage], load: Loader) -> Iterator[tuple[str, np.ndarray]]:
    """Yield key and pixels of each missing view in order; threads load ahead of the network."""
    waiting: deque[tuple[list[str], Future[Sequence[np.ndarray]]]] = deque()
    threads = min(_MAX_THREADS, os.cpu_count() or 1)
    views_ahead = 3 * _batch_size()
    with ThreadPoolExecutor(threads) as pool:
        for item in missing:
            waiting.append((item.keys, pool.submit(load, item.image, item.views)))
            # Bounded by views, so that memory hardly grows with the augmentation.
            while len(waiting) > threads and sum(len(w[0]) for w in waiting) > views_ahead:
                keys, future = waiting.popleft()
                yield from zip(keys, future.result(), strict=True)
        for keys, future in waiting:
            yield from zip(keys, future.result(), strict=True)


def _batches(
    views: Iterable[tuple[str, np.ndarray]], size: int
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield batches of one shape; the last one is padded with its first image."""
    keys: list[str] = []
    images: list[np.ndarray] = []
    for key, image in views:
        keys.append(key)
        images.append(image)
        if len(keys) == size:
            yield keys, np.stack(images)
            keys, images = [], []
    if keys:
        yield keys, np.stack(images + images[:1] * (size - len(images)))


def trunk_id(trunk: "keras.Model", precision: str) -> str:
    """Hash all that decides a feature map besides the image: layers, weights, precision."""
    digest = hashlib.sha256(f"{_FORMAT} {precision} ".encode())
    digest.update(json.dumps(trunk.get_config(), sort_keys=True, default=str).encode())
    for weight in trunk.weights:
        digest.update(np.ascontiguousarray(weight, dtype="<f4").tobytes())
    return digest.hexdigest()


def split_at(model: "keras.Model", boundary: str) -> tuple["keras.Model", "keras.Model"]:
    """Cut a model at a layer: the frozen trunk up to it, and the trainable tail after it.

    Both share their layers with `model`, so that fitting the tail fits the model.
    """
    import keras

    cut = model.get_layer(boundary).output
    trunk = keras.Model(model.input, cut, name="trunk")
    tail = keras.Model(cut, model.output, name="tail")
    for layer in trunk.layers:
        layer.trainable = False
    return trunk, tail


def forward(trunk: "keras.Model", precision: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that runs the trunk on uint8 (n, height, width, 3) and returns float32."""
    import keras
    import tensorflow as tf

    def with_precision(layer: "keras.layers.Layer") -> "keras.layers.Layer":
        config = layer.get_config()
        if "dtype" in config and not isinstance(layer, keras.layers.InputLayer):
            config["dtype"] = f"mixed_{precision}"
        return layer.__class__.from_config(config)

    model = trunk
    if precision != "float32":
        model = keras.models.clone_model(trunk, clone_function=with_precision)
        model.set_weights(trunk.get_weights())

    @tf.function(jit_compile=False, reduce_retracing=True)
    def step(images: "tf.Tensor") -> "tf.Tensor":
        return tf.cast(model(tf.cast(images, tf.float32), training=False), tf.float32)

    return lambda images: step(tf.constant(images)).numpy()


def choose_precision(requested: str) -> str:
    """Return the precision for the frozen layers; `auto` takes the shortest with hardware support.

    That is float16 on a GPU, and bfloat16 on a CPU with instructions for it. Elsewhere bfloat16 is
    emulated and slow.
    """
    if requested != "auto":
        return requested
    if _has_gpu():
        return "float16"
    return "bfloat16" if _cpu_has_bfloat16() else "float32"


def _batch_size() -> int:
    return 32 if _has_gpu() else 4  # on a CPU more isn't faster, and takes memory


def _has_gpu() -> bool:
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def _cpu_has_bfloat16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
