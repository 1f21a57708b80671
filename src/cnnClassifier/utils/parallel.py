"""Run a function on batches of items: in threads of this process, or on a Dask cluster."""

import functools
import hashlib
import logging
import pickle
import platform
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from cnnClassifier.utils.common import project_dir
from cnnClassifier.utils.errors import UserError
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.memory import keep_freed_memory

if TYPE_CHECKING:
    from distributed import Client

_CONNECT_TIMEOUT_S = 30
_WORKER_TIMEOUT_S = 60  # a batch system starts workers one after the other
_BATCHES_AHEAD = 4  # per thread of a worker: what the client and the scheduler hold in memory
_PACKAGES = ("numpy", "pillow", "opencv-python-headless", "pydicom", "keras", "openvino")
Item = TypeVar("Item")
Result = TypeVar("Result")


class Environment(NamedTuple):
    """What a worker must share with this process.

    Attributes:
        shared_dir: a folder that this process made.
        code_sha256: of the package's source.
        versions: of the packages that decide on the bytes of the results.
    """

    shared_dir: Path
    code_sha256: str
    versions: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Workers:
    """Where batches run: threads of this process, or the workers of a Dask cluster.

    Attributes:
        client: of the cluster; None: threads.
        environment: of this process; None: threads.
    """

    client: "Client | None" = None
    environment: Environment | None = None

    def shared_path(self, name: str) -> Path | None:
        """Return the path of a temporary file that all workers can read; None: threads."""
        return self.environment.shared_dir / name if self.environment else None

    def map(
        self,
        function: Callable[[Sequence[Item]], Sequence[Result]],
        items: Sequence[Item],
        size: int = 16,
        threads: int | None = None,
    ) -> Iterator[Result]:
        """Yield the result for each item, in order.

        A bounded number of batches is in memory. The batches of a worker that is lost run again on
        another one. When the consumer stops, batches that haven't started are cancelled.

        Args:
            function: from a batch to a result for each of its items. A cluster gets it pickled,
                with each batch; what it reads needs absolute paths.
            items: all items.
            size: of a batch on a cluster; a thread takes one item at a time.
            threads: number of them in this process; None: as many as the cores keep busy.

        Raises:
            UserError: a worker raises it, or the cluster is lost.
        """
        if self.client is None:
            keep_freed_memory()
            # One thread more than cores: it works while another one waits for the disk.
            count = threads or _cores() + 1
            with ThreadPoolExecutor(count) as executor:
                yield from _in_order(
                    lambda batch: executor.submit(function, batch), items, 1, lambda: 2 * count
                )
        else:
            # As bytes, which the worker unpickles: the scheduler would load the network as well.
            task = (_run, self.environment, pickle.dumps(function))
            max_ahead = functools.partial(_max_ahead, self.client)
            with _cluster_errors(), self.client.get_executor(pure=False) as executor:
                yield from _in_order(
                    lambda batch: executor.submit(*task, pickle.dumps(batch)),
                    items,
                    size,
                    max_ahead,
                )


LOCAL = Workers()


@contextmanager
def connect(engine: str, scheduler: str | None, workers: int | None) -> Iterator[Workers]:
    """Yield the workers that the settings `parallel` describe.

    Args:
        engine: `local` (threads of this process) or `dask`.
        scheduler: address of Dask's scheduler; None: workers are started on this machine.
        workers: number of processes to start; None: one for each core.

    Raises:
        UserError: Dask isn't installed, nothing answers, or a worker has other code, packages or
            another folder.
    """
    if engine == "local":
        yield LOCAL
        return
    try:
        import distributed
    except ImportError:
        raise UserError(
            "parallel.engine: dask isn't installed; run `pip install -r requirements-scale.txt`, "
            "or set local in config.yaml"
        ) from None
    parent = project_dir().absolute() / ".cache"
    parent.mkdir(exist_ok=True)
    with ExitStack() as stack:
        shared_dir = Path(stack.enter_context(TemporaryDirectory(prefix="dask-", dir=parent)))
        if scheduler is None:
            cluster = distributed.LocalCluster(
                n_workers=workers or _cores(),
                threads_per_worker=1,
                memory_limit=None,
                dashboard_address="127.0.0.1:0",
                local_directory=str(shared_dir),
                silence_logs=logging.CRITICAL,
                security=True,  # else other users of this machine could run code as this one
            )
            address: Any = stack.enter_context(cluster)
        else:
            address = scheduler
        files = [each for each in logger.handlers if isinstance(each, logging.FileHandler)]
        logging.getLogger("distributed").handlers = [*files, logging.NullHandler()]
        try:
            client = stack.enter_context(distributed.Client(address, timeout=_CONNECT_TIMEOUT_S))
        except OSError:
            raise UserError(
                f"parallel.scheduler: {scheduler} doesn't answer; start `dask scheduler` there"
            ) from None
        environment = Environment(shared_dir, _code_sha256(), _versions())
        with _cluster_errors():
            _check_workers(client, environment)
        logger.info("dask: %d workers at %s", len(client.nthreads()), _address(client))
        yield Workers(client, environment)


