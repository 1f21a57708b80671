"""Complete runs of the local database on the server: each is one run there, however often."""

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import Timeout

from cnnClassifier.entity.config_entity import TrackingConfig
from cnnClassifier.tracking import registry, store
from cnnClassifier.tracking.connection import (
    TrackingError,
    check_reachable,
    is_remote,
    run_location,
)
from cnnClassifier.tracking.store import LOCAL_RUN_ID, PARENT_RUN_ID, SYNCED, Store, connect
from cnnClassifier.utils.common import format_size
from cnnClassifier.utils.log import logger

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Metric, Run

_EPOCH_TIMEOUT_S, _UPLOAD_TIMEOUT_S = 3, 60
_PROBE_INTERVAL_S = 4  # a server that stops answering costs this and one probe


def sync(config: TrackingConfig, on_sent: Callable[[str], None]) -> int:
    """Complete all runs on the server that it hasn't got whole.

    Args:
        config: database and server.
        on_sent: called with one line for each run.

    Returns:
        The number of runs that were sent.

    Raises:
        TrackingError: no server is configured, or it can't be reached or refuses.
    """
    if not is_remote(config.uri):
        raise TrackingError(
            f"{config.uri} is no server; set MLFLOW_TRACKING_URI, or evaluation.mlflow_uri in "
            "config.yaml"
        )
    database = store.local_database(config)
    with connect(config) as server:
        if database is None or not database.is_file():
            return 0
        with store.open_local(config) as local:
            runs = local.search(f"tags.{SYNCED} = 'False'", "ASC")
        count = 0
        for run in runs:
            try:
                with store.run_lock(config, run.info.run_id):
                    location = complete_run(local, server, run.info.run_id, config)
            except Timeout:
                location = "still running; its own process sends it"
            else:
                count += 1
            on_sent(f"{run.info.run_name}: {location}")
    return count


def complete_run(local: Store, server: Store, run_id: str, config: TrackingConfig) -> str:
    """Bring the server's copy of a local run up to date, with its child runs.

    Args:
        local: the local database.
        server: the server's store.
        run_id: id in the local database.
        config: names the registered model.

    Returns:
        The address of the run on the server.
    """
    from mlflow.utils.file_utils import local_file_uri_to_path

    run = local.client.get_run(run_id)
    copy = server.find({LOCAL_RUN_ID: run_id}) or _create(server, run)
    copy_id: str = copy.info.run_id
    _copy_data(local, server, run, copy)
    copies = {child.data.tags.get(LOCAL_RUN_ID): child for child in server.children(copy_id)}
    for child in local.children(run_id):
        child_copy = copies.get(child.info.run_id) or _create(server, child, copy_id)
        # A copy gets its status last: one with the same status is complete.
        if child_copy.info.status != child.info.status:
            _copy_data(local, server, child, child_copy)
            _set_status(server, child, child_copy)
    artifact_dir = Path(local_file_uri_to_path(run.info.artifact_uri))
    if artifact_dir.is_dir():
        total = sum(path.stat().st_size for path in artifact_dir.rglob("*"))
        logger.info("MLflow: sending %s to %s", format_size(total), run_location(config.uri))
        server.client.log_artifacts(copy_id, str(artifact_dir))
    if (artifact_dir / store.MODEL_DIR).is_dir():
        registry.log_model(server, copy_id, artifact_dir / store.MODEL_DIR)
        if run.data.tags.get("state") == store.EVALUATED:
            registry.register_candidate(server, copy_id, config.registered_model)
    _set_status(server, run, copy)
    local.client.set_tag(run_id, SYNCED, "True")
    return run_location(server.uri, server.experiment_id, copy_id)


