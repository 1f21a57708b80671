"""Train in the background: one job at a time, started and followed under /train."""

import importlib.util
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from flask import Blueprint, Response, jsonify

from cnnClassifier.serving.auth import TOKENS_VARIABLE, require_train_permission
from cnnClassifier.serving.errors import RequestError
from cnnClassifier.utils.common import create_directories, load_json, save_json
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.redaction import redact_credentials

RUNNING, SUCCEEDED, FAILED = "running", "succeeded", "failed"
STOP_TIMEOUT_S = 1.0
_kill_group = getattr(os, "killpg", os.kill)  # Windows has no process groups
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
        self._job_id = ""

    def start(self) -> Job:
        """Start a job.

        Raises:
            RequestError: 409: one is running; 501: this installation can't train.
        """
        with self._lock:
            if self._process and self._process.poll() is None:
                message = f"job {self._job_id} is running; wait for its end"
                location = {"Location": f"/train/{self._job_id}"}
                raise RequestError(409, "already_running", message, location)
            command = self._command or _pipeline_command(self._root_dir)
            path = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
            now = datetime.now(UTC)
            self._job_id = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
            job = Job(self._job_id, RUNNING, now.isoformat(timespec="seconds"))
            create_directories(self._log_dir)
            with self._path(job.id, ".log").open("wb") as output:
                self._process = subprocess.Popen(
                    command,
                    cwd=self._root_dir,
                    # `python` is the server's own, and the API tokens aren't passed on.
                    env=os.environ | {"PATH": os.pathsep.join(path), TOKENS_VARIABLE: ""},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    # A process group: its stages are stopped with it, and Ctrl-C doesn't reach it.
                    start_new_session=True,
                )
            save_json(self._path(job.id, ".json"), asdict(job))
            arguments = (self._process, job)
            threading.Thread(target=self._wait, args=arguments, daemon=True).start()
        logger.info("job=%s state=running", job.id)
        return job

    def get(self, job_id: str) -> Job | None:
        """Return a job of this or an earlier run of the server; None if there is none."""
        if not re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", job_id, re.ASCII):
            return None
        try:
            job = Job(**load_json(self._path(job_id, ".json")))
        except (OSError, ValueError, TypeError):
            return None
        # A job of an earlier server was stopped with it.
        is_stopped = job.state == RUNNING and job_id != self._job_id
        return replace(job, state=FAILED) if is_stopped else job

    def log_tail(self, job_id: str) -> list[str]:
        """Return the last 100 lines of a job's output, without secrets."""
        with self._path(job_id, ".log").open(encoding="utf-8", errors="replace") as file:
            lines = deque(filter(str.strip, file), maxlen=100)
        return [_redact(line.rstrip("\n"))[:1000] for line in lines]

    def stop(self) -> None:
        """Stop the running job, if any; its stages keep their last good outputs."""
        process = self._process
        if not process or process.poll() is not None:
            return
        for signal_number in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
            with suppress(OSError):  # it has just ended
                _kill_group(process.pid, signal_number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
                break
        logger.warning("stopped the training job with the server")

    def _wait(self, process: "subprocess.Popen[bytes]", job: Job) -> None:
        exit_code = process.wait()
        state = FAILED if exit_code else SUCCEEDED
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        job = replace(job, state=state, finished=finished, exit_code=exit_code)
        save_json(self._path(job.id, ".json"), asdict(job))
        logger.info("job=%s state=%s exit_code=%d", job.id, job.state, exit_code)

    def _path(self, job_id: str, suffix: str) -> Path:
        return self._log_dir / f"{job_id}{suffix}"


def make_blueprint(jobs: TrainingJobs) -> Blueprint:
    """Return the routes of `/train`."""
    routes = Blueprint("training", __name__)

    @routes.post("/train")
    def start() -> tuple[Response, int, dict[str, str]]:
        require_train_permission(by_header=True)
        job = jobs.start()
        return jsonify(asdict(job) | {"log": []}), 202, {"Location": f"/train/{job.id}"}

    @routes.get("/train/<identifier>")
    def status(identifier: str) -> Response:
        require_train_permission()
        job = jobs.get(identifier)
        if job is None:
            raise RequestError(404, "no_such_job", "there is no such job")
        return jsonify(asdict(job) | {"log": jobs.log_tail(identifier)})

    return routes


def _pipeline_command(root_dir: Path) -> tuple[str, ...]:
    if importlib.util.find_spec("dvc") is None or not (root_dir / "dvc.yaml").is_file():
        message = (
            "DVC isn't installed, or the server's working folder has no dvc.yaml; start it in the "
            "project's folder, where requirements.txt is installed"
        )
        raise RequestError(501, "training_unavailable", message)
    return sys.executable, "-m", "dvc", "repro"


def _redact(line: str) -> str:
    for name, value in os.environ.items():
        if len(value) >= 6 and _SECRET_NAME.search(name):
            line = line.replace(value, "***")
    return redact_credentials(line)