def one_per_process(create: Callable[..., Result]) -> Callable[..., Result]:
    """Decorate a function that loads what many batches need, such as a network.

    The last result is kept. A worker's threads that ask meanwhile wait for it.
    """
    cached, lock = functools.lru_cache(1)(create), Lock()

    @functools.wraps(create)
    def get(*args: Any) -> Result:
        with lock:
            return cached(*args)

    return get


def _in_order(
    submit: Callable[[Sequence[Item]], Future[Sequence[Result]]],
    items: Sequence[Item],
    size: int,
    max_ahead: Callable[[], int],
) -> Iterator[Result]:
    waiting: deque[Future[Sequence[Result]]] = deque()
    try:
        for start in range(0, len(items), size):
            while len(waiting) > max_ahead():
                yield from _take_first(waiting, max_ahead)
            waiting.append(submit(items[start : start + size]))
        while waiting:
            yield from _take_first(waiting, max_ahead)
    finally:
        for future in waiting:
            future.cancel()


def _take_first(
    waiting: deque[Future[Sequence[Result]]], max_ahead: Callable[[], int]
) -> Sequence[Result]:
    """Return the results of the first batch, when they are there."""
    while not wait([waiting[0]], _WORKER_TIMEOUT_S).done:
        max_ahead()  # says where there is no worker
    return waiting.popleft().result()


def _cores() -> int:
    import joblib  # isn't installed where only the server runs

    return int(joblib.cpu_count())


def _max_ahead(client: "Client") -> int:
    """Return how many batches may wait; workers that join later are counted."""
    threads = sum(client.nthreads().values())
    if not threads:
        logger.warning("dask: no worker is left; waiting for one at %s", _address(client))
    return _BATCHES_AHEAD * threads


def _address(client: "Client") -> str:
    return client.scheduler_info(n_workers=0)["address"]


@contextmanager
def _cluster_errors() -> Iterator[None]:
    """Turn errors of the cluster into one line."""
    from distributed import KilledWorker
    from distributed.comm import CommClosedError

    try:
        yield
    except KilledWorker as error:
        raise UserError(
            f"dask: {error.allowed_failures + 1} workers ended during one batch, the last at "
            f"{error.last_worker.address}; was their memory too small? Their logs say more"
        ) from error
    except (CancelledError, CommClosedError) as error:
        raise UserError(f"dask: the scheduler is lost ({error}); run the command again") from error


def _check_workers(client: "Client", environment: Environment) -> None:
    """Check each worker that there is; `_run` checks those that join later."""

    def can_import() -> bool:  # it is sent as code: the other side may not have the package
        import importlib.util

        return importlib.util.find_spec("cnnClassifier") is not None

    try:
        client.wait_for_workers(1, timeout=_WORKER_TIMEOUT_S)
    except TimeoutError:
        raise UserError(
            f"dask: the scheduler has no worker; start `dask worker {_address(client)}`"
        ) from None
    found = {"the scheduler": client.run_on_scheduler(can_import), **client.run(can_import)}
    for name, has_package in found.items():
        if not has_package:
            raise UserError(
                f"dask: {name} can't import cnnClassifier; start it in the project's environment"
            )
    client.run(_check, environment)


def _run(environment: Environment, function: bytes, batch: bytes) -> Any:
    """Run a batch on a worker."""
    keep_freed_memory()
    _check(environment)
    return pickle.loads(function)(pickle.loads(batch))  # noqa: S301


def _check(environment: Environment) -> None:
    """Check that a worker sees the same files with the same code.

    Raises:
        UserError: it doesn't.
    """
    host = socket.gethostname()
    if not environment.shared_dir.is_dir():
        raise UserError(
            f"dask: the worker on {host} has no folder {environment.shared_dir}; project, data and "
            "cache must have the same path on all machines"
        )
    if _code_sha256() != environment.code_sha256:
        raise UserError(
            f"dask: the worker on {host} runs other code than this process; restart it, and "
            "install the project's folder there"
        )
    for (name, expected), (_, found) in zip(environment.versions, _versions(), strict=True):
        if found != expected:
            raise UserError(
                f"dask: the worker on {host} has {name} {found}, this process {expected}; install "
                "the same requirements"
            )


@functools.cache
def _code_sha256() -> str:
    """Hash the package's source, once: a process keeps the code that it has imported."""
    folder = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


@functools.cache
def _versions() -> tuple[tuple[str, str], ...]:
    found = [("Python", platform.python_version())]
    for name in _PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            found.append((name, "not installed"))
    return tuple(found)
