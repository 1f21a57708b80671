"""Outputs of the frozen layers: computed once per view, cached on disk by content."""

import hashlib
import json
import multiprocessing
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np

from cnnClassifier.network import backend
from cnnClassifier.network.architecture import BLOCKS_LAYER, heads_of, local_kind_of, stack_heads
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.progress import progress

if TYPE_CHECKING:
    import keras

_FORMAT = 3  # raise it when the same image and model would give another feature map
_MAX_FLOAT16 = 65504
_MAX_THREADS = 4  # more wait for each other: Pillow needs the GIL between its steps
_MIN_IMAGES_FOR_PROCESSES = 1000  # starting them takes a second
_IMAGES_PER_TASK = 8  # of a process
Loader = Callable[[Any, list[int]], Sequence[np.ndarray]]
Job = tuple[Any, list[int]]  # an image, and its missing views


class Features:
    """Cached feature maps and block averages, read from disk when they are used.

    Args:
        paths: the file of each item, str (n,); it holds float16 values, first those of the map.
        shape: of a map, (h, w, channels).
        averages: number of block averages.
    """

    def __init__(self, paths: np.ndarray, shape: tuple[int, ...], averages: int) -> None:
        self._paths = paths
        self._averages = averages
        self.shape = shape

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, items: slice | np.ndarray) -> "Features":
        return Features(self._paths[items], self.shape, self._averages)

    def digest(self) -> str:
        """Hash the content: a file and its folder are named by hashes of image, view, network."""
        names = "".join("/".join(Path(path).parts[-2:]) for path in self._paths)
        return hashlib.sha256(names.encode()).hexdigest()

    def take(self, items: slice | np.ndarray) -> np.ndarray:
        """Read the maps of items into memory.

        Returns:
            float16, (n, h, w, channels); Keras casts it where that is fast.
        """
        return self._read(self._paths[items], self.shape, 0)

    def averages(self) -> np.ndarray:
        """Read the block averages of all items, float16 (n, features)."""
        return self._read(self._paths, (self._averages,), 2 * int(np.prod(self.shape)))

    def batches(self, size: int = 64) -> Iterator[np.ndarray]:
        """Yield the maps of all items in order, so many at a time."""
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))

    def _read(self, paths: np.ndarray, shape: tuple[int, ...], offset: int) -> np.ndarray:
        values = np.empty((len(paths), *shape), np.float16)
        for path, item in zip(paths, values, strict=True):
            with open(path, "rb", buffering=0) as file:
                file.seek(offset)
                file.readinto(item)
        return values


class FeatureCache:
    """Outputs of one frozen network on disk: one file for each view of an image.

    A file is named by its content, and renamed into place once it is complete. So an interrupted
    run keeps all maps that it finished, and several processes can share the folder.

    Args:
        cache_dir: shared by all networks.
        trunk: the frozen network from `split_at`.
        precision: of its arithmetic: `float32`, `bfloat16` or `float16`.
    """

    def __init__(self, cache_dir: Path, trunk: "keras.Model", precision: str) -> None:
        self._trunk = trunk
        self._precision = precision
        map_shape, averages_shape = trunk.output_shape
        self.shape = tuple(map_shape[1:])
        self._averages = averages_shape[1]
        self.folder = Path(cache_dir) / trunk_id(trunk, precision)[:24]

    def features(
        self, keys: Sequence[Sequence[str]], images: Sequence[Any], load: Loader
    ) -> Features:
        """Return the features of images, computing those that aren't cached.

        Args:
            keys: for each image the cache keys of its views; equal keys mean equal pixels.
            images: what `load` takes of each, such as its path.
            load: returns the pixels of some views of an image, uint8 (height, width, 3) each, so
                that the image is decoded once for all of them. It runs in threads; with a GPU and
                many images in processes, which it is pickled for.

        Returns:
            The views of the first image, then those of the second, and so on.
        """
        file_bytes = 2 * (int(np.prod(self.shape)) + self._averages)
        paths: list[Path] = []
        missing: dict[int, list[int]] = {}  # the views by image
        missing_paths: dict[Path, None] = {}  # an ordered set
        for image, image_keys in enumerate(keys):
            for view, key in enumerate(image_keys):
                path = self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}.f16"
                paths.append(path)
                is_complete = path.exists() and path.stat().st_size == file_bytes
                if path not in missing_paths and not is_complete:
                    missing_paths[path] = None
                    missing.setdefault(image, []).append(view)
        computed = len(missing_paths)
        cached = len(paths) - computed
        logger.info("frozen features: %d forward passes, %d from the cache", computed, cached)
        if missing:
            jobs = [(images[image], views) for image, views in missing.items()]
            self._compute(list(missing_paths), jobs, load)
        return Features(np.array(paths, str), self.shape, self._averages)

    def _compute(self, paths: list[Path], jobs: list[Job], load: Loader) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        run = forward(self._trunk, self._precision)
        size = 128 if backend.has_gpu() else 4  # on a CPU more isn't faster, and takes memory
        loaded = _load_ahead(jobs, load, max_views=3 * size)
        writing: list[Future[None]] = []  # what the network computed before
        with (
            progress(total=len(paths), desc=f"features ({self._precision})", unit="image") as bar,
            ThreadPoolExecutor(1) as writer,
        ):
            for start in range(0, len(paths), size):
                batch = paths[start : start + size]
                pixels = list(islice(loaded, size))
                pixels += pixels[:1] * (size - len(pixels))  # one shape: no second trace
                rows = run(np.stack(pixels))
                for written in writing:
                    written.result()
                writing = [writer.submit(self._write, batch, rows)]
                bar.update(len(batch))
            for written in writing:
                written.result()

    def _write(self, paths: list[Path], rows: np.ndarray) -> None:
        temp_path = self.folder / f"{uuid.uuid4().hex}.unfinished"
        for path, row in zip(paths, rows, strict=False):
            row.tofile(temp_path)
            temp_path.replace(path)


