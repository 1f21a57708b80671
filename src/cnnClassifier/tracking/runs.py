"""Log a run to the local MLflow database and, where a server is configured, to it as well."""

import functools
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from filelock import Timeout

from cnnClassifier.entity.config_entity import TrackingConfig
from cnnClassifier.entity.disclaimers import is_synthetic
from cnnClassifier.entity.manifest import Manifest
from cnnClassifier.tracking import registry, store
from cnnClassifier.tracking.connection import TrackingError, error_message, is_remote, run_location
from cnnClassifier.tracking.sync import ServerThread
from cnnClassifier.utils.common import sha256_of
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.redaction import redact_credentials

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

P = ParamSpec("P")
_Point = tuple[str, float, int]  # name, value and step of a metric
_SAMPLING_INTERVAL_S = 5  # of processor, memory, disk, network and GPU
_MAX_LENGTH = 5000  # of a tag or parameter: MLflow refuses longer ones


def _in_background(
    method: Callable[Concatenate["Run", P], None],
) -> Callable[Concatenate["Run", P], None]:
    """Make a method of `Run` return at once; the thread of the writer calls it later."""

    @functools.wraps(method)
    def submit(run: "Run", *args: P.args, **kwargs: P.kwargs) -> None:
        if run.writer is not None:
            run.writer.submit(functools.partial(method, run, *args, **kwargs))

    return submit


class Run:
    """One MLflow run. Its methods return at once; a thread calls them, in their order.

    Args:
        writer: logs all runs of this process; None: nothing is logged.

    Attributes:
        id: MLflow's id, once the thread has opened the run.
    """

    def __init__(self, writer: "_Writer | None" = None) -> None:
        self.id = ""
        self.writer: Any = writer  # None: no method of this class is called
        self._logged: set[str] = set()  # names of parameters and metrics

    def child_run(self, name: str) -> "Run":
        """Begin a run below this one, such as a fold or a trial; `finish` ends it."""
        child = Run(self.writer)
        child._open_child(name, self)
        return child

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log metrics of a step, such as an epoch."""
        points = [(name, float(value), step) for name, value in metrics.items()]
        self._log_points(points, _now_ms())

    @_in_background
    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters; one that the run has stays, because MLflow refuses another value."""
        from mlflow.entities import Param

        values = [
            Param(name, str(value)[:_MAX_LENGTH])
            for name, value in params.items()
            if name not in self._logged
        ]
        self.writer.store.client.log_batch(self.id, params=values)

    @_in_background
    def log_history(self, history: Mapping[str, Sequence[float]]) -> None:
        """Log the value of each epoch, of the metrics that the run doesn't have yet."""
        for name in history.keys() - self._logged:
            points = [(name, value, epoch) for epoch, value in enumerate(history[name], 1)]
            self._write_metrics(points, _now_ms())

    @_in_background
    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        self._write_tags(tags)

    @_in_background
    def log_artifacts(self, paths: Sequence[Path], folder: str) -> None:
        """Copy files into a folder of the run's artifacts."""
        for path in paths:
            self.writer.store.client.log_artifact(self.id, str(path), folder)

    @_in_background
    def log_datasets(self, manifest: Manifest, source: str, splits: Sequence[str]) -> None:
        """Log splits as inputs of the run, each with its digest and counts; empty ones are skipped.

        Args:
            manifest: all images.
            source: where the data came from.
            splits: of `train`, `validation`, `test`.
        """
        inputs = [_dataset_input(manifest, split, redact_credentials(source)) for split in splits]
        self.writer.store.client.log_inputs(self.id, [dataset for dataset in inputs if dataset])

    @_in_background
    def log_model(self, bundle_dir: Path) -> None:
        """Log a bundle as the run's model: as files, and as a logged model."""
        from cnnClassifier.tracking.logged_model import build

        with tempfile.TemporaryDirectory() as temp_dir:
            disclaimer = self.writer.config.project.disclaimer
            model_dir = build(bundle_dir, Path(temp_dir) / store.MODEL_DIR, disclaimer)
            self.writer.store.client.log_artifacts(self.id, str(model_dir), store.MODEL_DIR)
            registry.log_model(self.writer.store, self.id, model_dir)

    @_in_background
    def register_candidate(self) -> None:
        """Register the run's model, and move the alias `candidate` to it."""
        name = self.writer.config.registered_model
        registry.register_candidate(self.writer.store, self.id, name)

    @_in_background
    def finish(self, status: str = "FINISHED") -> None:
        """End a child run."""
        self.writer.store.client.set_terminated(self.id, status)
        self.writer.unfinished.discard(self.id)

    @_in_background
    def _open(
        self, name: str, tags: Mapping[str, str], resume_tags: Mapping[str, str] | None
    ) -> None:
        self.id = self.writer.open(name, resume_tags)
        data = self.writer.store.client.get_run(self.id).data
        self._logged.update(data.params, data.metrics)
        self._write_tags({**tags, **_workspace_tags()})

    @_in_background
    def _open_child(self, name: str, parent: "Run") -> None:
        experiment_id = self.writer.store.experiment_id
        tags = {store.PARENT_RUN_ID: parent.id}
        self.id = self.writer.store.client.create_run(
            experiment_id, tags=tags, run_name=name
        ).info.run_id
        self.writer.unfinished.add(self.id)

    @_in_background
    def _log_points(self, points: Sequence[_Point], timestamp: int) -> None:
        self._write_metrics(points, timestamp)

    def _write_metrics(self, points: Sequence[_Point], timestamp: int) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(name, value, timestamp, step) for name, value, step in points]
        self._logged.update(metric.key for metric in metrics)
        self.writer.log_metrics(self.id, metrics)

    def _write_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        values = [RunTag(name, value[:_MAX_LENGTH]) for name, value in tags.items()]
        self.writer.store.client.log_batch(self.id, tags=values)


