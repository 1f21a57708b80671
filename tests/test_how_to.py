"""The edits of the how-tos that change the code: a project with them passes its tests."""

import os
import subprocess
import sys

import pytest
import yaml

from tests.project import ROOT
from tests.test_docs import HOW_TOS, edits_of
from tests.test_pipeline import copy_repository
from tests.test_pipeline import edit as set_value

# Those that an edit could break.
TESTS = (
    "test_architecture.py",
    "config",
    "evaluation/test_metrics.py",
    "evaluation/test_scores.py",
    "network/test_training.py",
    "network/test_model_architecture.py",
)
CODE = [name for name in HOW_TOS if any(edit.language == "diff" for edit in edits_of(name))]


def edit_file(text, diff):
    """Replace the lines of a diff that begin with a space or a minus, which must occur once."""
    old, new = "", ""
    for line in diff.splitlines():
        old += "" if line.startswith("+") else line[1:] + "\n"
        new += "" if line.startswith("-") else line[1:] + "\n"
    assert f"\n{text}".count(f"\n{old}") == 1, old
    return f"\n{text}".replace(f"\n{old}", f"\n{new}")[1:]


def edited_files(name):
    """Return the text of each file after the edits of a how-to, by its path."""
    files = {}
    for edit in edits_of(name):
        path = ROOT / edit.file
        if edit.language == "diff":
            text = files.get(edit.file) or path.read_text(encoding="utf-8")
            files[edit.file] = edit_file(text, edit.text)
        elif edit.language == "python":
            assert not path.exists()
            files[edit.file] = edit.text
    return files


@pytest.mark.parametrize("name", CODE)
def test_the_edits_of_a_how_to_fit_the_code(name):
    for file, text in edited_files(name).items():
        if file.endswith(".py"):
            compile(text, file, "exec")
        else:
            yaml.safe_load(text)


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.parametrize("name", CODE)
def test_a_project_with_the_edits_of_a_how_to_passes_its_tests(name, tmp_path):
    copy_repository(tmp_path)
    for file, text in edited_files(name).items():
        (tmp_path / file).write_text(text, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "src")}

    def run(*command):
        command = [sys.executable, *command]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    (tmp_path / "docs/configuration.md").write_text(
        run("-m", "cnnClassifier.config.reference"), encoding="utf-8"
    )
    run("-m", "ruff", "check", "src")
    run("-m", "ruff", "format", "--check", "src")
    selected = [f"tests/{name}" for name in TESTS]
    run("-m", "pytest", "-m", "not slow and not full", *selected)
    if name == "how-to/stage.md":
        set_value(tmp_path / "config/config.yaml", source_URL='"patterns:classes=elm|oak"')
        for stage in ("data_ingestion", "data_validation", "mean_images"):
            run("main.py", "--only", stage)
        images = sorted(path.name for path in (tmp_path / "artifacts/mean_images").iterdir())
        assert images == ["elm.png", "oak.png"]
    if name == "how-to/backbone.md":
        script = "from cnnClassifier.network.architecture import add_heads, build_backbone\n"
        script += "from cnnClassifier.entity.backbones import BACKBONES\n"
        script += "model = build_backbone('MobileNetV3Large', (96, 96, 3), 0)\n"
        script += "blocks = BACKBONES['MobileNetV3Large'].blocks\n"
        script += "print([model.get_layer(block).output.shape[1] for block in blocks])\n"
        script += "add_heads(model, blocks, blocks[1], 'auto', 2, 0.3, 2, 0)\n"
        assert run("-c", script).strip().endswith("[12, 6]")
