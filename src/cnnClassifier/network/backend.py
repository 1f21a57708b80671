"""Keras's backend: the only module that knows whether TensorFlow, JAX or PyTorch runs."""

import logging
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, TypeVar

from cnnClassifier.utils.errors import UserError
from cnnClassifier.utils.log import logger

# The backends that train, each with the name of its package.
BACKENDS = ("tensorflow", "jax", "torch")
Result = TypeVar("Result")


def start() -> None:
    """Import Keras and start its backend: that of KERAS_BACKEND, else the first one installed.

    Raises:
        UserError: the backend can't train, or isn't installed.
    """
    if "keras" not in sys.modules:
        installed = [backend for backend in BACKENDS if find_spec(backend)]
        requested = os.environ.get("KERAS_BACKEND") or next(iter(installed), BACKENDS[0])
        if requested in BACKENDS and requested not in installed:
            raise UserError(
                f"KERAS_BACKEND: {requested} isn't installed; run `make setup BACKEND={requested}`"
            )
        os.environ["KERAS_BACKEND"] = requested
        with _messages_to_log(requested):
            _start_devices(requested)
    if name() not in BACKENDS:
        raise UserError(
            f"KERAS_BACKEND: {name()} can't train; expected one of {', '.join(BACKENDS)}"
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


def use_openvino() -> None:
    """Import Keras on OpenVINO, unless it is imported already.

    The environment stays as it was: a server starts the pipeline on another backend.
    """
    disable_telemetry()
    if "keras" in sys.modules:
        return
    requested = os.environ.get("KERAS_BACKEND")
    os.environ["KERAS_BACKEND"] = "openvino"
    try:
        import keras  # noqa: F401
    finally:
        del os.environ["KERAS_BACKEND"]
        if requested is not None:
            os.environ["KERAS_BACKEND"] = requested


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
