import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from cnnClassifier.entity.manifest import Entry, Manifest
from cnnClassifier.tracking.runs import Run, start_run
from cnnClassifier.tracking.store import open_local
from tests.mlflow_server import runs_of
from tests.waiting import PATIENCE_S, reserved_port

SRC = Path(__file__).resolve().parents[2] / "src"
SCRIPT = """
import os, signal, sys, time
from cnnClassifier.entity.config_entity import ProjectConfig, TrackingConfig
from cnnClassifier.tracking.runs import start_run
project = ProjectConfig(name="chest-ct")
config = TrackingConfig(uri="sqlite:///mlflow.db", project=project, params={})

def kill():
    while "loss" not in run.writer.store.client.get_run(run.id).data.metrics:
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGKILL)

with start_run(config, "tiny", {}) as run:
    run.log_metrics({"loss": 0.5}, 1)
    child = run.child_run("fold 1")
    if "kill" in sys.argv:
        run.writer.submit(kill)
    child.finish()
"""


def script(*arguments):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        env={**os.environ, "PYTHONPATH": str(SRC), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
        stderr=subprocess.PIPE,
        text=True,
    )


def history(client, run, name):
    points = client.get_metric_history(run.info.run_id, name)
    return sorted((point.step, point.value) for point in points)


def error_of(terminal):
    (error,) = (
        record.getMessage() for record in terminal.records if record.levelno == logging.ERROR
    )
    assert "\n" not in error
    return error


def test_a_run_holds_everything_that_was_logged(project, local, tiny_bundle, terminal):
    (project / "scores.json").write_text("{}")
    subprocess.run(["git", "init", "-q"], check=True)
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    command = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    entries = [Entry(f"{n}", "ill", str(n) * 64, f"g{n}", "train") for n in range(3)]
    with start_run(local, "tiny", {"synthetic": "True"}) as run:
        source = "https://user:secret@example.org/scans.zip"
        run.log_datasets(Manifest(tuple(entries)), source, ("train", "test"))
        for epoch in (1, 2):
            run.log_metrics({"loss": 1 / epoch}, epoch)
        fold = run.child_run("fold 1")
        fold.log_metrics({"roc_auc": 0.75})
        fold.finish()
        run.log_history({"loss": [9.0] * 2, "accuracy": [n / 2000 for n in range(2000)]})
        run.log_artifacts([project / "scores.json"], "evaluation")
        run.log_model(tiny_bundle)
        run.register_candidate()
    client, (run, child) = runs_of(local)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "tiny")
    assert run.data.params == {"SEED": "42", "WEIGHTS": "None"}
    assert history(client, run, "loss") == [(1, 1.0), (2, 0.5)]
    assert len(history(client, run, "accuracy")) == 2000
    assert child.data.tags["mlflow.parentRunId"] == run.info.run_id
    assert (child.info.status, child.data.metrics) == ("FINISHED", {"roc_auc": 0.75})
    assert run.data.tags["mlflow.source.git.commit"] == commit
    assert run.data.tags["git_dirty"] == "True"
    (used,) = run.inputs.dataset_inputs
    assert json.loads(used.dataset.profile) == {"images": 3, "groups": 3, "classes": {"ill": 3}}
    assert used.dataset.source == '{"url": "https://example.org/scans.zip"}'
    model = Path(client.download_artifacts(run.info.run_id, "model"))
    assert (model / "model.keras").read_bytes() == (tiny_bundle / "model.keras").read_bytes()
    assert client.get_model_version_by_alias("chest-ct", "candidate").run_id == run.info.run_id
    assert len(client.search_logged_models([run.info.experiment_id])) == 1
    assert f"MLflow run {run.info.run_id}; to see it: mlflow ui" in terminal.text
    assert not list(project.glob("mlflow.db.run-*"))


