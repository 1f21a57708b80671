"""Run the pipeline in the background: one job at a time, with its output in a file."""

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

from cnnClassifier.utils.common import create_directories, load_json, save_json
from cnnClassifier.utils.log import logger

RUNNING, SUCCEEDED, FAILED = "running", "succeeded", "failed"
ID_PATTERN = r"\d{8}-\d{6}-[0-9a-f]{6}"
_TAIL_LINES = 100
_TAIL_BYTES = 65536
_PATIENCE_S = 1.0
_SECRET_NAMES = re.compile("TOKEN|PASSWORD|SECRET|CREDENTIAL|KEY")
_IN_URL = re.compile(r"(?<=://)[^/\s@]+@")


class JobsError(Exception):
    """No job can be started.

    Attributes:
        running: the job that runs already; None where training isn't possible at all.
    """

    def __init__(self, message: str, running: str | None = None) -> None:
        super().__init__(message)
        self.running = running


@dataclass(frozen=True)
class Job:
    """One run of the pipeline; times in UTC, ISO 8601."""

    id: str
    state: str
    started: str
    finished: str | None = None
    exit_code: int | None = None


class Jobs:
    """Start and follow runs of `dvc repro`.

    Args:
        root: the folder with dvc.yaml.
        log_dir: for each job's output and state.
        command: what a job runs; `dvc repro` by default.
    """

    def __init__(self, root: Path, log_dir: Path, command: tuple[str, ...] | None = None) -> None:
        self._root = root
        self._log_dir = log_dir
        self._command = command
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._job: Job | None = None

    def start(self) -> Job:
        """Start a job.

        Raises:
            JobsError: one runs already, or this installation can't train.
        """
        with self._lock:
            if self._job and self._job.state == RUNNING:
                raise JobsError(f"job {self._job.id} runs already; wait for it", self._job.id)
            command = self._command or self._pipeline()
            now = datetime.now(UTC)
            job = Job(
                f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}",
                RUNNING,
                now.isoformat(timespec="seconds"),
            )
            create_directories(self._log_dir)
            with self._log(job.id).open("wb") as output:
                self._process = subprocess.Popen(
                    command,
                    cwd=self._root,
                    env=_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    # A group of its own: the stages that it starts are stopped with it, and Ctrl-C doesn't reach it.
                    start_new_session=True,
                )
            self._keep(job)
            threading.Thread(
                target=self._follow, args=(self._process, job), name="follow-job", daemon=True
            ).start()
        logger.info("job=%s state=running", job.id)
        return job

    def get(self, identifier: str) -> Job | None:
        """Return a job of this or an earlier run of the server; None where there is none."""
        job = self._job
        if job and job.id == identifier:
            return job
        if not re.fullmatch(ID_PATTERN, identifier, re.ASCII):
            return None
        try:
            found = Job(**load_json(self._state(identifier)))
        except (OSError, ValueError, TypeError):
            return None
        # What an earlier server had running was stopped with it.
        return replace(found, state=FAILED) if found.state == RUNNING else found

    def tail(self, identifier: str) -> list[str]:
        """Return the last lines that a job wrote, without secrets."""
        try:
            with self._log(identifier).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _TAIL_BYTES))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return []
        lines = re.split(r"[\r\n]+", text[text.find("\n") + 1 :] if size > _TAIL_BYTES else text)
        return [_redacted(line)[:1000] for line in lines if line.strip()][-_TAIL_LINES:]

    def stop(self) -> None:
        """Stop the job that runs, if any: the stages write by rename, so that their last good outputs stay."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        for number in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
            _signal_group(process, number)
            try:
                process.wait(_PATIENCE_S)
                break
            except subprocess.TimeoutExpired:
                continue
        logger.warning("stopped the training job with the server")

    def _pipeline(self) -> tuple[str, ...]:
        if importlib.util.find_spec("dvc") is None:
            raise JobsError(
                "this is a serving-only installation without DVC; train where requirements.txt is installed"
            )
        if not (self._root / "dvc.yaml").is_file():
            raise JobsError(
                "there is no dvc.yaml in the server's working folder; start the server in the project's"
            )
        return sys.executable, "-m", "dvc", "repro"

    def _follow(self, process: "subprocess.Popen[bytes]", job: Job) -> None:
        code = process.wait()
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        ended = replace(job, state=FAILED if code else SUCCEEDED, finished=finished, exit_code=code)
        self._keep(ended)
        logger.info("job=%s state=%s exit_code=%d", ended.id, ended.state, code)

    def _keep(self, job: Job) -> None:
        try:
            save_json(self._state(job.id), asdict(job))
        finally:  # only now: who is told that it has ended finds that in the file as well
            self._job = job

    def _log(self, identifier: str) -> Path:
        return self._log_dir / f"{identifier}.log"

    def _state(self, identifier: str) -> Path:
        return self._log_dir / f"{identifier}.json"


def _environment() -> dict[str, str]:
    """Return this process's environment without the tokens; `python` is the one that runs the server."""
    kept = {name: value for name, value in os.environ.items() if name != "API_TOKENS"}
    return kept | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    }


def _signal_group(process: "subprocess.Popen[bytes]", number: int) -> None:
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, number)
        else:
            process.terminate()
    except ProcessLookupError:
        pass


def _redacted(line: str) -> str:
    for name, value in os.environ.items():
        if len(value) >= 6 and _SECRET_NAMES.search(name.upper()):
            line = line.replace(value, "***")
    return _IN_URL.sub("***@", line)


def status_of(job: Job, tail: list[str]) -> dict[str, Any]:
    """Return what /train/<id> answers."""
    return asdict(job) | {"log": tail}
