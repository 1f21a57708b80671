"""One MLflow server or local store: write runs to it, with what it has of datasets, logged models and a registry."""

import json
import logging
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.tracking.connection import in_one_line, lacks, ui_location
from cnnClassifier.utils.common import sha256_of

Event = dict[str, Any]
MODEL_FOLDER = "model"
CANDIDATE = "candidate"
SENT_AS = "sent_as"  # a tag in the local store: the run's id on the server
_MOST = 900  # servers take at most 1000 metrics a request, and 100 params or tags


class Store:
    """Write the runs of one process.

    Args:
        uri: of the server or store.
        experiment: made where it doesn't exist.
        tags: of every run that is begun.
        note: is told, in a line, what the server lacks.

    Attributes:
        run_ids: MLflow's id by the number of the run.
    """

    def __init__(
        self, uri: str, experiment: str, tags: Mapping[str, str], note: Callable[[str], None]
    ) -> None:
        for chatty in ("mlflow", "alembic"):  # after the import, which sets MLflow's own level
            logging.getLogger(chatty).setLevel(logging.WARNING)
        self.client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        self.run_ids: dict[int, str] = {}
        self._uri = uri
        self._tags = {key: value for key, value in tags.items() if value}
        self._note = note
        self._finished: set[int] = set()
        self._known_params: dict[int, set[str]] = {}
        self._known_series: dict[int, set[str]] = {}
        self._system_step = 0
        self._model_id: dict[int, str] = {}
        found = self.client.get_experiment_by_name(experiment)
        self.experiment_id = (
            found.experiment_id if found else self.client.create_experiment(experiment)
        )

    def write(self, events: list[Event]) -> None:
        """Write events in order; figures of one run that follow each other go in one request."""
        series: list[list[Any]] = []
        for place, event in enumerate(events):
            number, what = event["run"], event["what"]
            if what == "metrics":
                series += event["values"]
                self._known_series[number] |= {row[0] for row in event["values"]}
                following = events[place + 1] if place + 1 < len(events) else {}
                if (following.get("what"), following.get("run")) != ("metrics", number):
                    self._metrics(number, series)
                    series = []
            elif what == "tags":
                self._set_tags(number, event["values"])
            else:
                getattr(self, f"_{what}")(number, event)

    def ui_location(self, number: int) -> str:
        """Return the address of a run, or the command that shows it."""
        return ui_location(self._uri, self.experiment_id, self.run_ids[number])

    def find(self, tags: Mapping[str, str]) -> Run | None:
        """Return the latest run of the experiment that has all these tags."""
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = self.client.search_runs(
            [self.experiment_id], wanted, order_by=["attributes.start_time DESC"]
        )
        return found[0] if found else None

    def delete(self, run_id: str) -> None:
        """Delete a run and those under it, if it is there."""
        for run in self.client.search_runs(
            [self.experiment_id], f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run_id}'"
        ):
            self.client.delete_run(run.info.run_id)
        with suppress(MlflowException):
            self.client.delete_run(run_id)

    def _open(self, number: int, event: Event) -> None:
        code = local_tags(Path(event["workspace"])) if "workspace" in event else {}
        tags = {**event["tags"], **self._tags, **code, MLFLOW_RUN_NAME: event["name"]}
        if "parent" in event:
            tags[MLFLOW_PARENT_RUN_ID] = self.run_ids[event["parent"]]
        run = self.find(event["resume"]) if event.get("resume") else None
        if run:
            self.client.update_run(run.info.run_id, status="RUNNING")
            self._system_step = 1 + max(
                (m.step for m in run.data._metric_objs if m.key.startswith("system/")), default=-1
            )
        else:
            run = self.client.create_run(
                self.experiment_id, event.get("started"), run_name=event["name"]
            )
        self.run_ids[number] = run.info.run_id
        self._known_params[number] = set(run.data.params)
        self._known_series[number] = set(run.data.metrics)
        self._set_tags(number, tags)

    def _params(self, number: int, event: Event) -> None:
        # One that the run has already stays: MLflow would refuse another value.
        fresh = {
            key: value
            for key, value in event["values"].items()
            if key not in self._known_params[number]
        }
        self._known_params[number] |= set(fresh)
        params = [Param(key, value[:6000]) for key, value in fresh.items()]
        for start in range(0, len(params), 100):
            self.client.log_batch(self.run_ids[number], params=params[start : start + 100])

    def _set_tags(self, number: int, values: Mapping[str, str]) -> None:
        tags = [RunTag(key, value[:5000]) for key, value in values.items()]
        for start in range(0, len(tags), 100):
            self.client.log_batch(self.run_ids[number], tags=tags[start : start + 100])

    def _metrics(self, number: int, rows: list[list[Any]]) -> None:
        points = [Metric(key, value, when, step) for key, value, when, step in rows]
        for start in range(0, len(points), _MOST):
            self.client.log_batch(self.run_ids[number], metrics=points[start : start + _MOST])

    def _history(self, number: int, event: Event) -> None:
        self._metrics(
            number, [row for row in event["values"] if row[0] not in self._known_series[number]]
        )

    def _system(self, number: int, event: Event) -> None:
        if number in self.run_ids and number not in self._finished:
            now = mlflow.utils.time.get_current_time_millis()
            self._metrics(
                number,
                [[key, value, now, self._system_step] for key, value in event["values"].items()],
            )
            self._system_step += 1

    def _files(self, number: int, event: Event) -> None:
        for path in event["paths"]:
            self.client.log_artifact(self.run_ids[number], path, event["folder"] or None)

    def _dataset(self, number: int, event: Event) -> None:
        values = event["values"]
        remote = values["source"].startswith("http")
        dataset = Dataset(
            name=f"{values['split']} of {values['source']}"[:200],
            digest=values["digest"],
            source_type="http" if remote else "local",
            source=json.dumps({"url" if remote else "uri": values["source"]}),
            profile=json.dumps(values["profile"]),
        )
        tagged = DatasetInput(dataset, [InputTag("mlflow.data.context", values["split"])])
        self._where_it_can(
            "datasets of runs", lambda: self.client.log_inputs(self.run_ids[number], [tagged])
        )

    def _model(self, number: int, event: Event) -> None:
        from cnnClassifier.tracking.logged_model import build

        with tempfile.TemporaryDirectory() as scratch:
            self.log_model(number, build(Path(event["bundle"]), Path(scratch) / MODEL_FOLDER))

    def log_model(self, number: int, folder: Path) -> None:
        """Upload an MLflow model's folder: the bundle to the run, all of it to a logged model where there are such."""
        run_id, bundle = (
            self.run_ids[number],
            [folder / name for name in ModelBundle.read(folder).parts],
        )
        for path in bundle:
            self.client.log_artifact(run_id, str(path), MODEL_FOLDER)
        self._where_it_can("logged models", lambda: self._log_model(number, folder))
        if number not in self._model_id:
            for path in sorted(folder.rglob("*")):
                if path.is_file() and path not in bundle:
                    within = path.relative_to(folder.parent).parent
                    self.client.log_artifact(run_id, str(path), within.as_posix())

    def _log_model(self, number: int, folder: Path) -> None:
        run_id = self.run_ids[number]
        tags = {"model_sha256": sha256_of(folder / "model.keras")}
        model = self.client.create_logged_model(
            self.experiment_id, MODEL_FOLDER, run_id, tags, model_type="classifier"
        )
        self.client.log_model_artifacts(model.model_id, str(folder))
        self.client.finalize_logged_model(model.model_id, "READY")
        self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
        self._model_id[number] = model.model_id

    def _register(self, number: int, event: Event) -> None:
        def register() -> None:
            version = self.add_version(
                event["name"], self.run_ids[number], event["tags"], self._model_id.get(number)
            )
            self.client.set_registered_model_alias(event["name"], CANDIDATE, version)

        self._where_it_can("registry of models", register)

    def add_version(
        self, name: str, run_id: str, tags: Mapping[str, str], model_id: str | None = None
    ) -> str:
        """Register a run's model, and return the version's number."""
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        mlflow.set_tracking_uri(
            self._uri
        )  # where MLflow looks for the logged model, whatever the client was told
        artifacts = self.client.get_run(run_id).info.artifact_uri
        source = f"models:/{model_id}" if model_id else f"{artifacts}/{MODEL_FOLDER}"
        version = self.client.create_model_version(
            name, source, run_id, tags=dict(tags), model_id=model_id
        )
        return str(version.version)

    def _finish(self, number: int, event: Event) -> None:
        if number in self.run_ids and number not in self._finished:
            self.client.set_terminated(self.run_ids[number], event["status"])
            self._finished.add(number)

    def _where_it_can(self, what: str, action: Callable[[], None]) -> None:
        try:
            action()
        except MlflowException as error:
            if not lacks(error):
                raise
            self._note(
                f"the server has no {what} ({in_one_line(error, 80)}); the run is complete without"
            )


@cache
def local_tags(folder: Path) -> dict[str, str]:
    """Return what tells what a run was made from: git commit, dirtiness, dvc.lock, DVC experiment."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *words], cwd=folder, capture_output=True, text=True, check=False, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    tags = {}
    if commit := git("rev-parse", "HEAD"):
        tags = {
            "mlflow.source.git.commit": commit,
            "git_dirty": str(bool(git("status", "--porcelain"))),
        }
    if (folder / "dvc.lock").is_file():
        tags["dvc_lock_sha256"] = sha256_of(folder / "dvc.lock")
    if experiment := os.environ.get("DVC_EXP_NAME"):
        tags["dvc_experiment"] = experiment
    return tags
