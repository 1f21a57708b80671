"""scripts/new_project.py: a project with other classes, another package and another backbone."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.project import ROOT

SCRIPT = ROOT / "scripts/new_project.py"
LEAVES = {
    "name": "leaf-id",
    "title": "Leaves: what's this?",
    "package": "leaf_id",
    "classes": "oak, maple=ahorn*,birch tree",
    "image-term": "photo",
    "group-term": "plant",
    "backbone": "EfficientNetLite0",
}
# Of the template's subject; tests have classes of their own.
SUBJECT = re.compile(rb"chest|ct_phantom|adenocarcinoma|cnnClassifier|lung cancer", re.IGNORECASE)


def new_project(target, *more, code=0, **answers):
    """Run the script, and return what it prints."""
    options = [f"--{key}={value}" for key, value in answers.items()]
    command = [sys.executable, str(SCRIPT), str(target), *options, *more]
    result = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600, check=False
    )
    assert result.returncode == code, result.stderr
    return result.stdout + result.stderr


def git(folder, *command):
    return subprocess.run(
        ["git", *command], cwd=folder, capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("new") / "leaves"
    printed = new_project(folder, **LEAVES)
    assert "not available yet" in printed
    return folder


@pytest.mark.slow
def test_a_project_has_its_own_names_in_one_commit(project):
    assert git(project, "log", "--format=%s").count("\n") == 1
    assert git(project, "status", "--porcelain") == ""
    config = yaml.safe_load((project / "config/config.yaml").read_text(encoding="utf-8"))
    assert config["project"]["title"] == LEAVES["title"]
    assert config["project"]["domain"] == "general"
    assert list(config["data_ingestion"]["classes"]) == ["oak", "maple", "birch tree"]
    assert config["data_ingestion"]["source_URL"] == "patterns:classes=oak|maple|birch tree"
    params = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    assert (params["CLASSES"], params["BACKBONE"]) == (3, "EfficientNetLite0")
    assert (project / "src/leaf_id/cli.py").is_file()
    assert "--tag leaf-id:" in (project / "README.md").read_text() or "leaf-id" in (
        project / "README.md"
    ).read_text(encoding="utf-8")
    for name in git(project, "ls-files").splitlines():
        if name.startswith("tests/") or name.endswith(".png"):
            continue
        found = SUBJECT.search((project / name).read_bytes())
        assert found is None, (name, found)


@pytest.mark.slow
def test_later_changes_of_the_template_are_merged(project, tmp_path):
    clone = tmp_path / "mine"
    git(tmp_path, "clone", "--quiet", str(project), str(clone))
    git(clone, "branch", "template", "origin/template")
    (clone / "params.yaml").write_text("EPOCHS: 7\n", encoding="utf-8")
    (clone / "SECURITY.md").unlink()
    git(clone, "-c", "user.name=me", "-c", "user.email=me@localhost", "commit", "-qam", "Mine")
    assert "nothing has changed" in new_project(clone, "--update")
    git(clone, "branch", "--force", "template", "main")  # as if the template had had these changes
    assert "git merge template" in new_project(clone, "--update")
    git(clone, "merge", "--quiet", "template")
    assert (clone / "SECURITY.md").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Leaf ID"}, "--name Leaf ID: expected lower-case"),
        ({"package": "leaf-id"}, "--package leaf-id: expected a name of letters"),
        ({"package": "numpy"}, "that isn't taken"),
        ({"package": "a" * 25}, "at most 24 characters"),
        ({"classes": "oak,oak"}, "expected two or more different names"),
        ({"backbone": "VGG17"}, "expected one of VGG16"),
    ],
)
def test_a_wrong_answer_is_explained(tmp_path, changes, message):
    assert message in new_project(tmp_path / "new", code=1, **(LEAVES | changes))
    assert not (tmp_path / "new").exists()


def test_missing_answers_and_used_folders(tmp_path):
    assert "--name is missing" in new_project(tmp_path / "new", code=1, classes="a,b")
    (tmp_path / "notes.txt").write_text("mine")
    assert "isn't empty" in new_project(tmp_path, code=1, **LEAVES)
    assert "inside of the template" in new_project(ROOT / "birds", code=1, **LEAVES)
    assert "--update needs a project" in new_project(tmp_path, "--update", code=1)


@pytest.mark.slow
@pytest.mark.full
def test_pipeline_tests_and_style_of_a_project_pass(project):
    environment = os.environ | {"PYTHONPATH": str(project / "src")}
    bin_dir = Path(sys.executable).parent

    def run(*command):
        result = subprocess.run(
            command, cwd=project, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
        return result.stdout

    run(str(bin_dir / "ruff"), "check", ".")
    run(str(bin_dir / "ruff"), "format", "--check", ".")
    run(str(bin_dir / "mypy"))
    assert "SYNTHETIC" in run(sys.executable, "main.py")
    scores = json.loads((project / "artifacts/evaluation/scores.json").read_text(encoding="utf-8"))
    assert scores["roc_auc"] >= 0.99
    assert scores["positive_class"] is None
    card = (project / "artifacts/evaluation/MODEL_CARD.html").read_bytes()
    assert SUBJECT.search(card) is None
    run(sys.executable, "-m", "pytest", "-m", "not slow and not full")
