"""The registry of models: candidates, the model in production, and the way back."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cnnClassifier.entity.config_entity import TrackingConfig
from cnnClassifier.tracking.connection import TrackingError, is_remote
from cnnClassifier.tracking.store import MODEL_DIR, Store, connect, skip_unsupported
from cnnClassifier.utils.common import sha256_of
from cnnClassifier.utils.redaction import redact_credentials

if TYPE_CHECKING:
    from mlflow.entities import Run

PRODUCTION, CANDIDATE = "production", "candidate"  # aliases
_VERSION_TAGS = ("model_sha256", "synthetic", "gates_not_met")
_HISTORY = "production_history"  # tag of the registered model: versions in production, oldest first
_MAX_HISTORY = 50
_STARTED = "run_start_time"  # tag of a version, in ms


def promote(config: TrackingConfig, run_id: str | None, force: bool, reason: str) -> str:
    """Move the alias `production` to the model of a run.

    Args:
        config: server or database, and name of the model.
        run_id: of the server or of the local database; None: the run of the alias `candidate`.
        force: although gates aren't met.
        reason: stored with the version.

    Returns:
        The number of the version.

    Raises:
        TrackingError: gates aren't met and it isn't forced; or there is no such model, run or
            registry.
    """
    name = config.registered_model
    with connect(config) as store:
        if run_id is None:
            run_id = str(store.client.get_model_version_by_alias(name, CANDIDATE).run_id)
        run = store.get_run(run_id)
        if run is None:
            raise TrackingError(f"{run_id}: no such run in {redact_credentials(config.uri)}")
        unmet = _unmet_gates(run)
        if unmet and not force:
            raise TrackingError(
                f"run {run_id} isn't promoted: {unmet} Promote another run, or add "
                "--force --reason TEXT"
            )
        if not store.client.list_artifacts(run.info.run_id, MODEL_DIR):
            raise TrackingError(
                f"run {run_id} has no model; run evaluation, or promote another run"
            )
        version = _version_of(store, run, name)
        history = _history(store, name)
        if history[-1:] == [version]:
            return version
        _set_production(store, name, [*history, version])
        tags = {"reason": reason or "the gates are met", "forced": str(bool(unmet)), "unmet": unmet}
        _record(store, name, version, "promoted", tags)
        return version


def rollback(config: TrackingConfig, reason: str) -> str:
    """Move the alias `production` back to the version that had it before.

    Returns:
        The number of the version.

    Raises:
        TrackingError: there is none, or no registry.
    """
    name = config.registered_model
    with connect(config) as store:
        history = _history(store, name)
        if len(history) < 2:
            raise TrackingError(f"{name}: no version was in production before; promote one instead")
        _set_production(store, name, history[:-1])
        _record(store, name, history[-1], "rolled_back", {"reason": reason})
        return history[-2]


def log_model(store: Store, run_id: str, model_dir: Path) -> None:
    """Log a folder as the logged model of a run, where the store supports that; only once.

    Args:
        store: local database or server.
        run_id: id of the run in the store.
        model_dir: an MLflow model.
    """
    from mlflow.entities import LoggedModelOutput

    client = store.client
    if _logged_model_id(client.get_run(run_id)):
        return
    with skip_unsupported("logged models"):
        for partial in client.search_logged_models(
            [store.experiment_id], f"source_run_id = '{run_id}'"
        ):
            client.delete_logged_model(partial.model_id)  # of an upload that was interrupted
        tags = {"model_sha256": sha256_of(model_dir / "model.keras")}
        model = client.create_logged_model(
            store.experiment_id, MODEL_DIR, run_id, tags, model_type="classifier"
        )
        client.log_model_artifacts(model.model_id, str(model_dir))
        client.finalize_logged_model(model.model_id, "READY")
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])


def register_candidate(store: Store, run_id: str, name: str) -> None:
    """Register the model of a run, where the store has a registry.

    The alias `candidate` moves to it, unless it is at the model of a later run.

    Args:
        store: local database or server.
        run_id: id of the run in the store.
        name: of the registered model.
    """
    with skip_unsupported("registry of models"):
        version = _version_of(store, store.client.get_run(run_id), name)
        aliases = store.client.get_registered_model(name).aliases
        if CANDIDATE in aliases:
            candidate = _started(store, name, aliases[CANDIDATE])
            if candidate > _started(store, name, version):
                return
        store.client.set_registered_model_alias(name, CANDIDATE, version)


def _started(store: Store, name: str, version: str) -> int:
    return int(store.client.get_model_version(name, version).tags.get(_STARTED, 0))


def _version_of(store: Store, run: "Run", name: str) -> str:
    """Return the version that holds a run's model; it is registered if it isn't yet."""
    from mlflow.exceptions import MlflowException

    run_id = run.info.run_id
    for version in store.client.search_model_versions(f"name = '{name}'"):
        if version.run_id == run_id:
            return str(version.version)
    try:
        store.client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # A database would look a logged model up at MLflow's global address: it gets the run's files.
    model_id = _logged_model_id(run) if is_remote(store.uri) else None
    source = f"models:/{model_id}" if model_id else f"{run.info.artifact_uri}/{MODEL_DIR}"
    tags = {key: run.data.tags[key] for key in _VERSION_TAGS if key in run.data.tags}
    tags[_STARTED] = str(run.info.start_time)
    created = store.client.create_model_version(name, source, run_id, tags, model_id=model_id)
    return str(created.version)


def _logged_model_id(run: "Run") -> str | None:
    outputs = run.outputs.model_outputs if run.outputs else []
    return str(outputs[0].model_id) if outputs else None


def _unmet_gates(run: "Run") -> str:
    """Return a sentence for each gate that a run doesn't meet; empty if it meets all."""
    tags = run.data.tags
    names = tags.get("gates_not_met")
    if names is None:
        return "it has not been evaluated, so that no gate is known to be met."
    if names == "none":
        return ""
    return " ".join(tags.get(f"gate.{name}", f"{name} is not met.") for name in names.split(", "))


def _history(store: Store, name: str) -> list[str]:
    tags = store.client.get_registered_model(name).tags
    return list(json.loads(tags.get(_HISTORY, "[]")))


def _set_production(store: Store, name: str, history: list[str]) -> None:
    store.client.set_registered_model_alias(name, PRODUCTION, history[-1])
    text = json.dumps(history[-_MAX_HISTORY:])
    store.client.set_registered_model_tag(name, _HISTORY, text)


def _record(store: Store, name: str, version: str, action: str, tags: dict[str, str]) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    values = {f"{action}_at": now, f"{action}_because": tags.pop("reason"), **tags}
    for key, value in values.items():
        if value:
            store.client.set_model_version_tag(name, version, key, value[:5000])
