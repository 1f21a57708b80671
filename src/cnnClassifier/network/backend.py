"""Keras's backend: the only module that knows whether TensorFlow, JAX or PyTorch runs."""

import atexit
import logging
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from cnnClassifier.entity.config_entity import DistributedConfig
from cnnClassifier.utils.errors import UserError
from cnnClassifier.utils.log import logger

if TYPE_CHECKING:
    import keras

# The backends that train, each with the name of its package.
BACKENDS = ("tensorflow", "jax", "torch")
_OPTIONAL_PACKAGES = ("IPython", "matplotlib", "pandas", "sklearn")
# Runs in a process of its own, until the one that started it has ended in whatever way.
_WATCHER = "import sys; sys.stdin.read() or print(sys.argv[1], file=sys.stderr)"
_SHUTDOWN_TIMEOUT_S = 30
Result = TypeVar("Result")


class Share(NamedTuple):
    """The part of this process in a training of several.

    Attributes:
        process: index of this process.
        processes: number of processes.
        devices: number of devices of all processes.
    """

    process: int = 0
    processes: int = 1
    devices: int = 1


def start(distributed: DistributedConfig | None = None) -> None:
    """Import Keras and start its backend: that of KERAS_BACKEND, else the first one installed.

    Args:
        distributed: connect to the other processes, if there are several.

    Raises:
        UserError: the backend can't train, isn't installed, or can't train with several processes;
            or process 0 isn't reachable.
    """
    distributed = distributed or DistributedConfig()
    if "keras" not in sys.modules:
        installed = [backend for backend in BACKENDS if find_spec(backend)]
        requested = os.environ.get("KERAS_BACKEND") or next(iter(installed), BACKENDS[0])
        if requested in BACKENDS and requested not in installed:
            raise UserError(
                f"KERAS_BACKEND: {requested} isn't installed; run `make setup BACKEND={requested}`"
            )
        os.environ["KERAS_BACKEND"] = requested
        if distributed.processes > 1 and requested == "jax":
            _connect(distributed)
        with _messages_to_log(requested):
            _start_devices(requested)
    if name() not in BACKENDS:
        raise UserError(
            f"KERAS_BACKEND: {name()} can't train; expected one of {', '.join(BACKENDS)}"
        )
    if distributed.processes > 1 and share().processes == 1:
        raise UserError(
            f"distributed.processes: {distributed.processes} processes train on JAX alone, found "
            f"{name()}; set KERAS_BACKEND=jax"
        )


def start_on_worker(requested: str) -> None:
    """Start a backend in a process that may have done other work before.

    Raises:
        UserError: another backend runs here, or this one isn't installed.
    """
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = requested
        threads = os.environ.get("OMP_NUM_THREADS", "1")  # a worker's share of the cores
        os.environ.setdefault("TF_NUM_INTRAOP_THREADS", threads)
        os.environ.setdefault("TF_NUM_INTEROP_THREADS", threads)
    start()
    if name() != requested:
        raise UserError(
            f"KERAS_BACKEND: a worker runs {name()}, but {requested} is needed; restart the workers"
        )
    make_deterministic(seed=0)


def name() -> str:
    """Return the name of the backend, which is that of its package."""
    import keras

    return str(keras.config.backend())


def _start_devices(backend: str) -> None:
    if backend == "tensorflow":
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import tensorflow as tf

        tf.get_logger().setLevel(logging.ERROR)  # it warns of many models in one process
        tf.config.list_physical_devices()
        tf.cast(tf.constant([0], tf.float16), tf.float32)
    elif backend == "jax":
        # Read when the devices start. Otherwise the sums of some kernels vary from run to run.
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()
        import jax

        jax.devices()
    elif backend == "torch":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic products
    import keras  # noqa: F401


def _connect(config: DistributedConfig) -> None:
    """Connect to process 0, or as process 0 wait for the others."""
    where = f"process {config.process} of {config.processes}"
    logger.info("%s: connecting, at %s", where, config.coordinator)
    _report_abort(f"error: {where} has ended, or lost another one; start all again to continue")
    if config.process > 0:
        _wait_for_port(str(config.coordinator), config.connect_timeout_s)
    with _messages_to_log("jax"):
        import jax

        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        try:
            jax.distributed.initialize(
                config.coordinator,
                config.processes,
                config.process,
                initialization_timeout=config.connect_timeout_s,
                shutdown_timeout_seconds=_SHUTDOWN_TIMEOUT_S,
            )
        except RuntimeError as error:
            message = " ".join(str(error).split())
            raise UserError(f"distributed.coordinator: {config.coordinator}: {message}") from None
    logger.info("%s: connected", where)


def _report_abort(message: str) -> None:
    """Print a message if this process ends without Python: JAX aborts it if another one is lost."""
    command = [sys.executable, "-c", _WATCHER, message]
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    atexit.register(watcher.communicate, b"it has ended as it should")