@contextmanager
def start_run(
    config: TrackingConfig | None,
    name: str,
    tags: Mapping[str, str],
    resume_tags: Mapping[str, str] | None = None,
) -> Iterator[Run]:
    """Log the block as one run; at its end the run is completed on the server, if there is one.

    Neither an unreachable server nor an error of MLflow stops the block.

    Args:
        config: database and server; None: nothing is logged.
        name: of the run.
        tags: of the run.
        resume_tags: continue the newest run that has these tags, if there is one.
    """
    if config is None:
        yield Run()
        return
    writer = _Writer(config)
    run = Run(writer)
    run._open(name, tags, resume_tags)
    run.log_params(config.params)
    try:
        yield run
    except BaseException:
        writer.close(run, "FAILED")
        raise
    writer.close(run, "FINISHED")


def data_tags(manifest_path: Path, source: str) -> dict[str, str]:
    """Return the tags that identify the data of a run, and whether it is synthetic."""
    return {"manifest_sha256": sha256_of(manifest_path), "synthetic": str(is_synthetic(source))}


class _Writer:
    """The thread that logs the runs of one process; its first error ends the logging.

    Attributes:
        store: the local database.
        unfinished: ids of the child runs that haven't ended.
    """

    store: store.Store

    def __init__(self, config: TrackingConfig) -> None:
        self.config = config
        self.unfinished: set[str] = set()
        # One thread keeps the order. MLflow is imported in it, which takes seconds.
        self._executor = ThreadPoolExecutor(1, "mlflow")
        self._error: Exception | None = None
        self._operations: list[Any] = []
        self._server: ServerThread | None = None
        self._lock = ExitStack()

    def submit(self, action: Callable[[], None]) -> None:
        """Call `action` in the thread, after all that were submitted before."""
        self._executor.submit(self._call, action)

    def open(self, name: str, resume_tags: Mapping[str, str] | None) -> str:
        """Open the database, continue or create the run, and return its id."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        with store.open_local(self.config) as self.store:
            client = self.store.client
            run = self.store.find(resume_tags) if resume_tags else None
            if run is None:
                run = client.create_run(self.store.experiment_id, run_name=name)
            run_id: str = run.info.run_id
            client.update_run(run_id, "RUNNING", name)
            with suppress(Timeout):  # another process logs to this run as well
                self._lock.enter_context(store.run_lock(self.config, run_id))
        self._monitor = SystemMetricsMonitor(
            run_id, _SAMPLING_INTERVAL_S, resume_logging=True, tracking_uri=self.store.uri
        )
        self._monitor.start()
        if is_remote(self.config.uri):
            client.set_tag(run_id, store.SYNCED, "False")
            self._server = ServerThread(self.config, self.store, run_id)
        return run_id

    def log_metrics(self, run_id: str, metrics: list[Any]) -> None:
        """Log metrics to the database, and send them to the server."""
        if operation := self.store.client.log_batch(run_id, metrics, synchronous=False):
            self._operations.append(operation)
        if self._server and metrics:
            self._server.send(run_id, metrics)

    def close(self, run: Run, status: str) -> None:
        """End the run, wait until all is logged, and complete the run on the server."""
        self.submit(lambda: self._finish(run.id, status))
        self._executor.shutdown()
        local_uri = redact_credentials(store.local_uri(self.config))
        if self._error:  # the lock file stays, so that the next command marks the run KILLED
            logger.error(
                "NOT LOGGED TO MLFLOW: %s: %s. The results are safe; "
                "to log them later: python main.py --only evaluation",
                *(local_uri, error_message(self._error)),
            )
            logger.debug("MLflow", exc_info=self._error)
            return
        location = run_location(local_uri)
        try:
            location = self._server.finish() if self._server else location
        except TrackingError as error:
            logger.error(
                "NOT LOGGED TO MLFLOW'S SERVER: %s. Nothing is lost: the run is in %s; "
                "`python main.py sync` sends it later",
                *(error, local_uri),
            )
        self._lock.close()
        logger.info("MLflow run %s; to see it: %s", run.id, location)

    def _call(self, action: Callable[[], None]) -> None:
        if self._error:
            return
        try:
            action()
        except Exception as error:  # MLflow lets through what SQLAlchemy and its stores raise
            self._error = error

    def _finish(self, run_id: str, status: str) -> None:
        for operation in self._operations:
            operation.wait()
        self._monitor.finish()
        for child_id in self.unfinished:
            self.store.client.set_terminated(child_id, "KILLED")
        self.store.client.set_terminated(run_id, status)


def _now_ms() -> int:
    return int(time.time() * 1000)


def _dataset_input(manifest: Manifest, split: str, source: str) -> "DatasetInput | None":
    """Return a split as MLflow describes a data set, None if it is empty."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    entries = [entry for entry in manifest.entries if entry.split == split]
    if not entries:
        return None
    content = "".join(f"{entry.sha256}{entry.label}" for entry in entries)
    profile = {
        "images": len(entries),
        "groups": len({entry.group for entry in entries}),
        "classes": Counter(sorted(entry.label for entry in entries)),
    }
    kind, key = ("http", "url") if source.startswith("http") else ("local", "uri")
    dataset = Dataset(
        name=f"{split} of {source}"[:200],
        digest=sha256(content.encode()).hexdigest()[:32],
        source_type=kind,
        source=json.dumps({key: source}),
        profile=json.dumps(profile),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", split)])


def _workspace_tags() -> dict[str, str]:
    """Return the tags of the code and data that a run is made from: git, dvc.lock, experiment."""
    tags = {}
    with suppress(Exception):  # no git, no repository, or no commit yet
        import git

        repository = git.Repo(search_parent_directories=True)
        tags["mlflow.source.git.commit"] = repository.head.commit.hexsha
        tags["git_dirty"] = str(repository.is_dirty(untracked_files=True))
    if Path("dvc.lock").is_file():
        tags["dvc_lock_sha256"] = sha256_of(Path("dvc.lock"))
    if experiment := os.environ.get("DVC_EXP_NAME"):
        tags["dvc_experiment"] = experiment
    return tags
