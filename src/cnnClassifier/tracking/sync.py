"""Send the runs that didn't reach the server from the local store, once each."""

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mlflow.entities import DatasetInput, Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from cnnClassifier.entity.config_entity import TrackingConfig
from cnnClassifier.tracking.connection import LOCAL_STORE, TrackingError, is_remote, ui_location
from cnnClassifier.tracking.mlflow_store import MODEL_FOLDER, SENT_AS, Event, Store
from cnnClassifier.tracking.registry import VERSION_TAGS, asking, connect
from cnnClassifier.tracking.tracker import EVALUATED, TRAINED

# Tags on the server: the run's id here, and whether all of it has arrived.
_SENT_FROM, _SENT = "sent_from", "sent"
_HALF, _WHOLE = "half", "whole"
_HERE_ALONE = ("unsent", "half_sent", MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME)


def sync(config: TrackingConfig, note: Callable[[str], None]) -> int:
    """Send what waits; a run that was sent before, whole, isn't sent again.

    Args:
        config: the server.
        note: is told, in a line, of each run.

    Returns:
        How many runs were sent.

    Raises:
        TrackingError: no server is configured, or it doesn't answer or refuses.
    """
    if not is_remote(config.uri):
        raise TrackingError(
            f"{config.uri} is no server; set MLFLOW_TRACKING_URI or evaluation.mlflow_uri in config.yaml"
        )
    server = connect(config, note)
    if not Path(LOCAL_STORE.removeprefix("sqlite:///")).is_file():
        return 0
    local = Store(LOCAL_STORE, config.experiment, {}, note)
    waiting = [
        run
        for run in local.client.search_runs(
            [local.experiment_id], order_by=["attributes.start_time ASC"]
        )
        if "unsent" in run.data.tags and SENT_AS not in run.data.tags
    ]
    waiting.sort(key=lambda run: "mlflow.parentRunId" in run.data.tags)  # parents first
    sender = _Sender(local, server, config)
    for run in waiting:
        sent = asking(config, partial(sender.send, run))
        note(f"{run.info.run_name}: {ui_location(config.uri, server.experiment_id, sent)}")
    return len(waiting)


class _Sender:
    def __init__(self, local: Store, server: Store, config: TrackingConfig) -> None:
        self._local = local
        self._server = server
        self._config = config
        self._sent_as: dict[str, str] = {}
        self._number = -1

    def send(self, run: Run) -> str:
        """Send a run, unless the server has it whole, and return its id there."""
        run_id, tags = run.info.run_id, run.data.tags
        there = self._server.find({_SENT_FROM: run_id})
        if there is None or there.data.tags.get(_SENT) != _WHOLE:
            if there is not None:  # what a sending left that was cut off
                self._server.delete(there.info.run_id)
            if "half_sent" in tags:
                self._server.delete(tags["half_sent"])
            sent = self._send_all(run)
        else:
            sent = there.info.run_id
        self._local.client.set_tag(run_id, SENT_AS, sent)
        return sent

    def _send_all(self, run: Run) -> str:
        self._number += 1
        number, server, run_id = self._number, self._server, run.info.run_id
        tags = {key: value for key, value in run.data.tags.items() if key not in _HERE_ALONE}
        opening: Event = {
            "name": run.info.run_name,
            "tags": tags | {_SENT_FROM: run_id, _SENT: _HALF},
        }
        opening |= {"started": run.info.start_time}
        if tags.get("state") == EVALUATED:  # its training may have reached the server
            opening["resume"] = {"model_sha256": tags["model_sha256"], "state": TRAINED}
        if parent := run.data.tags.get(MLFLOW_PARENT_RUN_ID):
            opening["tags"][MLFLOW_PARENT_RUN_ID] = self._sent_id(parent)
        events = [
            opening | {"what": "open"},
            {"what": "params", "values": run.data.params},
            *({"what": "history", "values": self._series(run_id, key)} for key in run.data.metrics),
            *(
                {"what": "dataset", "values": _dataset(found)}
                for found in (run.inputs.dataset_inputs if run.inputs else ())
            ),
        ]
        server.write([event | {"run": number} for event in events])
        with tempfile.TemporaryDirectory() as scratch:
            self._send_artifacts(number, run, Path(scratch))
        server.write([{"what": "finish", "run": number, "status": run.info.status}])
        server.client.set_tag(server.run_ids[number], _SENT, _WHOLE)
        return server.run_ids[number]

    def _send_artifacts(self, number: int, run: Run, scratch: Path) -> None:
        client, run_id = self._local.client, run.info.run_id
        for item in client.list_artifacts(run_id):
            if item.path != MODEL_FOLDER:
                self._server.client.log_artifact(
                    self._server.run_ids[number],
                    client.download_artifacts(run_id, item.path, str(scratch)),
                )
        if any(item.path == MODEL_FOLDER for item in client.list_artifacts(run_id)):
            bundle = client.download_artifacts(run_id, MODEL_FOLDER, str(scratch))
            tags = {key: run.data.tags[key] for key in VERSION_TAGS if key in run.data.tags}
            self._server.write(
                [
                    {"what": "model", "run": number, "bundle": bundle},
                    {
                        "what": "register",
                        "run": number,
                        "name": self._config.registered_model,
                        "tags": tags,
                    },
                ]
            )

    def _series(self, run_id: str, key: str) -> list[list[Any]]:
        history = self._local.client.get_metric_history(run_id, key)
        return [[key, point.value, point.timestamp, point.step] for point in history]

    def _sent_id(self, local_id: str) -> str:
        return str(self._local.client.get_run(local_id).data.tags[SENT_AS])


def _dataset(found: DatasetInput) -> Event:
    source = json.loads(found.dataset.source)
    return {
        "split": next((tag.value for tag in found.tags), ""),
        "digest": found.dataset.digest,
        "source": source.get("url") or source.get("uri"),
        "profile": json.loads(found.dataset.profile or "{}"),
    }
