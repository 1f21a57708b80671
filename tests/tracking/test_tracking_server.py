"""Against a real server: as it is, and behind a proxy that hides what small servers lack."""

import base64
import dataclasses
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from contextlib import nullcontext, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cnnClassifier.entity.bundle import BUNDLE_FILES, ModelBundle
from cnnClassifier.entity.config_entity import ProjectConfig, TrackingConfig
from cnnClassifier.tracking import registry
from cnnClassifier.tracking.connection import TrackingError, credentials
from cnnClassifier.tracking.evaluation_lookup import find_evaluation
from cnnClassifier.tracking.model_poller import ModelPoller
from cnnClassifier.tracking.runs import start_run
from cnnClassifier.tracking.store import open_local
from cnnClassifier.tracking.sync import sync
from tests.mlflow_server import LACKING, runs_of, without
from tests.project import ROOT, write_project
from tests.serving.client import post
from tests.waiting import PATIENCE_S, reserved_port, until, wait_for

pytestmark = pytest.mark.slow

USER = {"id": 1, "login": "me", "username": "me", "full_name": "Me"}
REPOSITORY = {
    **dict.fromkeys(
        ("id", "size", "stars_count", "forks_count", "watchers_count", "open_issues_count"), 1
    ),
    **dict.fromkeys(
        ("name", "full_name", "description", "html_url", "clone_url", "created_at", "updated_at"),
        "repo",
    ),
    **dict.fromkeys(("private", "fork", "empty", "mirror"), False),
    **{"owner": USER, "default_branch": "main"},
}

PREDICT = """
import io, mlflow, pandas as pd, sys
from PIL import Image
buffer = io.BytesIO()
Image.new("L", (50, 40), 255).save(buffer, "PNG")
answer = mlflow.pyfunc.load_model(sys.argv[1]).predict(pd.DataFrame({"image": [buffer.getvalue()]}))
print(answer.to_json(orient="records"))
"""


@pytest.fixture
def log_in(project, empty_database, monkeypatch):
    """Log in to a server, and return its configuration."""
    (project / "mlflow.db").write_bytes(empty_database)

    def log_in(server, experiment):
        for key, value in server.environment.items():
            monkeypatch.setenv(key, value)
        return TrackingConfig(
            uri=server.uri,
            project=ProjectConfig(name=experiment),
            params={"SEED": 42},
        )

    return log_in


def log_evaluated(config, bundle):
    """Log a run with a child run and a model, as evaluation leaves it."""
    Path("scores.json").write_text("{}")
    with start_run(config, "tiny", {"synthetic": "True"}) as run:
        for epoch in (1, 2):
            run.log_metrics({"loss": 1 / epoch}, epoch)
        child = run.child_run("fold 1")
        child.log_metrics({"roc_auc": 0.75})
        child.finish()
        run.log_artifacts([Path("scores.json")], "evaluation")
        run.log_model(bundle)
        sha256 = ModelBundle.read(bundle).model_sha256
        run.set_tags({"model_sha256": sha256, "gates_not_met": "none", "state": "evaluated"})
        run.register_candidate()
    return run.id


def errors_of(terminal):
    messages = [
        record.getMessage() for record in terminal.records if record.levelno == logging.ERROR
    ]
    assert not any("\n" in message for message in messages)
    return messages


@pytest.mark.parametrize(
    "hidden", [False, True], ids=["as it is", "without logged models and registry"]
)
def test_a_server_gets_all_that_it_supports(project, server, log_in, tiny_bundle, terminal, hidden):
    with without(LACKING, server) if hidden else nullcontext(server) as visible:
        config = log_in(visible, f"hidden-{hidden}".lower())
        local_id = log_evaluated(config, tiny_bundle)
        client, (run, child) = runs_of(config)
        run_id = run.info.run_id
        assert run.data.tags["local_run_id"] == local_id != run_id
        assert child.data.tags["mlflow.parentRunId"] == run_id
        assert (run.info.status, child.info.status) == ("FINISHED", "FINISHED")
        assert run.data.params == {"SEED": "42"}
        assert [point.step for point in client.get_metric_history(run_id, "loss")] == [1, 2]
        names = {item.path for item in client.list_artifacts(run_id)}
        assert names == {"evaluation", "model"}
        assert f"#/experiments/{run.info.experiment_id}/runs/{run_id}" in terminal.text
        lacking = re.findall("the server has no ([a-z ]+)", terminal.text)
        if hidden:
            assert lacking == ["logged models ", "registry of models "]
            with pytest.raises(TrackingError, match="has no registry of models"):
                registry.promote(config, run_id, False, "")
        else:
            assert lacking == []
            version = client.get_model_version_by_alias(config.registered_model, "candidate")
            assert (version.run_id, version.source[:8]) == (run_id, "models:/")
        reference = f"runs:/{run_id}/model"
        done = subprocess.run(
            [sys.executable, "-c", PREDICT, reference],
            capture_output=True,
            text=True,
            check=False,
            cwd=project.parent,
        )
        assert done.returncode == 0, done.stderr
        (answer,) = json.loads(done.stdout)
        assert answer["class"] == "adenocarcinoma"
        assert answer["model_id"] == ModelBundle.read(tiny_bundle).model_id
        poller = ModelPoller(reference, config.uri, project / "cache")
        assert poller.fetch()
        for name in BUNDLE_FILES:
            assert (poller.folder / name).read_bytes() == (tiny_bundle / name).read_bytes()