def _load_ahead(jobs: Sequence[Job], load: Loader, max_views: int) -> Iterator[np.ndarray]:
    """Yield the views of the jobs in order, loading ahead of the network, within a bound."""
    cores = joblib.cpu_count()
    use_processes = (
        cores > _MAX_THREADS and len(jobs) >= _MIN_IMAGES_FOR_PROCESSES and backend.has_gpu()
    )
    if use_processes:
        # A copy of this process would hold the locks of the backend's threads for ever.
        pool: Executor = ProcessPoolExecutor(cores, multiprocessing.get_context("spawn"))
        size = _IMAGES_PER_TASK
    else:
        pool, size = ThreadPoolExecutor(min(_MAX_THREADS, cores)), 1
    views_per_task = size * max(len(views) for _, views in jobs)
    ahead = max(2 * cores if use_processes else _MAX_THREADS, max_views // views_per_task)  # tasks
    tasks = (jobs[start : start + size] for start in range(0, len(jobs), size))
    with pool:
        waiting = deque(pool.submit(_load, load, task) for task in islice(tasks, ahead))
        while waiting:
            yield from waiting.popleft().result()
            waiting.extend(pool.submit(_load, load, task) for task in islice(tasks, 1))


def _load(load: Loader, jobs: Sequence[Job]) -> list[np.ndarray]:
    return list(chain.from_iterable(load(*job) for job in jobs))


def trunk_id(trunk: "keras.Model", precision: str) -> str:
    """Hash all that decides a feature map besides the image: layers, weights, arithmetic."""
    arithmetic = precision
    if backend.name() != "tensorflow":  # whose maps were cached before there were other backends
        arithmetic = f"{precision} {backend.name()}"
    digest = hashlib.sha256(f"{_FORMAT} {arithmetic} ".encode())
    digest.update(json.dumps(trunk.get_config(), sort_keys=True, default=str).encode())
    for weight in trunk.weights:
        digest.update(np.ascontiguousarray(weight, dtype="<f4").tobytes())
    return digest.hexdigest()


def split_at(
    model: "keras.Model", boundary: str, count: int
) -> tuple["keras.Model", "keras.Model | None"]:
    """Cut a model at a layer: the frozen trunk up to it, and the trainable tail after it.

    Both share their layers with `model`, so that fitting the tail fits the model.

    Args:
        model: from `add_heads`.
        boundary: name of the last frozen layer.
        count: number of local heads in the tail, the first ones.

    Returns:
        The trunk, from RGB 0-255 to the boundary's feature map and the averages of the blocks; and
        the tail, from that map to the probabilities of the local heads, (n, heads, classes), or
        None where the model has no local heads.
    """
    import keras

    cut = model.get_layer(boundary).output
    trunk = keras.Model(model.input, [cut, model.get_layer(BLOCKS_LAYER).output], name="trunk")
    kind = local_kind_of(model)
    tail = None
    if kind:
        outputs = [head.output for head in heads_of(model, kind)[:count]]
        tail = keras.Model(cut, stack_heads(outputs, "tail"), name="tail")
    trained = {layer.name for layer in tail.layers} if tail else set()
    for layer in trunk.layers:
        layer.trainable = layer.name in trained
    return trunk, tail


def forward(trunk: "keras.Model", precision: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that runs the trunk on uint8 (n, height, width, 3).

    It returns the values of each feature map and then the averages of the blocks, float16
    (n, values). The casts are part of the graph, so that a GPU receives and returns few bytes.
    """
    import keras
    from keras import ops

    def with_precision(layer: "keras.layers.Layer") -> "keras.layers.Layer":
        config = layer.get_config()
        # An average in a short format would be of too few digits.
        is_average = layer.name == BLOCKS_LAYER or layer.name.endswith("_average")
        if "dtype" in config and not isinstance(layer, keras.layers.InputLayer) and not is_average:
            config["dtype"] = f"mixed_{precision}"
        return layer.__class__.from_config(config)

    model = trunk
    if precision != "float32":
        model = keras.models.clone_model(trunk, clone_function=with_precision)
        model.set_weights(trunk.get_weights())
    image = keras.Input(trunk.input_shape[1:], dtype="uint8")
    parts = []
    for output in model(ops.cast(image, "float32"), training=False):
        values = ops.cast(ops.reshape(output, (-1, int(np.prod(output.shape[1:])))), "float32")
        parts.append(ops.clip(values, -_MAX_FLOAT16, _MAX_FLOAT16))
    rows = ops.cast(ops.concatenate(parts, axis=1), "float16")
    return keras.Model(image, rows).predict_on_batch


def choose_precision(requested: str) -> str:
    """Return the precision for the frozen layers; `auto` takes the shortest with hardware support.

    That is float16 on a GPU, and bfloat16 on a CPU with instructions for it. Elsewhere bfloat16 is
    emulated and slow.
    """
    if requested != "auto":
        return requested
    if backend.has_gpu():
        return "float16"
    return "bfloat16" if _cpu_has_bfloat16() else "float32"


def _cpu_has_bfloat16() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags
