"""The notebooks in research/, on a small project with three classes."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from tests.project import ROOT, write_project
from tests.waiting import PATIENCE_S

NOTEBOOKS = sorted((ROOT / "research").glob("*.ipynb"))
NAMES = [path.name for path in NOTEBOOKS]


def cells_of(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def needs_data_alone(path):
    return "Needs the stage `data_ingestion`" in "".join(cells_of(path)[0]["source"])


def run_notebook(folder, name):
    """Execute a notebook in the folder `research` of a project; return what it printed."""
    import nbformat
    from nbclient import NotebookClient

    content = nbformat.read(folder / "research" / name, as_version=4)
    client = NotebookClient(
        content,
        timeout=PATIENCE_S,
        startup_timeout=PATIENCE_S,
        allow_errors=True,
        resources={"metadata": {"path": str(folder / "research")}},
    )
    client.execute()
    printed, errors = "", ""
    for cell in content.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                errors += "\n".join(output.traceback)
            elif output.output_type == "stream":
                printed += output.text
    return printed, errors


def copy_notebooks(folder):
    shutil.copytree(ROOT / "research", folder / "research")
    return folder


@pytest.fixture
def own_source(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))


def run_pipeline(folder, *options):
    """Run stages on images of three classes, two of each group."""
    write_project(
        folder,
        config={
            "project.title": "Leaves",
            "project.image_term": "photo",
            "project.group_term": "plant",
            "project.domain": "general",
            "data_ingestion.source_URL": "patterns:classes=oak|elm|ash,groups=10,images=2,size=96",
            "data_validation.group_pattern": r"^(?P<group>group\d+)_",
            "evaluation.bootstrap_samples": 100,
        },
        params={
            "CLASSES": 3,
            "POSITIVE_CLASS": "auto",
            "IMAGE_SIZE": [96, 96, 3],
            "EPOCHS": 2,
            "FOLDS": 3,
            "REPEATS": 2,
        },
    )
    command = [sys.executable, str(ROOT / "main.py"), *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return copy_notebooks(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return run_pipeline(tmp_path_factory.mktemp("data"), "--only", "data_ingestion")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return run_pipeline(tmp_path_factory.mktemp("project"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_a_notebook_begins_with_the_stage_and_ends_with_the_keys(path):
    cells = cells_of(path)
    first, last = "".join(cells[0]["source"]), "".join(cells[-1]["source"])
    assert re.search(r"Needs the stage `\w+`: run `make pipeline`", first)
    assert "## To make it permanent\n\n| what | file | key |" in last
    for cell in cells:
        assert not cell.get("outputs"), "stored output: run nbstripout"
        assert cell.get("execution_count") is None
    for name in re.findall(r"`(src/[\w/.]+|config/\w+\.yaml|params\.yaml)`", last):
        assert (ROOT / name).is_file(), name


def check_notebook(folder, name):
    printed, errors = run_notebook(folder, name)
    assert errors == ""
    assert "error:" not in printed
    assert printed.startswith("Leaves: ")
    assert "photo" in printed or "images" in printed
    assert re.search(r"\b(CT|patients?|slices?)\b", printed) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", [path.name for path in NOTEBOOKS if needs_data_alone(path)])
def test_notebooks_on_data_run_and_use_the_terms_of_the_project(data, name, own_source):
    check_notebook(data, name)


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.parametrize("name", [path.name for path in NOTEBOOKS if not needs_data_alone(path)])
def test_notebooks_run_and_use_the_terms_of_the_project(project, name, own_source):
    check_notebook(project, name)


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
def test_without_results_there_is_one_line(tmp_path, name, own_source):
    printed, _ = run_notebook(copy_notebooks(write_project(tmp_path)), name)
    first = printed.splitlines()[0]
    assert re.fullmatch(r"error: artifacts/\S+ is missing: run `make pipeline` first", first)
