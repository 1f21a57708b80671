"""Outputs of the frozen layers: computed once per view, cached by content."""

import hashlib
import json
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import joblib
import numpy as np

from cnnClassifier.network import backend
from cnnClassifier.network.architecture import BLOCKS_LAYER, heads_of, local_kind_of, stack_heads
from cnnClassifier.network.feature_files import FeatureFiles, open_files
from cnnClassifier.network.serialization import load_model, save_model
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.parallel import LOCAL, Workers, one_per_process
from cnnClassifier.utils.progress import progress

if TYPE_CHECKING:
    import keras

_FORMAT = 3  # raise it when the same image and model would give another feature map
_MAX_FLOAT16 = 65504
_MAX_THREADS = 4  # more wait for each other: Pillow needs the GIL between its steps
_MIN_IMAGES_FOR_PROCESSES = 1000  # starting them takes a second
_IMAGES_PER_TASK = 8  # of a process
_BATCHES_PER_TASK = 8  # of a cluster's worker
Loader = Callable[[Any, list[int]], Sequence[np.ndarray]]
Forward = Callable[[np.ndarray], np.ndarray]
Job = tuple[Any, list[int]]  # an image, and its missing views


class NamedView(NamedTuple):
    """A view of an image: the name of its file, the image, and the view's number."""

    name: str
    image: Any
    view: int


class Features:
    """Feature maps and block averages, read from the cache when they are used.

    Args:
        names: hash of image and view of each item, str (n,), the name of its file. A file holds
            float16 values, first those of the map.
        shape: of a map, (h, w, channels).
        averages: number of block averages.
        files: the cache, or what computes them.
        network: hash of the frozen network.
    """

    def __init__(
        self,
        names: np.ndarray,
        shape: tuple[int, ...],
        averages: int,
        files: "FeatureFiles | ComputedFeatures",
        network: str,
    ) -> None:
        self._names = names
        self._network = network
        self._averages = averages
        self._files = files
        self.shape = shape

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, items: slice | np.ndarray) -> "Features":
        names = self._names[items]
        return Features(names, self.shape, self._averages, self._files, self._network)

    def digest(self) -> str:
        """Hash what decides all values: images, views and network."""
        return hashlib.sha256(" ".join([self._network, *self._names]).encode()).hexdigest()

    def take(self, items: slice | np.ndarray) -> np.ndarray:
        """Read the maps of items into memory.

        Returns:
            float16, (n, h, w, channels); Keras casts it where that is fast.
        """
        return self._read(self._names[items], self.shape, 0)

    def averages(self) -> np.ndarray:
        """Read the block averages of all items, float16 (n, features)."""
        return self._read(self._names, (self._averages,), 2 * int(np.prod(self.shape)))

    def batches(self, size: int = 64) -> Iterator[np.ndarray]:
        """Yield the maps of all items in order, so many at a time."""
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))

    def _read(self, names: np.ndarray, shape: tuple[int, ...], offset: int) -> np.ndarray:
        values = np.empty((len(names), *shape), np.float16)
        self._files.read(names, offset, values)
        return values


class ComputedFeatures:
    """Features that aren't stored: whenever some are read, their images are loaded again.

    Args:
        run: from `forward`.
        views: of all items.
        load: see `FeatureCache.features`.
    """

    def __init__(self, run: Forward, views: Sequence[NamedView], load: Loader) -> None:
        self._run = run
        self._jobs: dict[str, Job] = {view.name: (view.image, [view.view]) for view in views}
        self._load = load

    def read(self, names: np.ndarray, offset: int, values: np.ndarray) -> None:
        """Fill one item of `values` for each name, from a position in bytes on."""
        size = _batch_size()
        jobs = [self._jobs[name] for name in names]
        loaded = _load_ahead(jobs, self._load, max_views=3 * size) if jobs else iter(())
        first, flat = offset // values.itemsize, values.reshape(len(names), -1)
        for start in range(0, len(names), size):
            rows = _run_batch(self._run, list(islice(loaded, size)), size)
            batch = flat[start : start + size]
            batch[...] = rows[: len(batch), first : first + flat.shape[1]]


