import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml

from cnnClassifier.entity.bundle import ModelBundle, apply_threshold
from cnnClassifier.evaluation.metrics import LabeledPredictions, compute_scores
from cnnClassifier.utils.common import save_json
from tests.waiting import PATIENCE_S, wait_for

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def app_command():
    return [sys.executable, str(ROOT / "app.py")]


@pytest.fixture(scope="session")
def workplace(tmp_path_factory):
    """Make a folder to start app.py in, with a configuration that names the given bundle."""

    def make(bundle_dir):
        folder = tmp_path_factory.mktemp("workplace")
        config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
        config["training"]["bundle_dir"] = str(bundle_dir)
        config["evaluation"]["root_dir"] = str(Path(bundle_dir).parent / "evaluation")
        config["data_validation"]["report_path"] = str(
            Path(bundle_dir).parent / "data/data_report.json"
        )
        config["serving"] |= {"max_upload_bytes": 200_000, "request_timeout_s": PATIENCE_S}
        (folder / "config").mkdir()
        (folder / "config/config.yaml").write_text(yaml.safe_dump(config))
        (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
        return folder

    return make


@pytest.fixture(scope="session")
def running(app_command, workplace):
    """Run app.py on a free port; yield its URL, first line and process."""

    @contextmanager
    def run(bundle_dir, **environment):
        command = [*app_command, "--port", "0"]
        folder = workplace(bundle_dir)
        with subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            process.folder = folder
            try:
                line = process.stdout.readline()
                yield line.split()[1], line, process
            finally:
                process.terminate()

    return run


@pytest.fixture(scope="session")
def ready(running):
    """Run app.py as `running` does; yield the same once it is ready."""

    @contextmanager
    def run(bundle_dir, **environment):
        with running(bundle_dir, **environment) as (url, line, process):
            wait_for(f"{url}/readyz", process)
            yield url, line, process

    return run


@pytest.fixture(scope="session")
def server(ready, tiny_bundle):
    """Return the URL of a server that is ready."""
    with ready(tiny_bundle) as (url, _, _):
        yield url


@pytest.fixture(scope="session")
def evaluated(write_bundle, tmp_path_factory):
    """Write a bundle that finds white pictures unfamiliar; beside it what evaluation and data validation leave."""
    root = tmp_path_factory.mktemp("evaluated")
    write_bundle(root / "bundle", ood_threshold=0.4)
    (root / "bundle/history.csv").write_text("epoch,loss,val_loss\n1,0.9,1.0\n2,0.5,0.625\n")
    bundle = ModelBundle.read(root / "bundle")
    labels, sure = np.array([0, 0, 0, 1, 1, 1]), np.array([0.9, 0.8, 0.2, 0.1, 0.3, 0.2])
    probabilities = np.stack([sure, 1 - sure], 1)
    outcome = LabeledPredictions.create(
        labels, probabilities, apply_threshold(probabilities, 0, bundle.threshold), [*"aabccd"], 0
    )
    found = {
        "model_sha256": bundle.model_sha256,
        **compute_scores(outcome, bundle.classes, bundle.operating_points, 20, seed=0),
        "format_version": 2,
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
    for folder, name, content in (
        ("evaluation", "MODEL_CARD", "the card"),
        ("data", "data_report", "the data"),
    ):
        (root / folder).mkdir()
        page = f"<!doctype html><html lang=en><title>{content}</title><style>p {{ color: red }}</style><p>{content}"
        (root / folder / f"{name}.html").write_text(page)
    save_json(root / "evaluation/scores.json", found)
    save_json(root / "data/data_report.json", {"manifest_sha256": bundle.manifest_sha256})
    return root