def test_evaluation_continues_the_run_of_training(local):
    trained = {"model_sha256": "abc", "state": "trained"}
    with start_run(local, "training", {}) as run:
        for step, value in enumerate([0.9, 0.7], 1):
            run.log_metrics({"val_loss": value}, step)
        run.set_tags(trained)
    changed = local.model_copy(update={"params": {"SEED": 43, "FOLDS": 5}})
    for _ in range(2):
        with start_run(changed, "evaluated", {}, trained) as run:
            run.log_history({"val_loss": [0.9, 0.7]})
            run.log_metrics({"roc_auc": 0.8})
            run.set_tags({"state": "evaluated"} | {"model_sha256": "abc"})
    client, (first, second) = runs_of(local)
    for run in (first, second):  # a run that was evaluated already isn't continued
        assert history(client, run, "val_loss") == [(1, 0.9), (2, 0.7)]
        assert (run.info.run_name, run.data.metrics["roc_auc"]) == ("evaluated", 0.8)
    assert first.data.params == {"SEED": "42", "WEIGHTS": "None", "FOLDS": "5"}
    assert second.data.params == {"SEED": "43", "FOLDS": "5"}


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://user:secret@127.0.0.1:{port}/x", "http://127.0.0.1:{port}/x: "),
        ("https://dagshub.com/user/repo.mlflow", "no credentials; set DAGSHUB_USER_TOKEN, or"),
    ],
)
def test_without_a_server_the_run_is_in_the_local_database(local, terminal, uri, message):
    with (
        reserved_port() as port,
        start_run(local.model_copy(update={"uri": uri.format(port=port)}), "tiny", {}) as run,
    ):
        run.log_metrics({"loss": 0.5}, 1)
    error = error_of(terminal)
    assert message.format(port=port) in error
    assert "python main.py sync" in error
    assert "secret" not in terminal.text
    _, (run,) = runs_of(local)
    assert run.data.tags["synced"] == "False"
    assert (run.info.status, run.data.metrics["loss"]) == ("FINISHED", 0.5)


def test_a_silent_server_is_tried_thrice_at_most(local, terminal):
    connections = []
    with socket.create_server(("127.0.0.1", 0)) as silent:

        def accept():
            with suppress(OSError):
                while True:
                    connections.append(silent.accept()[0])

        thread = threading.Thread(target=accept)
        thread.start()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with start_run(local.model_copy(update={"uri": uri}), "tiny", {}) as run:
            run.log_metrics({"loss": 0.5}, 1)
        silent.shutdown(socket.SHUT_RDWR)
        thread.join()
    for connection in connections:
        connection.close()
    assert "timed out" in error_of(terminal)
    assert 1 <= len(connections) <= 3  # of 3 s each
    assert runs_of(local)[1][0].data.metrics["loss"] == 0.5


def test_a_database_that_cannot_be_opened_costs_one_line(project, local, terminal):
    (project / "file").write_text("")
    with start_run(local.model_copy(update={"uri": "sqlite:///file/store.db"}), "tiny", {}) as run:
        run.log_metrics({"loss": 0.5}, 1)
    error = error_of(terminal)
    assert error.startswith("NOT LOGGED TO MLFLOW: sqlite:///file/store.db: ")
    assert "python main.py --only evaluation" in error


def test_a_run_that_fails_is_marked_failed(local):
    with pytest.raises(ValueError, match="boom"), start_run(local, "tiny", {}):
        raise ValueError("boom")
    assert runs_of(local)[1][0].info.status == "FAILED"


def test_the_next_command_marks_a_killed_run(local):
    killed = script("kill")
    assert (killed.communicate(timeout=PATIENCE_S)[1], killed.returncode) == ("", -signal.SIGKILL)
    _, (run, child) = runs_of(local)
    assert (run.info.status, child.info.status) == ("RUNNING", "RUNNING")
    Path(f"mlflow.db.run-{'0' * 32}.lock").touch()  # of a database that was deleted
    with open_local(local) as store:
        ended = [store.client.get_run(found.info.run_id) for found in (run, child)]
    assert [found.info.status for found in ended] == ["KILLED", "KILLED"]
    assert ended[0].data.metrics["loss"] == 0.5
    assert not list(Path().glob("mlflow.db.run-*"))


@pytest.mark.slow
@pytest.mark.full
def test_two_processes_create_the_database_at_once(project):
    processes = [script(), script()]
    for process in processes:
        error = process.communicate()[1]
        assert process.returncode == 0, error
        assert "NOT LOGGED" not in error
    from cnnClassifier.entity.config_entity import ProjectConfig, TrackingConfig

    _, runs = runs_of(
        TrackingConfig(uri="sqlite:///mlflow.db", project=ProjectConfig(name="chest-ct"), params={})
    )
    assert [run.info.status for run in runs] == ["FINISHED"] * 4


def test_a_run_without_configuration_logs_nothing(project):
    with start_run(None, "tiny", {}) as run:
        run.child_run("fold").log_metrics({"loss": 0.5}, 1)
    Run().finish()
    assert not list(project.iterdir())
