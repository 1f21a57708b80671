"""JAX and PyTorch: `make setup`, the pipeline, and two processes that train together.

VENV_JAX and VENV_TORCH name virtual environments to use instead of new ones.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cnnClassifier.utils.common import sha256_of
from tests.project import ROOT, patterns, write_project
from tests.test_pipeline import copy_repository, run
from tests.waiting import PATIENCE_S, reserved_port

pytestmark = [pytest.mark.slow, pytest.mark.full]
PREDICT = """
import sys
from pathlib import Path
import numpy as np
from cnnClassifier.network import backend
from cnnClassifier.network.serialization import load_model
backend.start()
model = load_model(Path(sys.argv[1]), "")
images = np.random.default_rng(0).integers(0, 256, (8, 96, 96, 3)).astype(np.float32)
np.save(sys.argv[2], np.asarray(model.predict_on_batch(images)))
"""
PYTHONPATH = f"{ROOT / 'src'}{os.pathsep}{ROOT}"


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """Return a clone of the repository with a virtual environment for one backend."""
    folders = {}

    def clone(backend):
        if backend not in folders:
            folder = copy_repository(tmp_path_factory.mktemp(backend))
            existing = os.environ.get(f"VENV_{backend.upper()}")
            if existing:
                (folder / ".venv").symlink_to(Path(existing).resolve())
            else:
                run(folder, "make", "setup", f"BACKEND={backend}", f"PYTHON={sys.executable}")
            folders[backend] = folder
        return folders[backend]

    return clone


def run_in(folder, backend, clone, *words):
    """Run a command in a folder, in the virtual environment of a clone."""
    path = f"{clone / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"
    return run(folder, *words, PATH=path, KERAS_BACKEND=backend)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_pipeline_runs_without_tensorflow_and_repeats_its_bytes(clone, backend, tmp_path):
    folder = clone(backend)
    search = "from importlib.util import find_spec; print(find_spec('tensorflow'))"
    assert run_in(tmp_path, backend, folder, "python", "-c", search).stdout == "None\n"
    config = {
        "data_ingestion.source_URL": patterns(groups=20, size=128, seed=3),
        "evaluation.bootstrap_samples": 100,
    }
    params = {"IMAGE_SIZE": [96, 96, 3], "EPOCHS": 4, "FOLDS": 3, "REPEATS": 1}
    found = []
    for name in ("first", "second"):
        project = write_project(tmp_path / name, config, params)
        run_in(project, backend, folder, "python", str(folder / "main.py"))
        outputs = sorted((project / "artifacts/training").iterdir())
        outputs.append(project / "artifacts/evaluation/predictions.csv")
        found.append({path.name: sha256_of(path) for path in outputs})
    assert found[0] == found[1]
    scores = json.loads((project / "artifacts/evaluation/scores.json").read_text(encoding="utf-8"))
    assert scores["roc_auc"] >= 0.98

    model = project / "artifacts/training/model.keras"
    predictions = {}
    for name in (backend, "tensorflow"):
        python = sys.executable if name == "tensorflow" else str(folder / ".venv/bin/python")
        words = (python, "-c", PREDICT, str(model), str(tmp_path / f"{name}.npy"))
        run(tmp_path, *words, KERAS_BACKEND=name, PYTHONPATH=PYTHONPATH)
        predictions[name] = np.load(tmp_path / f"{name}.npy")
    assert np.abs(predictions[backend] - predictions["tensorflow"]).max() < 1e-2


@pytest.fixture
def train(clone):
    """Run tests/distributed_fit.py in some processes; return their exit codes and messages."""
    python = clone("jax") / ".venv/bin/python"

    def train(folder, processes, *options):
        folder.mkdir(exist_ok=True)
        with reserved_port() as port:
            address = f"127.0.0.1:{port}"
        environment = {**os.environ, "PYTHONPATH": PYTHONPATH, "KERAS_BACKEND": "jax"}
        environment |= {"CNN_PROCESSES": str(processes), "CNN_COORDINATOR": address}
        command = [python, ROOT / "tests/distributed_fit.py", folder, *map(str, options)]
        running = []
        for process in range(processes):
            environment["CNN_PROCESS"] = str(process)
            running.append(
                subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
            )
        messages = [process.communicate(timeout=PATIENCE_S)[1] for process in running]
        return [process.returncode for process in running], messages

    return train


def weights_in(folder, process=0):
    return np.concatenate(
        [np.load(folder / f"{name}-{process}.npy") for name in ("heads", "blocks")]
    )


def history_in(folder):
    return json.loads((folder / "history-0.json").read_text(encoding="utf-8"))


def test_two_processes_train_like_one_and_continue_when_all_are_killed(train, tmp_path):
    """61 images in batches of 8: the last batch can't be halved."""
    one, two, killed = (tmp_path / name for name in ("one", "two", "killed"))
    for folder, processes in ((one, 1), (two, 2)):
        codes, messages = train(folder, processes)
        assert codes == [0] * processes, messages
    assert np.array_equal(weights_in(two, 0), weights_in(two, 1))
    assert np.abs(weights_in(two) - weights_in(one)).max() < 1e-5
    for name, metrics in history_in(one).items():
        for key, values in metrics.items():
            assert values == pytest.approx(history_in(two)[name][key], abs=1e-5)

    codes, messages = train(killed, 2, 3)
    assert set(codes) <= {-signal.SIGKILL, -signal.SIGABRT}
    assert "error: process 1 of 2 has ended, or lost another one" in messages[1]
    codes, messages = train(killed, 2)
    assert codes == [0, 0], messages
    assert history_in(killed) == history_in(two)
    assert np.array_equal(weights_in(killed), weights_in(two))