class ServerThread:
    """Send metrics to the server as they come, until it fails; complete the run in the end.

    Args:
        config: the server.
        local: the local database.
        run_id: of the run in the local database.
    """

    def __init__(self, config: TrackingConfig, local: Store, run_id: str) -> None:
        self._config = config
        self._local = local
        self._run_id = run_id
        self._queue: queue.Queue[tuple[str, list[Metric]] | None] = queue.Queue()
        self._location = ""
        self._error: TrackingError | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow-server", daemon=True)
        self._thread.start()

    def send(self, run_id: str, metrics: "list[Metric]") -> None:
        """Send metrics of the run or of a child run."""
        self._queue.put((run_id, metrics))

    def finish(self) -> str:
        """Complete the run on the server, which may take as long as the server answers.

        Returns:
            The address of the run on the server.

        Raises:
            TrackingError: the server can't be reached, refuses, or stops answering.
        """
        self._ended.set()
        self._queue.put(None)
        self._thread.join(_PROBE_INTERVAL_S)
        while self._thread.is_alive():
            check_reachable(self._config.uri)
            logger.info("MLflow: still sending to %s", run_location(self._config.uri))
            self._thread.join(_PROBE_INTERVAL_S)
        if self._error:
            raise self._error
        return self._location

    def _work(self) -> None:
        try:
            with connect(self._config, _EPOCH_TIMEOUT_S, retries=0) as server:
                self._send_metrics(server)
        except TrackingError as error:
            logger.debug("MLflow: %s; the rest is sent at the end", error)
            self._ended.wait()
        try:
            with connect(self._config, _UPLOAD_TIMEOUT_S, retries=0) as server:
                self._location = complete_run(self._local, server, self._run_id, self._config)
        except TrackingError as error:
            self._error = error

    def _send_metrics(self, server: Store) -> None:
        run = self._local.client.get_run(self._run_id)
        copy = server.find({LOCAL_RUN_ID: self._run_id}) or _create(server, run)
        server.client.update_run(copy.info.run_id, "RUNNING")
        interrupted = f"tags.{SYNCED} = 'False' and attributes.status = 'KILLED'"
        for killed in self._local.search(interrupted):
            killed_copy = server.find({LOCAL_RUN_ID: killed.info.run_id})
            if killed_copy and killed_copy.info.status == "RUNNING":
                _set_status(server, killed, killed_copy)
        copies = {self._run_id: copy.info.run_id}
        while (item := self._queue.get()) and not self._ended.is_set():  # else with the rest
            run_id, metrics = item
            if run_id not in copies:
                child = self._local.client.get_run(run_id)
                copies[run_id] = _create(server, child, copy.info.run_id).info.run_id
            server.client.log_batch(copies[run_id], metrics)


def _create(server: Store, run: "Run", parent_id: str | None = None) -> "Run":
    """Create the copy of a run; its tag is how it is found again."""
    tags = {LOCAL_RUN_ID: run.info.run_id}
    if parent_id:
        tags[PARENT_RUN_ID] = parent_id
    return server.client.create_run(
        server.experiment_id, run.info.start_time, tags, run.info.run_name
    )


def _copy_data(local: Store, server: Store, run: "Run", copy: "Run") -> None:
    """Copy the tags, and the parameters, metrics and data sets that the copy lacks."""
    from mlflow.entities import Metric, Param, RunTag

    tags = {**run.data.tags, LOCAL_RUN_ID: run.info.run_id}
    for name in (SYNCED, PARENT_RUN_ID):
        tags.pop(name, None)
    missing = run.data.params.keys() - copy.data.params.keys()
    metrics = []
    for name in run.data.metrics:
        known = set()
        if name in copy.data.metrics:
            history = server.client.get_metric_history(copy.info.run_id, name)
            known = {(point.step, point.timestamp) for point in history}
        for point in local.client.get_metric_history(run.info.run_id, name):
            if (point.step, point.timestamp) not in known:
                metrics.append(Metric(name, point.value, point.timestamp, point.step))
    server.client.log_batch(
        copy.info.run_id,
        metrics,
        [Param(name, run.data.params[name]) for name in missing],
        [RunTag(name, value) for name, value in tags.items()],
    )
    digests = [item.dataset.digest for item in _dataset_inputs(copy)]
    inputs = [item for item in _dataset_inputs(run) if item.dataset.digest not in digests]
    if inputs:
        with store.skip_unsupported("data sets of runs"):
            server.client.log_inputs(copy.info.run_id, inputs)


def _dataset_inputs(run: "Run") -> "list[DatasetInput]":
    return run.inputs.dataset_inputs if run.inputs else []


def _set_status(server: Store, run: "Run", copy: "Run") -> None:
    if run.info.status != "RUNNING":
        server.client.set_terminated(copy.info.run_id, run.info.status, run.info.end_time)