def test_epochs_reach_the_server_while_the_run_goes_on(server, log_in):
    config = log_in(server, "live")
    with start_run(config, "tiny", {}) as run:
        run.log_metrics({"loss": 0.5}, 1)
        fold = run.child_run("fold 1")
        fold.log_metrics({"roc_auc": 0.75})

        def arrived():
            with suppress(AttributeError):  # there is no experiment yet
                _, runs = runs_of(config)
                return len(runs) == 2 and "roc_auc" in runs[1].data.metrics and runs

        live, live_child = until(arrived, 0.1)
        assert (live.info.status, live.data.metrics) == ("RUNNING", {"loss": 0.5})
        fold.finish()
        run.log_metrics({"loss": 0.25}, 2)
    client, (run, child) = runs_of(config)
    assert (run.info.run_id, child.info.run_id) == (live.info.run_id, live_child.info.run_id)
    assert [point.step for point in client.get_metric_history(live.info.run_id, "loss")] == [1, 2]
    assert len(client.get_metric_history(child.info.run_id, "roc_auc")) == 1
    assert (run.info.status, child.info.status) == ("FINISHED", "FINISHED")

    with open_local(config) as local:  # as if the process had been killed
        local.client.set_terminated(run.data.tags["local_run_id"], "KILLED")
        local.client.set_tag(run.data.tags["local_run_id"], "synced", "False")
    client.update_run(run.info.run_id, "RUNNING")
    with start_run(config, "next", {}):
        pass
    assert client.get_run(run.info.run_id).info.status == "KILLED"


def test_a_wrong_password_costs_one_line(project, server, log_in, tiny_bundle, terminal):
    config = log_in(dataclasses.replace(server, password="wrong"), "chest")
    log_evaluated(config, tiny_bundle)
    (error,) = errors_of(terminal)
    assert f"{server.uri}: user or password refused (401)" in error
    for refused in (sync, lambda config, _: registry.promote(config, None, False, "")):
        with pytest.raises(TrackingError, match="401") as caught:
            refused(config, print)
        assert "\n" not in str(caught.value)
    with pytest.raises(TrackingError, match="401"):
        ModelPoller("models:/m@production", config.uri, project / "cache").fetch()


@pytest.mark.parametrize("state", ["down", "broken"])
def test_sync_completes_the_same_run_once(server, log_in, tiny_bundle, terminal, state):
    with without(re.compile("model.keras$"), server, 503) as proxy, reserved_port() as port:
        config = log_in(proxy, f"sync-{state}")
        uri = proxy.uri if state == "broken" else f"http://127.0.0.1:{port}"
        local_id = log_evaluated(config.model_copy(update={"uri": uri}), tiny_bundle)
        assert "NOT LOGGED TO MLFLOW'S SERVER" in errors_of(terminal)[0]
        if state == "broken":
            assert len(runs_of(config)[1]) == 2
        proxy.hides = False
        assert sync(config, print) == 1
        client, (run, _) = runs_of(config)
        run_id = run.info.run_id
        assert (run.info.status, run.data.params) == ("FINISHED", {"SEED": "42"})
        assert [point.step for point in client.get_metric_history(run_id, "loss")] == [1, 2]
        assert {item.path for item in client.list_artifacts(run_id)} == {"evaluation", "model"}
        version = client.get_model_version_by_alias(config.registered_model, "candidate")
        assert version.run_id == run_id
        assert len(client.search_logged_models([run.info.experiment_id])) == 1
        assert sync(config, print) == 0
        assert len(runs_of(config)[1]) == 2
        for number, found_id in enumerate((local_id, run_id)):
            target = Path(f"found{number}")
            target.mkdir()
            found = find_evaluation(found_id, Path("artifacts/evaluation"), config, target)
            assert (found.folder / "scores.json").read_text() == "{}"
    with pytest.raises(TrackingError, match="no server"):
        sync(config.model_copy(update={"uri": "sqlite:///mlflow.db"}), print)


