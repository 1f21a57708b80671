"""Find an evaluation by what people call it: a folder, a git revision or DVC experiment, a run in MLflow."""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cnnClassifier.entity.config_entity import TrackingConfig
from cnnClassifier.tracking.connection import TrackingError, in_one_line, is_remote, lacks
from cnnClassifier.tracking.registry import asking, connect
from cnnClassifier.utils.errors import UserError
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.redaction import redact_credentials

_LOCK = "dvc.lock"
_FOLDER_IN_RUN = "evaluation"


@dataclass(frozen=True)
class Found:
    """An evaluation on this machine.

    Attributes:
        folder: with `scores.json` and `predictions.csv`.
        name: for people.
        params: what it was made with, where that is known.
    """

    folder: Path
    name: str
    params: Mapping[str, str] = field(default_factory=dict)


def find_evaluation(what: str, root_dir: Path, tracking: TrackingConfig, scratch: Path) -> Found:
    """Find an evaluation, and fetch it where it isn't here.

    Args:
        what: a folder; a git revision (`HEAD`, a branch, a tag) or DVC experiment; a run's id or name in MLflow.
        root_dir: where evaluation writes, as dvc.yaml has it.
        tracking: where the runs are.
        scratch: folder for what is fetched.

    Raises:
        UserError: there is no such thing, or no evaluation in it.
    """
    if Path(what).is_dir():
        return Found(Path(what), what)
    run_id = what.removeprefix("runs:/")
    if not re.fullmatch("[0-9a-f]{32}", run_id):
        if commit := _commit(what):
            return _of_commit(what, commit, root_dir, scratch)
        run_id = ""
    return _of_run(what, run_id, tracking, scratch)


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


def _of_commit(what: str, commit: str, root_dir: Path, scratch: Path) -> Found:
    from dvc.api import DVCFileSystem
    from dvc.repo import Repo

    name = what if commit.startswith(what) else f"{what} ({commit[:7]})"
    lock = subprocess.run(
        ["git", "show", f"{commit}:./{_LOCK}"], capture_output=True, text=True, check=False
    )
    if lock.returncode:
        raise UserError(
            f"{name}: no {_LOCK} in this revision; commit it after `dvc repro`, or take an experiment's name"
        )
    stages: dict[str, Any] = yaml.safe_load(lock.stdout).get("stages", {})
    if _is_stale(stages):
        raise UserError(
            f"{name}: its evaluation is of another model than it trained; `dvc repro` it as a whole"
        )
    with Repo() as here:
        remote = here.config["core"].get("remote")  # of today: the revision may be older than it
    try:
        DVCFileSystem(rev=commit, remote=remote).get(
            root_dir.as_posix(), str(scratch / root_dir.name), recursive=True
        )
    except Exception as error:  # DVC lets through what its file systems and remotes raise
        raise UserError(
            f"{name}: {root_dir} is neither in DVC's cache nor in its remote; `dvc push` it where it was made "
            f"({in_one_line(error, 120)})"
        ) from None
    return Found(scratch / root_dir.name, name, _params_of(stages))


def _is_stale(stages: Mapping[str, Any]) -> bool:
    """Tell whether a stage in dvc.lock ran on something else than the stage before left: one of them was run alone."""
    left = {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}
    used = [dep for stage in stages.values() for dep in stage.get("deps", [])]
    return any(dep["md5"] != left.get(dep["path"], dep["md5"]) for dep in used)


def _params_of(stages: Mapping[str, Any]) -> dict[str, str]:
    """Return the parameters that dvc.lock says the stages ran with."""
    files = [values for stage in stages.values() for values in stage.get("params", {}).values()]
    return {key: str(value) for values in files for key, value in sorted(values.items())}


def _of_run(what: str, run_id: str, tracking: TrackingConfig, scratch: Path) -> Found:
    uri = redact_credentials(tracking.uri)
    if (
        not is_remote(uri)
        and uri.startswith("sqlite:///")
        and not Path(uri.removeprefix("sqlite:///")).is_file()
    ):
        raise UserError(
            f"{what}: no folder, git revision or DVC experiment, and there are no runs yet in {uri}"
        )
    store = connect(tracking, logger.debug)

    def fetch() -> Found:
        if run_id:
            try:
                run = store.client.get_run(run_id)
            except Exception as error:  # MLflow's own, and its stores'
                raise (
                    TrackingError(f"{what}: no such run in {uri}") if lacks(error) else error
                ) from None
        else:
            quoted = what.replace("'", "")
            named = f"attributes.run_name = '{quoted}'"
            runs = store.client.search_runs(
                [store.experiment_id], named, order_by=["attributes.start_time DESC"]
            )
            if not runs:
                raise TrackingError(
                    f"{what}: no folder, git revision or DVC experiment, nor a run's id or name in {uri}, experiment "
                    f"{tracking.experiment}"
                )
            run = runs[0]
        name = f"{run.info.run_name} (run {run.info.run_id[:8]})"
        if not any(
            item.path == _FOLDER_IN_RUN for item in store.client.list_artifacts(run.info.run_id)
        ):
            raise TrackingError(
                f"{name}: this run has no evaluation; take one that got as far as that"
            )
        folder = store.client.download_artifacts(run.info.run_id, _FOLDER_IN_RUN, str(scratch))
        return Found(Path(folder), name, dict(run.data.params))

    found: Found = asking(tracking, fetch)
    return found
