"""Train in the background: one job at a time, started and followed under /train."""

import importlib.util
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, jsonify

from cnnClassifier.serving.auth import TOKENS_VARIABLE, require_train_permission
from cnnClassifier.serving.errors import RequestError
from cnnClassifier.utils.common import create_directories, load_json, save_json
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.redaction import redact_credentials

RUNNING, SUCCEEDED, FAILED = "running", "succeeded", "failed"
STOP_TIMEOUT_S = 1.0
_ID_PATTERN = r"\d{8}-\d{6}-[0-9a-f]{6}"
_MAX_LOG_LINES = 100
_MAX_LOG_BYTES = 65536
_SECRET_NAME = re.compile("TOKEN|PASSWORD|SECRET|CREDENTIAL|KEY", re.IGNORECASE)


@dataclass(frozen=True)
class Job:
    """One run of the pipeline; times in UTC, ISO 8601."""

    id: str
    state: str
    started: str
    finished: str | None = None
    exit_code: int | None = None


class TrainingJobs:
    """Start and follow runs of `dvc repro`.

    Args:
        root_dir: the folder with dvc.yaml.
        log_dir: for each job's output and state.
        command: what a job runs; None: `dvc repro`.
    """

    def __init__(
        self, root_dir: Path, log_dir: Path, command: tuple[str, ...] | None = None
    ) -> None:
        self._root_dir = root_dir
        self._log_dir = log_dir
        self._command = command
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._job: Job | None = None

    def start(self) -> Job:
        """Start a job.

        Raises:
            RequestError: 409: one is running; 501: this installation can't train.
        """
        with self._lock:
            if self._job and self._job.state == RUNNING:
                message = f"job {self._job.id} is running; wait for its end"
                location = {"Location": f"/train/{self._job.id}"}
                raise RequestError(409, "already_running", message, location)
            command = self._command or self._pipeline_command()
            job_id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
            job = Job(job_id, RUNNING, _now())
            create_directories(self._log_dir)
            with self._path(job.id, ".log").open("wb") as output:
                self._process = subprocess.Popen(
                    command,
                    cwd=self._root_dir,
                    env=_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    # A process group: its stages are stopped with it, and Ctrl-C doesn't reach it.
                    start_new_session=True,
                )
            self._save(job)
            arguments = (self._process, job)
            threading.Thread(target=self._wait, args=arguments, daemon=True).start()
        logger.info("job=%s state=running", job.id)
        return job

    def get(self, job_id: str) -> Job | None:
        """Return a job of this or an earlier run of the server; None if there is none."""
        job = self._job
        if job and job.id == job_id:
            return job
        if not re.fullmatch(_ID_PATTERN, job_id, re.ASCII):
            return None
        try:
            job = Job(**load_json(self._path(job_id, ".json")))
        except (OSError, ValueError, TypeError):
            return None
        # A job of an earlier server was stopped with it.
        return replace(job, state=FAILED) if job.state == RUNNING else job

    def log_tail(self, job_id: str) -> list[str]:
        """Return the last lines of a job's output, without secrets."""
        try:
            with self._path(job_id, ".log").open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _MAX_LOG_BYTES))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return []
        if size > _MAX_LOG_BYTES:  # starts in the middle of a line
            text = text.partition("\n")[2]
        lines = re.findall(r"[^\r\n]*\S[^\r\n]*", text)
        return [_redact(line)[:1000] for line in lines[-_MAX_LOG_LINES:]]

    def stop(self) -> None:
        """Stop the running job, if any; its stages keep their last good outputs."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        for signal_number in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
            _signal_group(process, signal_number)
            try:
                process.wait(STOP_TIMEOUT_S)
                break
            except subprocess.TimeoutExpired:
                continue
        logger.warning("stopped the training job with the server")

    def _pipeline_command(self) -> tuple[str, ...]:
        if importlib.util.find_spec("dvc") is None:
            message = "DVC isn't installed here; train where requirements.txt is installed"
            raise RequestError(501, "training_unavailable", message)
        if not (self._root_dir / "dvc.yaml").is_file():
            message = "no dvc.yaml in the server's working folder; start it in the project's"
            raise RequestError(501, "training_unavailable", message)
        return sys.executable, "-m", "dvc", "repro"

    def _wait(self, process: "subprocess.Popen[bytes]", job: Job) -> None:
        exit_code = process.wait()
        state = FAILED if exit_code else SUCCEEDED
        job = replace(job, state=state, finished=_now(), exit_code=exit_code)
        self._save(job)
        logger.info("job=%s state=%s exit_code=%d", job.id, job.state, exit_code)

    def _save(self, job: Job) -> None:
        try:
            save_json(self._path(job.id, ".json"), asdict(job))
        finally:  # after the file, so that both agree once the state is visible
            self._job = job

    def _path(self, job_id: str, suffix: str) -> Path:
        return self._log_dir / f"{job_id}{suffix}"


def make_blueprint(jobs: TrainingJobs | None) -> Blueprint:
    """Return the routes of `/train`.

    Args:
        jobs: None if the app can't train.
    """
    routes = Blueprint("training", __name__)

    @routes.post("/train")
    def start() -> tuple[Response, int, dict[str, str]]:
        require_train_permission(by_header=True)
        if jobs is None:
            raise RequestError(501, "training_unavailable", "this server can't train")
        job = jobs.start()
        return jsonify(_status(job, [])), 202, {"Location": f"/train/{job.id}"}

    @routes.get("/train")
    def usage() -> Response:
        message = "POST starts a training in the background; GET /train/<id> returns its state"
        raise RequestError(405, "method_not_allowed", message, {"Allow": "POST"})

    @routes.get("/train/<identifier>")
    def status(identifier: str) -> Response:
        require_train_permission()
        job = jobs.get(identifier) if jobs else None
        if jobs is None or job is None:
            raise RequestError(404, "no_such_job", "there is no such job")
        return jsonify(_status(job, jobs.log_tail(identifier)))

    return routes


def _status(job: Job, log: list[str]) -> dict[str, Any]:
    return asdict(job) | {"log": log}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _environment() -> dict[str, str]:
    """Return the environment without the API tokens; `python` is the server's own."""
    environment = dict(os.environ)
    environment.pop(TOKENS_VARIABLE, None)
    folders = [str(Path(sys.executable).parent), environment.get("PATH", "")]
    return environment | {"PATH": os.pathsep.join(folders)}


def _signal_group(process: "subprocess.Popen[bytes]", signal_number: int) -> None:
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal_number)
        else:  # Windows
            process.terminate()
    except ProcessLookupError:
        pass


def _redact(line: str) -> str:
    for name, value in os.environ.items():
        if len(value) >= 6 and _SECRET_NAME.search(name):
            line = line.replace(value, "***")
    return redact_credentials(line)