@pytest.mark.full
def test_mlflow_serves_it(project, server, log_in, tiny_bundle, picture, monkeypatch):
    config = log_in(server, "served")
    with start_run(config, "tiny", {}) as run:
        run.log_model(tiny_bundle)
    _, (run,) = runs_of(config)
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "serve",
        "-m",
        f"runs:/{run.info.run_id}/model",
    ]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--workers", "1", "--port"]
    monkeypatch.setenv(
        "PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )  # it calls uvicorn
    with (
        reserved_port() as port,
        (project / "serve.log").open("w") as out,
        subprocess.Popen(
            [*command, str(port)], stdout=out, stderr=out, start_new_session=True
        ) as process,  # with its children
    ):
        try:
            wait_for(f"http://127.0.0.1:{port}/ping", process)
            body = {"dataframe_records": [{"image": base64.b64encode(picture(255)).decode()}]}
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/invocations",
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
                (answer,) = json.load(response)["predictions"]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
    assert answer["class"] == "adenocarcinoma"


def test_the_credentials_are_those_that_dagshubs_own_client_takes(project, monkeypatch):
    asked = []

    class Stub(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.command, self.path))
            answer = json.dumps(USER if self.path.endswith("/user") else REPOSITORY).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_GET

        def log_message(self, *args):
            pass

    stub = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    threading.Thread(target=stub.serve_forever, daemon=True).start()
    host = f"http://127.0.0.1:{stub.server_port}"
    monkeypatch.setenv("DAGSHUB_CLIENT_HOST", host)
    monkeypatch.setenv("DAGSHUB_USER_TOKEN", "token")
    script = (
        "import dagshub, json, os\ndagshub.init('repo', 'me')\nprint(json.dumps(dict(os.environ)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=project
    )
    stub.shutdown()
    stub.server_close()
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.strip().splitlines()[-1])
    assert theirs["MLFLOW_TRACKING_URI"] == f"{host}/me/repo.mlflow"
    ours = credentials(theirs["MLFLOW_TRACKING_URI"])
    assert ours["MLFLOW_TRACKING_PASSWORD"] == theirs["MLFLOW_TRACKING_PASSWORD"] == "token"
    assert {command for command, _ in asked} == {"GET"}


def test_the_running_app_follows_both_aliases(project, server, log_in, write_bundle, picture):
    config = log_in(server, "production")
    bundles = [write_bundle(project / f"bundle{number}", slope=2.0 + number) for number in range(2)]
    first, second = (ModelBundle.read(bundle).model_id for bundle in bundles)
    write_project(project, {"serving.model_poll_interval_s": 0.5})

    def wait_until_used(url, production, candidate):
        def is_used():
            status, _, results = post(url, picture())
            if status != 200:
                return False
            found = [results[0]["model"], results[0]["compared"].get("model")]
            return found == [production, candidate]

        until(is_used, 0.2)

    first_run = log_evaluated(config, bundles[0])
    assert registry.promote(config, first_run, False, "") == "1"  # by its id in the local database
    model = f"models:/{config.registered_model}"
    command = [sys.executable, str(ROOT / "app.py"), "--port", "0"]
    command += ["--model", f"{model}@production", "--compare", f"{model}@candidate"]
    with (
        (project / "app.log").open("w") as log_file,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log_file, text=True) as app,
    ):
        try:
            url = app.stdout.readline().split()[1]
            wait_until_used(url, first, first)
            log_evaluated(config, bundles[1])
            wait_until_used(url, first, second)
            registry.promote(config, None, False, "better")  # the candidate
            wait_until_used(url, second, second)
            registry.rollback(config, "it was not")
            wait_until_used(url, first, second)
        finally:
            app.terminate()
    with pytest.raises(TrackingError, match="no version was in production before"):
        registry.rollback(config, "")
