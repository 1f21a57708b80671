"""Log one run to an MLflow server, DagsHub's among them."""

import logging
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnClassifier.utils.errors import UserError


class TrackingError(UserError):
    """The tracking server doesn't answer, or refuses."""


@dataclass(frozen=True)
class RunContent:
    """What one run holds.

    Attributes:
        params: logged as they are, one value each.
        metrics: numbers.
        tags: texts.
        history: for each metric its value an epoch.
        files: artifacts by the folder that they go to; "" is the top.
    """

    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    history: Mapping[str, list[float]]
    files: Mapping[str, list[Path]]


def log_run(uri: str, experiment: str, name: str, content: RunContent) -> str:
    """Log a run; the model goes by `log_artifact`, which servers without a registry take as well.

    Args:
        uri: of the tracking server, or `sqlite:///mlflow.db`.
        experiment: made where it doesn't exist.
        name: of the run.
        content: what to log.

    Returns:
        The run's id.

    Raises:
        TrackingError: in one line, what the server answered.
    """
    # A server that is down shall cost seconds, not MLflow's default of many minutes; no usage data leaves the machine.
    for key, value in {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }.items():
        os.environ.setdefault(key, value)
    _use_dagshub_token(uri)
    import mlflow
    from mlflow.entities import Metric, Param, RunTag

    for chatty in ("mlflow", "alembic"):  # after the import, which sets MLflow's own level
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        client = mlflow.MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else client.create_experiment(experiment)
        run_id = client.create_run(experiment_id, run_name=name).info.run_id
        try:
            now = int(client.get_run(run_id).info.start_time)
            series = [
                Metric(key, value, now, step)
                for key, values in content.history.items()
                for step, value in enumerate(values, start=1)
            ]
            single = [Metric(key, value, now, 0) for key, value in content.metrics.items()]
            params = [Param(key, str(value)) for key, value in content.params.items()]
            tags = [RunTag(key, value) for key, value in {**content.tags, **_git_tags()}.items()]
            client.log_batch(run_id, metrics=single, params=params, tags=tags)
            for start in range(0, len(series), 900):  # servers take at most 1000 a request
                client.log_batch(run_id, metrics=series[start : start + 900])
            for folder, files in content.files.items():
                for file in files:
                    client.log_artifact(run_id, str(file), folder or None)
        except BaseException:
            client.set_terminated(run_id, "FAILED")
            raise
        client.set_terminated(run_id, "FINISHED")
    except Exception as error:  # MLflow lets through what requests, SQLAlchemy and its own stores raise
        said = without_password(" ".join(str(error).split()))[:300]
        # MLflow's own errors repeat the address, password and all: where there is one, no traceback goes to the log.
        cause = error if without_password(uri) == uri else None
        raise TrackingError(f"{without_password(uri)}: {said}") from cause
    return str(run_id)


def without_password(text: str) -> str:
    """Return a text without the users and passwords of the addresses in it."""
    return re.sub(r"(?<=://)[^/\s]*@", "", text)


def _use_dagshub_token(uri: str) -> None:
    """DagsHub's MLflow takes its token as user and password; the browser login of dagshub.init isn't needed."""
    token = os.environ.get("DAGSHUB_USER_TOKEN")
    if "dagshub.com" not in uri or os.environ.get("MLFLOW_TRACKING_PASSWORD") or without_password(uri) != uri:
        return
    if not token:
        raise TrackingError(
            f"{uri}: no credentials; set DAGSHUB_USER_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    os.environ["MLFLOW_TRACKING_USERNAME"] = token
    os.environ["MLFLOW_TRACKING_PASSWORD"] = token


def _git_tags() -> dict[str, str]:
    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], capture_output=True, text=True, check=False, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if not commit:
        return {}
    return {"mlflow.source.git.commit": commit, "git_dirty": str(bool(git("status", "--porcelain")))}
