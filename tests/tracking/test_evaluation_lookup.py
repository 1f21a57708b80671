import shutil
import subprocess
from pathlib import Path

import pytest

from cnnClassifier.tracking.connection import TrackingError
from cnnClassifier.tracking.evaluation_lookup import find_evaluation
from cnnClassifier.tracking.runs import start_run
from cnnClassifier.utils.errors import UserError

ROOT_DIR = Path("artifacts/evaluation")
STAGES = """
stages:
  evaluation:
    cmd: none
    params: [EPOCHS]
    deps: [artifacts/training]
    outs: [artifacts/evaluation]
  training:
    cmd: none
    outs: [artifacts/training]
"""


def git(*words):
    subprocess.run(
        ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", *words], check=True
    )


@pytest.fixture
def repository(project, dvc_repo):
    """A DVC repository; returns a function that makes an evaluation and says so in dvc.lock."""
    git("init", "-q")
    with dvc_repo.init() as repo:
        repo.config["core"] |= {"analytics": False}
    Path("dvc.yaml").write_text(STAGES)

    def evaluate(text, epochs, target=None):
        Path("params.yaml").write_text(f"EPOCHS: {epochs}\n")
        ROOT_DIR.mkdir(parents=True, exist_ok=True)
        Path("artifacts/training").write_text(f"a model after {epochs} epochs")
        (ROOT_DIR / "scores.json").write_text(text)
        with dvc_repo() as repo:
            repo.commit(target, force=True)
        git("add", "dvc.lock")
        git("commit", "-q", "-m", text)

    git("add", "-A")
    git("commit", "-q", "-m", "no evaluation yet")
    git("tag", "empty")
    return evaluate


def find(what, config, scratch="scratch"):
    shutil.rmtree(scratch, ignore_errors=True)
    Path(scratch).mkdir()
    return find_evaluation(what, ROOT_DIR, config, Path(scratch))


def test_finds_folders_and_revisions_from_cache_or_remote(project, local, repository, dvc_repo):
    repository("first", 2)
    git("tag", "v1")
    Path(".dvc/config").write_text(
        "[core]\n remote = store\n['remote \"store\"']\n url = ../store\n"
    )
    with dvc_repo() as repo:
        repo.push()
    shutil.rmtree(".dvc/cache/files")
    repository("second", 3)
    found = find("v1", local)
    assert (found.folder / "scores.json").read_text() == "first"
    assert found.params == {"EPOCHS": "2"}
    assert found.name.startswith("v1 (")
    assert (find("HEAD", local).folder / "scores.json").read_text() == "second"
    assert find("artifacts/evaluation", local).folder == ROOT_DIR
    shutil.rmtree(".dvc/cache/files")
    with pytest.raises(
        UserError, match=r"HEAD \(\w{7}\): artifacts/evaluation is neither in DVC's cache nor"
    ) as caught:
        find("HEAD", local)
    assert "\n" not in str(caught.value)
    repository("third", 4, "training")
    with pytest.raises(
        UserError, match=r"HEAD \(\w{7}\): its evaluation is of another model than it trained"
    ):
        find("HEAD", local)
    with pytest.raises(
        UserError,
        match=r"empty \(\w{7}\): no dvc.lock in this revision; commit it after `dvc repro`",
    ):
        find("empty", local)


def test_finds_runs_by_id_or_name(project, local):
    (project / "scores.json").write_text("{}")
    with start_run(local, "VGG16 abc", {}) as run:
        run.log_artifacts([project / "scores.json"], "evaluation")
    with start_run(local, "unfinished", {}):
        pass
    expected = f"VGG16 abc (run {run.id[:8]})", {"SEED": "42", "WEIGHTS": "None"}
    for what in (run.id, f"runs:/{run.id}", "VGG16 abc"):
        found = find(what, local)
        assert (found.folder / "scores.json").read_text() == "{}"
        assert (found.name, found.params) == expected
    missing = "no folder, git revision or DVC experiment, nor the id or name of a run in sqlite"
    for what, message in (
        ("unfinished", "unfinished .run .*: this run has no evaluation"),
        ("no-such", f"no-such: {missing}"),
        ("0" * 32, f"0: {missing}"),
    ):
        with pytest.raises(TrackingError, match=message) as caught:
            find(what, local)
        assert "\n" not in str(caught.value)
    (project / "mlflow.db").unlink()
    with pytest.raises(UserError, match=missing):
        find("x", local)
    assert not (project / "mlflow.db").exists()
