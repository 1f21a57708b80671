"""The process that logs: reads events from stdin, sends them to the server or, once that fails, to the local store."""

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from cnnClassifier.tracking.connection import LOCAL_STORE, check_answers, in_one_line, is_remote
from cnnClassifier.utils.redaction import redact_credentials

Event = dict[str, Any]
_SAMPLE_S = 5.0  # from one look at processor and memory to the next


class Worker:
    """Write events as they come; keep them, so that all can be said again to the local store.

    Args:
        uri: of the server or store.
        wanted: the one that config.yaml names, where it can't be used from the start.
        experiment: made where it doesn't exist.
    """

    def __init__(self, uri: str, wanted: str, experiment: str) -> None:
        self._uri = uri
        self._wanted = wanted
        self._experiment = experiment
        self._store: Any = None
        self._journal: list[Event] = []
        self._gave_up = False
        self._half_sent = ""

    def take(self, events: list[Event]) -> None:
        """Log events; at the first failure everything so far goes to the local store instead."""
        self._journal += [event for event in events if event["what"] != "system"]
        if self._gave_up:
            return
        try:
            self._write(events)
        except (
            Exception
        ) as error:  # MLflow lets through what requests, SQLAlchemy and its own stores raise
            self._gave_up = not is_remote(self._uri)
            self._report(error)
            if not self._gave_up:
                self._turn_to_local_store()

    def _turn_to_local_store(self) -> None:
        self._half_sent = self._store.run_ids.get(0, "") if self._store else ""
        self._uri, self._store = LOCAL_STORE, None
        try:
            self._write(self._journal)
        except Exception as error:
            self._gave_up = True
            self._report(error)

    def receipt(self) -> Event | None:
        """Return where the run stands, if it stands anywhere."""
        if self._gave_up or not self._store or 0 not in self._store.run_ids:
            return None
        return {
            "what": "receipt",
            "run_id": self._store.run_ids[0],
            "see": self._store.ui_location(0),
        }

    def close(self) -> None:
        """End all runs that haven't said how they ended; what the local store has of it needs no sending any more."""
        runs = [event["run"] for event in self._journal if event["what"] == "open"]
        self.take([{"what": "finish", "run": run, "status": "KILLED"} for run in reversed(runs)])
        opening = next((event for event in self._journal if event["what"] == "open"), {})
        if (
            self._gave_up
            or not self._store
            or not opening.get("resume")
            or not is_remote(self._uri)
        ):
            return
        if Path(LOCAL_STORE.removeprefix("sqlite:///")).is_file():
            from cnnClassifier.tracking.mlflow_store import SENT_AS, Store

            local = Store(LOCAL_STORE, self._experiment, {}, note=_note)
            run = local.find(opening["resume"])
            if run and "unsent" in run.data.tags:
                local.client.set_tag(run.info.run_id, SENT_AS, self._store.run_ids[0])

    def _write(self, events: list[Event]) -> None:
        from cnnClassifier.tracking.mlflow_store import Store

        if self._store is None:
            check_answers(self._uri)
            unsent = {}
            if self._uri != self._wanted:
                unsent = {"unsent": redact_credentials(self._wanted), "half_sent": self._half_sent}
            self._store = Store(self._uri, self._experiment, unsent, note=_note)
        self._store.write(events)

    def _report(self, error: Exception) -> None:
        said = in_one_line(error)
        place = redact_credentials(self._uri)
        # MLflow's errors repeat the address, password and all.
        trace = redact_credentials(traceback.format_exc())
        text = said if place in said else f"{place}: {said}"
        _say(what="lost" if self._gave_up else "error", text=text, traceback=trace)


def main() -> None:
    """Log until stdin ends."""
    sys.stdout = sys.stderr  # MLflow prints; what the pipeline reads is `_say`'s alone
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the pipeline: its end of the pipe closes, then
    if hasattr(os, "nice"):
        os.nice(5)
    events: queue.Queue[Event | None] = queue.Queue()
    threading.Thread(target=_read, args=(events,), daemon=True).start()
    connect = events.get()
    if connect is None:
        return
    worker = Worker(connect["uri"], connect["wanted"], connect["experiment"])
    sample = _sampler()
    going = True
    while going:
        batch: list[Event | None] = []
        try:
            batch.append(events.get(timeout=_SAMPLE_S))
        except queue.Empty:
            with contextlib.suppress(ImportError):
                worker.take([{"what": "system", "run": 0, "values": sample()}])
            continue
        while not events.empty():
            batch.append(events.get())
        going = None not in batch
        worker.take([event for event in batch if event])
    worker.close()
    if receipt := worker.receipt():
        _say(**receipt)


def _read(events: "queue.Queue[Event | None]") -> None:
    # However long the server takes, the pipe is emptied: the pipeline never waits to write.
    for line in sys.stdin:
        events.put(json.loads(line))
    events.put(None)


def _sampler() -> Any:
    """Return a function that measures processor, memory and, where there is one, GPU, under MLflow's names."""
    monitors: list[Any] = []

    def sample() -> dict[str, float]:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

        if not monitors:
            monitors.append(CPUMonitor())
            with contextlib.suppress(Exception):  # no GPU, or no library that tells of it
                monitors.append(GPUMonitor())
        values: dict[str, float] = {}
        for monitor in monitors:
            monitor.collect_metrics()
            values |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        return {f"system/{key}": value for key, value in values.items()}

    return sample


def _note(text: str) -> None:
    _say(what="note", text=text)


def _say(**content: Any) -> None:
    print(json.dumps(content), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    main()