class FeatureCache:
    """Outputs of one frozen network: one file for each view of an image.

    A file is named by its content, and is there once it is complete. So an interrupted run keeps
    all maps that it finished, and several processes can share the folder.

    Args:
        cache_dir: a folder or the URL of one, shared by all networks; None: nothing is stored.
        trunk: the frozen network from `split_at`.
        precision: of its arithmetic: `float32`, `bfloat16` or `float16`.
    """

    def __init__(self, cache_dir: Path | str | None, trunk: "keras.Model", precision: str) -> None:
        self._trunk = trunk
        self._precision = precision
        map_shape, averages_shape = trunk.output_shape
        self.shape = tuple(map_shape[1:])
        self._averages = averages_shape[1]
        self._cache_dir = cache_dir

    def features(
        self,
        keys: Sequence[Sequence[str]],
        images: Sequence[Any],
        load: Loader,
        workers: Workers = LOCAL,
    ) -> Features:
        """Return the features of images, computing those that aren't cached.

        Args:
            keys: for each image the cache keys of its views; equal keys mean equal pixels.
            images: what `load` takes of each, such as its path.
            load: returns the pixels of some views of an image, uint8 (height, width, 3) each, so
                that the image is decoded once for all of them. It runs in threads; with a GPU and
                many images in processes, and with `workers` on other machines, which it is
                pickled for. Its attribute `threads`, if there is one, says how many: more where it
                waits for the network.
            workers: where the features are computed; without a cache, in this process.

        Returns:
            The views of the first image, then those of the second, and so on.
        """
        views = []
        for image, image_keys in zip(images, keys, strict=True):
            views += [NamedView(_file_name(key), image, n) for n, key in enumerate(image_keys)]
        network = trunk_id(self._trunk, self._precision)
        features = partial(
            Features, np.array([view.name for view in views], str), self.shape, self._averages
        )
        if self._cache_dir is None:
            logger.info("frozen features: %d, computed each time that they are used", len(views))
            computed = ComputedFeatures(forward(self._trunk, self._precision), views, load)
            return features(computed, network)
        files = open_files(self._cache_dir, network[:24])
        is_complete = files.find(2 * (int(np.prod(self.shape)) + self._averages))
        missing = {view.name: view for view in views if not is_complete(view.name)}
        count = len(missing)
        logger.info(
            "frozen features: %d forward passes, %d from the cache", count, len(views) - count
        )
        if missing:
            done = self._compute(list(missing.values()), load, files, workers)
            desc = f"features ({self._precision})"
            for _ in progress(done, total=count, desc=desc, unit="image"):
                pass
        return features(files, network)

    def _compute(
        self, missing: list[NamedView], load: Loader, files: FeatureFiles, workers: Workers
    ) -> Iterator[None]:
        """Write the views; yield for each."""
        size = _batch_size()
        model_path = workers.shared_path("trunk.keras")
        if model_path is None:
            run = forward(self._trunk, self._precision)
            return _compute_views(run, size, load, files, missing)
        save_model(self._trunk, model_path)
        model = (model_path, self._precision, backend.name())
        compute = partial(_compute_on_worker, model, size, load, files)
        return workers.map(compute, missing, _BATCHES_PER_TASK * size)


def _file_name(key: str) -> str:
    return f"{hashlib.sha256(key.encode()).hexdigest()}.f16"


def _compute_on_worker(
    model: tuple[Path, str, str],
    size: int,
    load: Loader,
    files: FeatureFiles,
    missing: Sequence[NamedView],
) -> list[None]:
    return list(_compute_views(_load_trunk(*model), size, load, files, missing))


@one_per_process
def _load_trunk(path: Path, precision: str, keras_backend: str) -> Forward:
    backend.start_on_worker(keras_backend)
    return forward(load_model(path, "run the command again"), precision)


def _compute_views(
    run: Forward, size: int, load: Loader, files: FeatureFiles, missing: Sequence[NamedView]
) -> Iterator[None]:
    """Compute views in batches of one size, and write them; yield for each."""
    jobs: list[Job] = []
    for image, views in groupby(missing, key=lambda each: each.image):
        jobs.append((image, [each.view for each in views]))
    loaded = _load_ahead(jobs, load, max_views=3 * size)
    writing: list[Future[None]] = []  # what the network computed before
    with ThreadPoolExecutor(1) as writer:
        for start in range(0, len(missing), size):
            names = [each.name for each in missing[start : start + size]]
            rows = _run_batch(run, list(islice(loaded, size)), size)
            for written in writing:
                written.result()
            writing = [writer.submit(files.write, names, rows)]
            yield from [None] * len(names)
        for written in writing:
            written.result()


def _batch_size() -> int:
    return 128 if backend.has_gpu() else 4  # on a CPU more isn't faster, and takes memory


def _run_batch(run: Forward, pixels: list[np.ndarray], size: int) -> np.ndarray:
    pixels = pixels + pixels[:1] * (size - len(pixels))  # one shape: no second trace
    return run(np.stack(pixels))


def _load_ahead(jobs: Sequence[Job], load: Loader, max_views: int) -> Iterator[np.ndarray]:
    """Yield the views of the jobs in order, loading ahead of the network, within a bound."""
    cores = joblib.cpu_count()
    threads = getattr(load, "threads", None) or min(_MAX_THREADS, cores)
    use_processes = (
        cores > _MAX_THREADS
        and len(jobs) >= _MIN_IMAGES_FOR_PROCESSES
        and backend.has_gpu()
        and not multiprocessing.current_process().daemon  # as Dask's workers: they may not
    )
    if use_processes:
        # A copy of this process would hold the locks of the backend's threads for ever.
        pool: Executor = ProcessPoolExecutor(cores, multiprocessing.get_context("spawn"))
        size = _IMAGES_PER_TASK
    else:
        pool, size = ThreadPoolExecutor(threads), 1
    views_per_task = size * max(len(views) for _, views in jobs)
    ahead = max(2 * cores if use_processes else threads, max_views // views_per_task)  # tasks
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
