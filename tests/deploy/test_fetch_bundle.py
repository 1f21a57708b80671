import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAGES = """
stages:
  training:
    cmd: mkdir -p artifacts/training && echo model > artifacts/training/model.json &&
      echo trained >> trained.log
    outs: [artifacts/training]
  evaluation:
    cmd: mkdir -p artifacts/evaluation && echo yes > artifacts/evaluation/int8.json
    outs: [artifacts/evaluation]
"""


MAIN = """
import sys
from pathlib import Path
Path(".dvc/config.local").write_text("# " + " ".join(sys.argv[1:]))
"""


@pytest.fixture
def clone(tmp_path):
    """A clone with the script, and a pipeline that takes no time."""
    clone = tmp_path / "clone"
    (clone / "scripts").mkdir(parents=True)
    for name in ("lib.sh", "fetch-bundle"):
        shutil.copy(ROOT / "scripts" / name, clone / "scripts" / name)
    (clone / "dvc.yaml").write_text(STAGES)
    (clone / "main.py").write_text(MAIN)
    return clone


@pytest.fixture
def run(clone):
    """Run a command in the clone; return what it prints."""
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def run(*words, code=0, **variables):
        done = subprocess.run(
            words,
            cwd=clone,
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": tools, "DAGSHUB_USER_TOKEN": "", **variables},
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    run("git", "init", "-q")
    run("dvc", "init", "-q")
    return run


@pytest.mark.slow
def test_the_bundle_is_trained_without_a_remote_and_pulled_with_one(tmp_path, clone, run):
    def times_trained():
        return (clone / "trained.log").read_text().count("trained")

    output = run("scripts/fetch-bundle")
    assert "a DVC remote (`python main.py connect dagshub USER/REPO`" in output
    assert "dvc.lock (`dvc repro && dvc push`" in output
    assert times_trained() == 1
    run("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    run("dvc", "push", "-q")
    shutil.rmtree(clone / "artifacts")
    shutil.rmtree(clone / ".dvc/cache")
    run("scripts/fetch-bundle")
    assert (clone / "artifacts/training/model.json").read_text() == "model\n"
    assert (clone / "artifacts/evaluation/int8.json").read_text() == "yes\n"
    assert times_trained() == 1


@pytest.mark.slow
def test_an_error_says_what_a_runner_lacks(clone, run):
    run("dvc", "repro", "-q")
    shutil.rmtree(clone / "artifacts")
    shutil.rmtree(clone / ".dvc/cache")
    host = "http://127.0.0.1:9"
    run("dvc", "remote", "add", "--default", "dagshub", f"{host}/ann/birds.dvc")
    output = run("scripts/fetch-bundle", code=1, DAGSHUB_CLIENT_HOST=host)
    assert "set DAGSHUB_USER_TOKEN (on GitHub: a secret of that name)" in output
    output = run("scripts/fetch-bundle", code=1, DAGSHUB_CLIENT_HOST=host, DAGSHUB_USER_TOKEN="x")
    assert (clone / ".dvc/config.local").read_text() == "# connect dagshub ann/birds"
    assert "`dvc push` where you trained" in output
    assert "set DAGSHUB_USER_TOKEN" not in output
    (clone / "dvc.yaml").write_text("stages: {fails: {cmd: exit 1}}")
    (clone / "dvc.lock").unlink()
    output = run("scripts/fetch-bundle", code=1)
    assert "dvc.lock (`dvc repro" in output
    assert "error: the pipeline failed" in output
    assert "a DVC remote" not in output
