"""Log a run while it goes on, from a process of its own: neither MLflow nor a slow server holds up training."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from cnnClassifier.entity.config_entity import TrackingConfig
from cnnClassifier.tracking.connection import LOCAL_STORE, TrackingError, environment
from cnnClassifier.utils.common import project_dir
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.redaction import redact_credentials

Event = dict[str, Any]
TRAINED, EVALUATED = (
    "trained",
    "evaluated",
)  # of the tag `state`: evaluation goes on with the run of training
_AGAIN = "to log them later: python main.py --only evaluation"


class Tracker:
    """One run. Every call returns at once; what it says is sent in the background.

    Args:
        send: takes an event.
        number: of the run among those of this process.
        numbers: yields the numbers of children.
    """

    def __init__(
        self, send: Callable[[Event], None], number: int = 0, numbers: Iterator[int] | None = None
    ) -> None:
        self._send_event = send
        self._number = number
        self._numbers = numbers or count(1)

    def _send(self, what: str, **content: Any) -> None:
        self._send_event({"what": what, "run": self._number, **content})

    def open(
        self, name: str, tags: Mapping[str, str], resume: Mapping[str, str] | None = None
    ) -> None:
        """Begin the run, or go on with the latest that has the tags `resume`."""
        self._send(
            "open", name=name, tags=dict(tags), resume=dict(resume or {}), workspace=str(Path.cwd())
        )

    def child(self, name: str, tags: Mapping[str, str] | None = None) -> "Tracker":
        """Begin a run under this one, such as a fold or a trial; `finish` ends it."""
        child = Tracker(self._send_event, next(self._numbers), self._numbers)
        child._send(
            "open", name=name, tags=dict(tags or {}), parent=self._number, workspace=str(Path.cwd())
        )
        return child

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters; one that the run has already stays."""
        self._send("params", values={key: str(value) for key, value in values.items()})

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        self._send("tags", values=dict(values))

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log figures of a step, such as an epoch."""
        now = int(time.time() * 1000)
        self._send(
            "metrics", values=[[key, float(value), now, step] for key, value in values.items()]
        )

    def history(self, values: Mapping[str, Sequence[float]]) -> None:
        """Log for each metric its value an epoch, unless the run has it already."""
        now = int(time.time() * 1000)
        rows = [
            [key, float(v), now, step]
            for key, series in values.items()
            for step, v in enumerate(series, 1)
        ]
        self._send("history", values=rows)

    def files(self, folder: str, paths: Sequence[Path]) -> None:
        """Upload files into a folder of the run's artifacts."""
        self._send("files", folder=folder, paths=[str(Path(path).absolute()) for path in paths])

    def dataset(self, split: str, digest: str, source: str, profile: Mapping[str, Any]) -> None:
        """Name data that the run used: which split, its digest, where it came from, and its counts."""
        self._send(
            "dataset",
            values={
                "split": split,
                "digest": digest[:32],
                "source": redact_credentials(source),
                "profile": dict(profile),
            },
        )

    def model(self, bundle_dir: Path) -> None:
        """Upload a bundle as the run's model."""
        self._send("model", bundle=str(Path(bundle_dir).absolute()))

    def register(self, name: str, tags: Mapping[str, str]) -> None:
        """Register the uploaded model under a name, as `candidate`, where the server has a registry."""
        self._send("register", name=name, tags=dict(tags))

    def finish(self, status: str = "FINISHED") -> None:
        """End the run as FINISHED or FAILED; the first word counts."""
        self._send("finish", status=status)


def untracked() -> Tracker:
    """Return a tracker that sends nothing anywhere."""
    return Tracker(lambda event: None)


@contextmanager
def track(
    config: TrackingConfig | None,
    name: str,
    tags: Mapping[str, str],
    resume: Mapping[str, str] | None = None,
    patience_s: float | None = None,
) -> Iterator[Tracker]:
    """Track what the block does as one run; where the server can't be reached it goes to the local store.

    Args:
        config: where to; None: nowhere.
        name: of the run.
        tags: to begin with.
        resume: go on with the latest run that has these tags, if there is one.
        patience_s: how long to wait at the end for what hasn't been sent yet; None: until it has.
    """
    if config is None:
        yield untracked()
        return
    sender = _Sender(config)
    tracker = Tracker(sender.send)
    tracker.open(name, tags, resume)
    tracker.params(config.params)
    try:
        yield tracker
    except BaseException:
        tracker.finish("FAILED")
        sender.close(patience_s)
        raise
    tracker.finish()
    sender.close(patience_s)


class _Sender:
    """The process that talks to MLflow; whatever becomes of it, this one goes on."""

    def __init__(self, config: TrackingConfig) -> None:
        self._lock = threading.Lock()
        self._receipt: Event | None = None
        uri = config.uri
        try:
            variables = environment(uri)
        except TrackingError as error:
            _warn(str(error))
            uri, variables = LOCAL_STORE, environment(LOCAL_STORE)
        source = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cnnClassifier.tracking.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            cwd=project_dir(),  # where the local store is
            env={**os.environ, **variables, "PYTHONPATH": path},
        )
        self._reader = threading.Thread(target=self._read, name="tracking", daemon=True)
        self._reader.start()
        self.send(
            {"what": "connect", "uri": uri, "wanted": config.uri, "experiment": config.experiment}
        )

    def send(self, event: Event) -> None:
        with self._lock, suppress(OSError, ValueError):  # it has died: `close` says so
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(event) + "\n")
            self._process.stdin.flush()

    def close(self, patience_s: float | None) -> None:
        with self._lock, suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._reader.join(patience_s)
        if self._reader.is_alive():
            self._process.kill()
            self._reader.join()
            logger.warning(
                "MLflow took longer than %.0f s; evaluation logs what is missing", patience_s
            )
        self._process.wait()
        if self._receipt:
            logger.info(
                "MLflow run %s; to see it: %s", self._receipt["run_id"], self._receipt["see"]
            )

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if said["what"] == "error":
                _warn(said["text"])
                logger.debug("%s", said["traceback"])
            elif said["what"] == "lost":
                logger.error(
                    "NOT LOGGED TO MLFLOW: %s. The results are safe; %s", said["text"], _AGAIN
                )
                logger.debug("%s", said["traceback"])
            elif said["what"] == "note":
                logger.info("MLflow: %s", said["text"])
            else:
                self._receipt = said


def _warn(text: str) -> None:
    logger.error(
        "NOT LOGGED TO MLFLOW'S SERVER: %s. Nothing is lost: it goes to %s; `python main.py sync` sends it later",
        text,
        LOCAL_STORE,
    )
