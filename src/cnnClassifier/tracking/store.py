"""Open an MLflow store: the local database, which holds every run, or the server."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from filelock import FileLock, Timeout

from cnnClassifier.entity.config_entity import TrackingConfig
from cnnClassifier.tracking import connection
from cnnClassifier.tracking.connection import TrackingError, is_remote, is_unsupported
from cnnClassifier.utils.common import project_dir
from cnnClassifier.utils.errors import UserError
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.redaction import redact_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.store.entities import PagedList

TRAINED, EVALUATED = "trained", "evaluated"  # values of the tag `state`
MODEL_DIR = "model"  # folder of a run's artifacts
LOCAL_RUN_ID = "local_run_id"  # tag of a run on the server: its id in the local database
SYNCED = "synced"  # tag of a run in the local database: whether the server has all of it
PARENT_RUN_ID = "mlflow.parentRunId"
_PAGE_SIZE = 1000
_SQLITE = "sqlite:///"
_BUSY_TIMEOUT_S = 60  # how long SQLite waits for another process's transaction


@dataclass(frozen=True)
class Store:
    """An experiment in an MLflow store.

    Attributes:
        client: MLflow's client; the fluent API has one global address, so it isn't used.
        uri: address of the store.
        experiment_id: id of the experiment.
    """

    client: "MlflowClient"
    uri: str
    experiment_id: str

    def search(self, filter_string: str, order: str = "DESC") -> "list[Run]":
        """Return all runs of the experiment that match MLflow's filter, newest first."""
        from mlflow.utils import get_results_from_paginated_fn

        def get_page(size: int, token: str | None) -> "PagedList[Run]":
            by_start = [f"attributes.start_time {order}"]
            return self.client.search_runs(
                [self.experiment_id], filter_string, 1, size, by_start, token
            )

        runs: list[Run] = get_results_from_paginated_fn(get_page, _PAGE_SIZE)
        return runs

    def find(self, tags: Mapping[str, str]) -> "Run | None":
        """Return the newest run that has all these tags."""
        conditions = [f"tags.`{name}` = '{value}'" for name, value in tags.items()]
        return next(iter(self.search(" and ".join(conditions))), None)

    def find_by_name(self, name: str) -> "Run | None":
        """Return the newest run with this name."""
        quoted = name.replace("'", "")
        return next(iter(self.search(f"attributes.run_name = '{quoted}'")), None)

    def children(self, run_id: str) -> "list[Run]":
        """Return the runs below a run, such as folds or trials."""
        return self.search(f"tags.`{PARENT_RUN_ID}` = '{run_id}'")

    def get_run(self, run_id: str) -> "Run | None":
        """Return a run by its id, or by the id that it has in the local database."""
        try:
            return self.client.get_run(run_id)
        except Exception as error:  # MLflow's own, and its stores'
            if not is_unsupported(error):
                raise
        return self.find({LOCAL_RUN_ID: run_id})


def local_uri(config: TrackingConfig) -> str:
    """Return the address of the local database: the configured one, if that is no server."""
    return connection.LOCAL_URI if is_remote(config.uri) else config.uri


def local_database(config: TrackingConfig) -> Path | None:
    """Return the path of the local database, None where it is no SQLite file."""
    uri = local_uri(config)
    if not uri.startswith(_SQLITE):
        return None
    # DVC runs experiments in copies of the project, which share the database.
    return (project_dir() / uri.removeprefix(_SQLITE)).absolute()


@contextmanager
def open_local(config: TrackingConfig) -> Iterator[Store]:
    """Open the local database, and mark interrupted runs.

    Other processes wait meanwhile: two can't create the tables at once.
    """
    path = local_database(config)
    if path is None:
        yield _open(local_uri(config), config.experiment)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    artifacts = path.parent / "mlruns" / quote(config.experiment, safe="")
    uri = f"{_SQLITE}{path.as_posix()}?timeout={_BUSY_TIMEOUT_S}"
    with FileLock(f"{path}.lock"):
        store = _open(uri, config.experiment, artifacts.as_uri())
        _mark_interrupted(store, path)
        yield store


@contextmanager
def connect(config: TrackingConfig, timeout_s: int = 60, retries: int = 2) -> Iterator[Store]:
    """Open the server, or the local database where none is configured.

    Args:
        config: where.
        timeout_s: for a connection, and for each part of a response.
        retries: after a failed request.

    Raises:
        TrackingError: in one line: the server can't be reached, refuses, or lacks a feature.
    """
    try:
        if not is_remote(config.uri):
            with open_local(config) as store:
                pass
            yield store
            return
        with connection.mlflow_environment(config.uri, timeout_s, retries):
            connection.check_reachable(config.uri)
            yield _open(config.uri, config.experiment)
    except UserError:
        raise
    except Exception as error:  # MLflow lets through what requests and SQLAlchemy raise
        address = redact_credentials(config.uri)
        if is_unsupported(error):
            address += " has no registry of models, or no such run or version"
        raise TrackingError(f"{address}: {connection.error_message(error)}") from None


@contextmanager
def run_lock(config: TrackingConfig, run_id: str) -> Iterator[None]:
    """Hold the lock of a run while this process writes it; a killed one leaves the file behind.

    Raises:
        Timeout: another process holds it.
    """
    database = local_database(config)
    if database is None:
        yield
        return
    path = Path(f"{database}.run-{run_id}.lock")
    with FileLock(path, timeout=0, thread_local=False):
        yield
    path.unlink(missing_ok=True)


@contextmanager
def skip_unsupported(feature: str) -> Iterator[None]:
    """Continue where a server lacks a feature."""
    try:
        yield
    except Exception as error:
        if not is_unsupported(error):
            raise
        reason = connection.error_message(error, 80)
        logger.info("MLflow: the server has no %s (%s); the run omits them", feature, reason)


def _open(uri: str, experiment: str, artifact_location: str | None = None) -> Store:
    """Open a store, and create the experiment where it doesn't exist."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read while MLflow is imported
    from mlflow import MlflowClient

    # After the import, which sets levels of its own. Errors are raised as well, and logged once.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    found = client.get_experiment_by_name(experiment)
    if found is not None:
        return Store(client, uri, found.experiment_id)
    return Store(client, uri, client.create_experiment(experiment, artifact_location))


def _mark_interrupted(store: Store, database: Path) -> None:
    """Mark the runs of killed processes: their lock file exists, but nobody holds it."""
    for path in database.parent.glob(f"{database.name}.run-*.lock"):
        run_id = path.name.removeprefix(f"{database.name}.run-").removesuffix(".lock")
        with suppress(Timeout), FileLock(path, timeout=0):
            for run in [store.get_run(run_id), *store.children(run_id)]:
                if run and run.info.status == "RUNNING":
                    store.client.set_terminated(run.info.run_id, "KILLED")
                    logger.info("MLflow run %s was interrupted: KILLED", run.info.run_id)
            path.unlink()
