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


@pytest.mark.slow
def test_the_bundle_is_trained_without_a_remote_and_pulled_with_one(tmp_path):
    clone = tmp_path / "clone"
    (clone / "scripts").mkdir(parents=True)
    for name in ("lib.sh", "fetch-bundle"):
        shutil.copy(ROOT / "scripts" / name, clone / "scripts" / name)
    (clone / "dvc.yaml").write_text(STAGES)
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def run(*words):
        done = subprocess.run(
            words, cwd=clone, capture_output=True, text=True, env={**os.environ, "PATH": tools}
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def times_trained():
        return (clone / "trained.log").read_text().count("trained")

    run("git", "init", "-q")
    run("dvc", "init", "-q")
    run("scripts/fetch-bundle")
    assert times_trained() == 1
    run("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    run("dvc", "push", "-q")
    shutil.rmtree(clone / "artifacts")
    shutil.rmtree(clone / ".dvc/cache")
    run("scripts/fetch-bundle")
    assert (clone / "artifacts/training/model.json").read_text() == "model\n"
    assert (clone / "artifacts/evaluation/int8.json").read_text() == "yes\n"
    assert times_trained() == 1
