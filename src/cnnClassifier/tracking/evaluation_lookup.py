"""Find an evaluation: by folder, git revision, DVC experiment, or MLflow run."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cnnClassifier.entity.config_entity import TrackingConfig
from cnnClassifier.tracking.connection import TrackingError, error_message, is_remote
from cnnClassifier.tracking.store import Store, connect, local_database, local_uri
from cnnClassifier.utils.errors import UserError
from cnnClassifier.utils.redaction import redact_credentials

if TYPE_CHECKING:
    from mlflow.entities import Run

_LOCK_FILE = "dvc.lock"
_EVALUATION_DIR = "evaluation"  # folder of a run's artifacts


@dataclass(frozen=True)
class FoundEvaluation:
    """An evaluation on this machine.

    Attributes:
        folder: holds `scores.json` and `predictions.csv`.
        name: shown in the comparison.
        params: hyperparameters, as far as they are known.
    """

    folder: Path
    name: str
    params: Mapping[str, str] = field(default_factory=dict)


def find_evaluation(
    what: str, root_dir: Path, tracking: TrackingConfig, temp_dir: Path
) -> FoundEvaluation:
    """Find an evaluation, and fetch it where it isn't on this machine.

    Args:
        what: a folder; a git revision (`HEAD`, a branch, a tag) or DVC experiment; the id of an
            MLflow run, here or on the server, or its name.
        root_dir: output folder of the evaluation, as in dvc.yaml.
        tracking: where the runs are.
        temp_dir: folder for downloads.

    Raises:
        UserError: there is no such thing, or it has no evaluation.
    """
    if Path(what).is_dir():
        return FoundEvaluation(Path(what), what)
    run_id = what.removeprefix("runs:/")
    if re.fullmatch("[0-9a-f]{32}", run_id):
        return _of_run(what, run_id, tracking, temp_dir)
    if commit := _commit(what):
        return _of_commit(what, commit, root_dir, temp_dir)
    return _of_run(what, "", tracking, temp_dir)


def _commit(what: str) -> str | None:
    """Return the commit of a git revision or of a DVC experiment."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import RevError, resolve_rev

    if what.startswith("-"):
        return None
    try:
        with Repo() as repo:
            return str(resolve_rev(repo.scm, what))
    except (RevError, DvcException, AssertionError):  # the last where there is no git
        return None


def _of_commit(what: str, commit: str, root_dir: Path, temp_dir: Path) -> FoundEvaluation:
    """Fetch the evaluation of a commit from DVC's cache or remote."""
    from dvc.api import DVCFileSystem
    from dvc.repo import Repo

    name = what if commit.startswith(what) else f"{what} ({commit[:7]})"
    with Repo() as repo:
        remote = repo.config["core"].get("remote")  # the current one: the revision may be older
    files = DVCFileSystem(rev=commit, remote=remote)
    try:
        stages: dict[str, Any] = yaml.safe_load(files.read_text(_LOCK_FILE)).get("stages", {})
    except FileNotFoundError:
        raise UserError(
            f"{name}: no {_LOCK_FILE} in this revision; commit it after `dvc repro`, or name an "
            "experiment"
        ) from None
    if _is_stale(stages):
        raise UserError(
            f"{name}: its evaluation is of another model than it trained; run `dvc repro` for all "
            "stages"
        )
    target = temp_dir / root_dir.name
    try:
        files.get(root_dir.as_posix(), str(target), recursive=True)
    except Exception as error:  # DVC lets through what its file systems and remotes raise
        raise UserError(
            f"{name}: {root_dir} is neither in DVC's cache nor in its remote; run `dvc push` where "
            f"it was made ({error_message(error, 120)})"
        ) from None
    return FoundEvaluation(target, name, _params_of(stages))


def _is_stale(stages: Mapping[str, Any]) -> bool:
    """Return whether a stage in dvc.lock used another version of a file than a stage wrote."""
    written = {}
    for stage in stages.values():
        for out in stage.get("outs", []):
            written[out["path"]] = out["md5"]
    for stage in stages.values():
        for dep in stage.get("deps", []):
            if written.get(dep["path"], dep["md5"]) != dep["md5"]:
                return True
    return False


def _params_of(stages: Mapping[str, Any]) -> dict[str, str]:
    """Return the parameters of all stages in dvc.lock."""
    params = {}
    for stage in stages.values():
        for values in stage.get("params", {}).values():
            for key in sorted(values):
                params[key] = str(values[key])
    return params


def _of_run(what: str, run_id: str, tracking: TrackingConfig, temp_dir: Path) -> FoundEvaluation:
    """Fetch the evaluation of a run, from the local database or else from the server."""
    configs = [tracking] if is_remote(tracking.uri) else []
    database = local_database(tracking)
    if database is None or database.is_file():
        configs.insert(0, tracking.model_copy(update={"uri": local_uri(tracking)}))
    for config in configs:
        with connect(config) as store:
            run = store.get_run(run_id) if run_id else store.find_by_name(what)
            if run:
                return _download(store, run, temp_dir)
    uri = redact_credentials(tracking.uri)
    raise TrackingError(
        f"{what}: no folder, git revision or DVC experiment, nor the id or name of a run in {uri}, "
        f"experiment {tracking.experiment}"
    )


def _download(store: Store, run: "Run", temp_dir: Path) -> FoundEvaluation:
    run_id = run.info.run_id
    name = f"{run.info.run_name} (run {run_id[:8]})"
    if not store.client.list_artifacts(run_id, _EVALUATION_DIR):
        raise TrackingError(f"{name}: this run has no evaluation; name an evaluated run")
    folder = store.client.download_artifacts(run_id, _EVALUATION_DIR, str(temp_dir))
    return FoundEvaluation(Path(folder), name, dict(run.data.params))