def _wait_for_port(address: str, timeout_s: float) -> None:
    host, _, port = address.rpartition(":")
    end = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise UserError(
                    f"distributed.coordinator: process 0 can't be reached at {address} within "
                    f"{timeout_s} s: {error}; start it with distributed.process 0"
                ) from None
            time.sleep(0.5)


@contextmanager
def _messages_to_log(package: str) -> Iterator[None]:
    """Send what C++ code writes to stderr to the log file."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as output:
        os.dup2(output.fileno(), 2)  # C++ writes to the file descriptor, not to sys.stderr
        try:
            yield
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            output.seek(0)
            for line in output.read().decode(errors="replace").splitlines():
                logger.debug("%s: %s", package, line)


def make_deterministic(seed: int) -> None:
    """Seed Python, NumPy and the backend, and use deterministic kernels."""
    import keras

    keras.utils.set_random_seed(seed)
    if name() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    elif name() == "torch":
        import torch

        # Trained blocks of a backbone have kernels on a GPU without a deterministic version.
        torch.use_deterministic_algorithms(True, warn_only=True)


def has_gpu() -> bool:
    """Return whether the backend has a GPU or another accelerator."""
    if name() == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    if name() == "jax":
        import jax

        return bool(jax.default_backend() != "cpu")
    import torch

    return bool(torch.accelerator.is_available())


def share() -> Share:
    """Return which part of the training is this process's."""
    if name() != "jax":
        return Share()
    import jax

    if jax.process_count() == 1:  # which uses its first device alone
        return Share()
    return Share(jax.process_index(), jax.process_count(), jax.device_count())


def broadcast(content: bytes = b"") -> bytes:
    """Return the content that process 0 passes. All processes call it, and wait for each other."""
    if share().processes == 1:
        return content
    from jax.experimental.multihost_utils import broadcast_one_to_all

    size = int(broadcast_one_to_all(np.array(len(content))))
    if size == 0:
        return b""
    is_first = share().process == 0
    values = np.frombuffer(content, np.uint8) if is_first else np.zeros(size, np.uint8)
    return bytes(np.asarray(broadcast_one_to_all(values)))


def data_parallel() -> AbstractContextManager[Any]:
    """Divide the batches of the block's `fit` among all devices of all processes."""
    import keras

    if share().processes == 1:
        return nullcontext()
    devices = keras.distribution.list_devices()
    parallel = keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False)
    scope: AbstractContextManager[Any] = parallel.scope()
    return scope


def replica(model: "keras.Model", batch_sizes: Mapping[int, int]) -> "keras.Model":
    """Return what `fit` trains inside of `data_parallel`; with a single process the model itself.

    A replica has variables of its own, which are the same in all processes: those of process 0.

    Args:
        model: of this process alone.
        batch_sizes: number of rows of each batch by the number with padding; the padding is cut
            off, so that losses and batch statistics are those of one process.
    """
    if share().processes == 1:
        return model
    import keras
    from jax.experimental.multihost_utils import broadcast_one_to_all

    class Replica(keras.Model):
        def train_step(self, state: Any, data: Any) -> Any:
            count = batch_sizes[data[0].shape[0]]
            return super().train_step(state, tuple(part[:count] for part in data))

    cloned = keras.models.clone_model(model)
    copied = Replica(cloned.input, cloned.output)
    values = broadcast_one_to_all([variable.numpy() for variable in model.variables])
    for variable, value in zip(copied.variables, values, strict=True):
        variable.assign(value)
    return copied


def use_openvino() -> None:
    """Import Keras on OpenVINO, unless it is imported already, and without its plots.

    The environment stays as it was: a server starts the pipeline on another backend.
    """
    disable_telemetry()
    if "keras" in sys.modules:
        return
    requested = os.environ.get("KERAS_BACKEND")
    os.environ["KERAS_BACKEND"] = "openvino"
    finder = _OptionalPackages()
    sys.meta_path.insert(0, finder)
    try:
        import keras  # noqa: F401
    finally:
        sys.meta_path.remove(finder)
        del os.environ["KERAS_BACKEND"]
        if requested is not None:
            os.environ["KERAS_BACKEND"] = requested


class _OptionalPackages(MetaPathFinder):
    """Hides what Keras imports only where it is installed, from the thread that makes this.

    An import of Keras takes half the time then, and 100 MB less. Without these packages Keras draws
    no plots, takes no data frames and has no wrappers for scikit-learn.
    """

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if threading.get_ident() == self._thread and fullname in _OPTIONAL_PACKAGES:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def run_on_openvino(function: Callable[..., Result], *args: Any) -> Result:
    """Call a function of a module in a new process with Keras on OpenVINO.

    Keras converts models to OpenVINO on that backend and on TensorFlow alone.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=use_openvino) as pool:
        return pool.submit(function, *args).result()


def disable_telemetry() -> None:
    """Keep OpenVINO's tools from sending usage data; call it before they are imported."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
