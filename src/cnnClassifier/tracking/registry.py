"""Which model of the registry is in production: promote a run's, or go back to the one before."""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from cnnClassifier.entity.config_entity import TrackingConfig
from cnnClassifier.tracking.connection import (
    TrackingError,
    check_answers,
    environment,
    in_one_line,
    lacks,
)
from cnnClassifier.utils.redaction import redact_credentials

PRODUCTION = "production"
VERSION_TAGS = ("model_sha256", "synthetic", "gates_not_met")
_HISTORY = "production_history"  # a tag of the registered model: versions that were in production, the oldest first
_MOST_HISTORY = 50


def connect(config: TrackingConfig, note: Callable[[str], None]) -> Any:
    """Return the store of a server that answers; the environment of this process gets what MLflow needs to log in.

    Raises:
        TrackingError: it doesn't answer, refuses, or there are no credentials.
    """
    os.environ.update(environment(config.uri))
    check_answers(config.uri)
    from cnnClassifier.tracking.mlflow_store import Store

    return asking(config, lambda: Store(config.uri, config.experiment, {}, note))


def asking(config: TrackingConfig, action: Callable[[], Any]) -> Any:
    """Do what asks the server, with its errors in one line.

    Raises:
        TrackingError: what it said.
    """
    try:
        return action()
    except TrackingError:
        raise
    except (
        Exception
    ) as error:  # MLflow lets through what requests, SQLAlchemy and its own stores raise
        place = redact_credentials(config.uri)
        what = "has no registry of models, or no such run or version" if lacks(error) else "refused"
        raise TrackingError(f"{place} {what}: {in_one_line(error)}") from None


class Registry:
    """The versions of one registered model.

    Args:
        config: server and name of the model.
        note: is told, in a line, what happens.
    """

    def __init__(self, config: TrackingConfig, note: Callable[[str], None]) -> None:
        self._config = config
        self._name = config.registered_model
        self._store = connect(config, note)
        self._client = self._store.client

    def promote(self, run_id: str | None, force: bool, reason: str) -> str:
        """Move the alias `production` to a run's model.

        Args:
            run_id: None: the run of the alias `candidate`.
            force: although gates aren't met.
            reason: recorded with the version.

        Returns:
            The version's number.

        Raises:
            TrackingError: gates aren't met and it isn't forced; or there is no such model, run or registry.
        """
        return str(asking(self._config, lambda: self._promote(run_id, force, reason)))

    def rollback(self, reason: str) -> str:
        """Move the alias `production` back to the version that had it before.

        Returns:
            The version's number.

        Raises:
            TrackingError: there is none, or no registry.
        """
        return str(asking(self._config, lambda: self._rollback(reason)))

    def _promote(self, run_id: str | None, force: bool, reason: str) -> str:
        run_id = run_id or self._candidate()
        run = self._client.get_run(run_id)
        unmet = self._unmet(run)
        if unmet and not force:
            raise TrackingError(
                f"run {run_id} isn't promoted: {unmet} Promote another run, or give --force --reason TEXT"
            )
        version = self._version_of(run)
        history = self._history()
        if history and history[-1] == version:
            return version
        self._client.set_registered_model_alias(self._name, PRODUCTION, version)
        self._remember([*history, version])
        self._record(
            version, "promoted", reason or "the gates are met", forced=str(bool(unmet)), unmet=unmet
        )
        return version

    def _rollback(self, reason: str) -> str:
        history = self._history()
        if len(history) < 2:
            raise TrackingError(
                f"{self._name}: no version was in production before; promote one instead"
            )
        *rest, left = history
        self._client.set_registered_model_alias(self._name, PRODUCTION, rest[-1])
        self._remember(rest)
        self._record(left, "rolled_back", reason)
        return rest[-1]

    def _candidate(self) -> str:
        from cnnClassifier.tracking.mlflow_store import CANDIDATE

        return str(self._client.get_model_version_by_alias(self._name, CANDIDATE).run_id)

    def _unmet(self, run: Any) -> str:
        tags = run.data.tags
        names = tags.get("gates_not_met")
        if names is None:
            return "it has not been evaluated, so that no gate can be said to be met."
        if names == "none":
            return ""
        return " ".join(
            tags.get(f"gate.{name}", f"{name} is not met.") for name in names.split(", ")
        )

    def _version_of(self, run: Any) -> str:
        found = self._client.search_model_versions(f"name = '{self._name}'")
        versions = [int(version.version) for version in found if version.run_id == run.info.run_id]
        if versions:
            return str(max(versions))
        if not self._client.list_artifacts(run.info.run_id, "model"):
            raise TrackingError(
                f"run {run.info.run_id} has no model; run evaluation, or promote another run"
            )
        tags = {key: run.data.tags[key] for key in VERSION_TAGS if key in run.data.tags}
        return str(self._store.add_version(self._name, run.info.run_id, tags))

    def _history(self) -> list[str]:
        tags = self._client.get_registered_model(self._name).tags
        return list(json.loads(tags.get(_HISTORY, "[]")))

    def _remember(self, history: list[str]) -> None:
        self._client.set_registered_model_tag(
            self._name, _HISTORY, json.dumps(history[-_MOST_HISTORY:])
        )

    def _record(self, version: str, what: str, reason: str, **more: str) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        for key, value in {f"{what}_at": now, f"{what}_because": reason, **more}.items():
            if value:
                self._client.set_model_version_tag(self._name, version, key, value[:5000])
