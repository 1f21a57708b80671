import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from cnnClassifier.entity.bundle import FORMAT_VERSION, ModelBundle
from cnnClassifier.evaluation.metrics import compute_scores
from cnnClassifier.utils.common import save_json
from tests.labeled_predictions import cross_validation, labeled
from tests.project import ROOT, write_project
from tests.waiting import PATIENCE_S, wait_for


@pytest.fixture(scope="session")
def app_command():
    return [sys.executable, str(ROOT / "app.py")]


@pytest.fixture(scope="session")
def make_workdir(tmp_path_factory):
    """Make a folder to start app.py in, with a configuration that names the bundle."""

    def make(bundle_dir):
        workdir = tmp_path_factory.mktemp("workdir")
        root = Path(bundle_dir).parent
        changes = {
            "training.bundle_dir": str(bundle_dir),
            "evaluation.root_dir": str(root / "evaluation"),
            "data_validation.report_path": str(root / "data/data_report.json"),
            "serving.feedback_dir": "feedback",
            "serving.max_upload_bytes": 200_000,
            "serving.request_timeout_s": PATIENCE_S,
        }
        return write_project(workdir, changes)

    return make


@pytest.fixture(scope="session")
def start_app(app_command, make_workdir):
    """Run app.py on a free port; yield its URL and its process, which has its `workdir`."""

    @contextmanager
    def start(bundle_dir, *arguments, ready=True, **environment):
        workdir = make_workdir(bundle_dir)
        with subprocess.Popen(
            [*app_command, "--port", "0", *arguments],
            cwd=workdir,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            process.workdir = workdir
            try:
                url = process.stdout.readline().split()[1]
                if ready:
                    wait_for(f"{url}/readyz", process)
                yield url, process
            finally:
                process.terminate()

    return start


@pytest.fixture(scope="session")
def server(start_app, tiny_bundle):
    """Return the URL of a server that is ready."""
    with start_app(tiny_bundle) as (url, _):
        yield url


@pytest.fixture(scope="session")
def evaluated(write_bundle, tmp_path_factory):
    """Write a bundle for which white images are unfamiliar, its evaluation and its data report."""
    root = tmp_path_factory.mktemp("evaluated")
    write_bundle(root / "bundle", ood_threshold=0.4)
    (root / "bundle/history.csv").write_text("epoch,loss,val_loss\n1,0.9,1.0\n2,0.5,0.625\n")
    bundle = ModelBundle.read(root / "bundle")
    labels = np.array([0, 0, 0, 1, 1, 1])
    positive = np.array([0.9, 0.8, 0.2, 0.1, 0.3, 0.2])
    probabilities = np.stack([positive, 1 - positive], 1)
    outcome = labeled(labels, probabilities, [*"aabccd"])
    validated = cross_validation(outcome, outcome, model_sha256=bundle.model_sha256)
    validated |= {
        "note": "One is more reliable.",
        "baseline_note": "The model is not better.",
        "heads_note": "local (conv_max) 0.9, linear 0.1; 3 heads each",
    }
    content = {
        "model_sha256": bundle.model_sha256,
        "split": "test",
        "cross_validation": validated,
        **compute_scores(outcome, bundle.classes, bundle.operating_points, 20, seed=0),
        "format_version": FORMAT_VERSION,
        "out_of_distribution": {
            "n": 6,
            "n_ood": 1,
            "detection_rate": 1.0,
            "false_positive_rate": 0.0,
            "intervals": {"detection_rate": [0.2, 1.0], "false_positive_rate": [0.0, 0.4]},
        },
        "warnings": ["Mind the <gap>."],
        "gates": [{"name": "max_ece", "passed": False, "message": "It is too large."}],
    }
    for folder, name in (("evaluation", "MODEL_CARD"), ("data", "data_report")):
        (root / folder).mkdir()
        page = f"<!doctype html><html lang=en><title>{name}</title><p>content of {name}"
        (root / folder / f"{name}.html").write_text(page)
    save_json(root / "evaluation/scores.json", content)
    save_json(root / "data/data_report.json", {"manifest_sha256": bundle.manifest_sha256})
    return root
