import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cnnClassifier.entity.manifest import Entry, Manifest
from cnnClassifier.tracking.datasets import log_splits
from cnnClassifier.tracking.tracker import track, untracked
from tests.waiting import reserved_port, until

SRC = Path(__file__).resolve().parents[2] / "src"


def runs():
    from mlflow import MlflowClient

    uri = f"sqlite:///{Path('mlflow.db').absolute()}"  # MLflow keeps a store for each address
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name("chest")
    order = ["attributes.start_time ASC"]
    return client, client.search_runs(
        [experiment.experiment_id], order_by=order
    ) if experiment else []


def points(client, run, name):
    return sorted(
        (point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)
    )


def test_a_run_in_the_local_store_holds_all_that_was_said(place, local, tiny_bundle, said):
    (place / "scores.json").write_text("{}")
    subprocess.run(["git", "init", "-q"], check=True)
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    entries = [Entry(f"{n}", "ill", str(n) * 64, f"g{n}", "train") for n in range(3)]
    with track(local, "tiny", {"synthetic": "True"}) as tracker:
        log_splits(
            tracker, Manifest(tuple(entries)), "https://user:secret@example.org/scans.zip", "train"
        )
        for epoch in (1, 2):
            tracker.metrics({"loss": 1 / epoch}, epoch)
        fold = tracker.child("fold 1")
        fold.metrics({"roc_auc": 0.75})
        fold.finish()
        tracker.history({"loss": [9.0] * 2, "accuracy": [n / 2000 for n in range(2000)]})
        tracker.files("evaluation", [place / "scores.json"])
        tracker.model(tiny_bundle)
        tracker.register("chest-ct", {"synthetic": "True"})
    client, (run, child) = runs()
    assert (run.info.status, run.info.run_name, child.info.status) == (
        "FINISHED",
        "tiny",
        "FINISHED",
    )
    assert run.data.params == {"SEED": "42", "WEIGHTS": "None"}
    assert points(client, run, "loss") == [(1, 1.0), (2, 0.5)]
    assert len(points(client, run, "accuracy")) == 2000
    assert child.data.tags["mlflow.parentRunId"] == run.info.run_id
    assert child.data.metrics == {"roc_auc": 0.75}
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    assert (run.data.tags["mlflow.source.git.commit"], run.data.tags["git_dirty"]) == (
        commit,
        "True",
    )
    (used,) = run.inputs.dataset_inputs
    assert json.loads(used.dataset.profile) == {"images": 3, "groups": 3, "classes": {"ill": 3}}
    assert used.dataset.source == '{"url": "https://example.org/scans.zip"}'
    model = Path(client.download_artifacts(run.info.run_id, "model"))
    assert (model / "model.keras").read_bytes() == (tiny_bundle / "model.keras").read_bytes()
    assert client.get_model_version_by_alias("chest-ct", "candidate").run_id == run.info.run_id
    assert f"MLflow run {run.info.run_id}; to see it: mlflow ui" in said.text


def test_evaluation_goes_on_with_the_run_of_training(local):
    with track(local, "training", {}) as tracker:
        for step, value in enumerate([0.9, 0.7], 1):
            tracker.metrics({"val_loss": value}, step)
        tracker.tags({"model_sha256": "abc", "state": "trained"})
    changed = local.model_copy(update={"params": {"SEED": 43, "FOLDS": 5}})
    resume = {"model_sha256": "abc", "state": "trained"}
    for _ in range(2):
        with track(changed, "evaluated", {}, resume) as tracker:
            tracker.history({"val_loss": [0.9, 0.7]})
            tracker.metrics({"roc_auc": 0.8})
            tracker.tags({"model_sha256": "abc", "state": "evaluated"})
    client, (first, second) = runs()
    for run in (first, second):  # one that was evaluated already isn't gone on with
        assert points(client, run, "val_loss") == [(1, 0.9), (2, 0.7)]
        assert (run.info.run_name, run.data.metrics["roc_auc"]) == ("evaluated", 0.8)
    assert first.data.params == {"SEED": "42", "WEIGHTS": "None", "FOLDS": "5"}
    assert second.data.params == {"SEED": "43", "FOLDS": "5"}


@pytest.mark.parametrize(
    ("uri", "line"),
    [
        ("http://user:secret@127.0.0.1:{port}/x", "http://127.0.0.1:{port}/x: "),
        (
            "https://dagshub.com/user/repo.mlflow",
            "no credentials; set DAGSHUB_USER_TOKEN, or MLFLOW_TRACKING_USERNAME",
        ),
    ],
)
def test_without_a_server_the_run_waits_in_the_local_store(local, said, uri, line):
    with (
        reserved_port() as port,
        track(local.model_copy(update={"uri": uri.format(port=port)}), "tiny", {}) as tracker,
    ):
        tracker.metrics({"loss": 0.5}, 1)
    (error,) = (record.getMessage() for record in said.records if record.levelno == logging.ERROR)
    assert line.format(port=port) in error
    assert "python main.py sync" in error
    assert "\n" not in error
    assert "secret" not in said.text
    _, (run,) = runs()
    assert run.data.tags["unsent"] == uri.format(port=port).replace("user:secret@", "")
    assert (run.info.status, run.data.metrics["loss"]) == ("FINISHED", 0.5)


def test_a_store_that_cannot_be_opened_costs_one_line(place, local, said):
    (place / "file").write_text("")
    with track(local.model_copy(update={"uri": "sqlite:///file/store.db"}), "tiny", {}) as tracker:
        tracker.metrics({"loss": 0.5}, 1)
    (error,) = (record.getMessage() for record in said.records if record.levelno == logging.ERROR)
    assert error.startswith("NOT LOGGED TO MLFLOW: sqlite:///file/store.db: ")
    assert "python main.py --only evaluation" in error
    assert "\n" not in error


@pytest.mark.parametrize(
    ("end", "status"), [("raise ValueError", "FAILED"), ("os._exit(9)", "KILLED")]
)
def test_a_run_that_did_not_end_well_says_so(place, local, end, status):
    script = (
        "import os\nfrom cnnClassifier.entity.config_entity import TrackingConfig\n"
        "from cnnClassifier.tracking.tracker import track\n"
        f"with track(TrackingConfig(uri={local.uri!r}, experiment='chest', "
        f"registered_model='m', params={{}}), 'tiny', {{}}) as tracker:\n"
        f"    tracker.metrics({{'loss': 0.5}}, 1)\n    {end}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        capture_output=True,
        check=False,
    )
    assert done.returncode != 0

    def ended():
        return [run for run in runs()[1] if run.info.status != "RUNNING"]

    (run,) = until(ended, 0.1)
    figures = {
        name: value for name, value in run.data.metrics.items() if not name.startswith("system/")
    }
    assert (run.info.status, figures) == (status, {"loss": 0.5})


def test_nowhere_takes_everything():
    with track(None, "tiny", {}) as tracker:
        tracker.child("fold").metrics({"loss": 0.5}, 1)
    untracked().finish()
