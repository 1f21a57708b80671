"""Against a real server: as it is, and behind a proxy that hides what small servers lack."""

import base64
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from contextlib import nullcontext, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.entity.config_entity import TrackingConfig
from cnnClassifier.tracking.connection import TrackingError, credentials
from cnnClassifier.tracking.model_poller import ModelPoller
from cnnClassifier.tracking.registry import Registry
from cnnClassifier.tracking.sync import sync
from cnnClassifier.tracking.tracker import track
from tests.mlflow_server import LACKING, without
from tests.waiting import PATIENCE_S, reserved_port, until, wait_for

ROOT = Path(__file__).resolve().parents[2]

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
def enter(place, monkeypatch):
    """Log in to a server, and return what writes there."""
    # The same file by its whole path: in one process MLflow keeps a store for each address.
    monkeypatch.setattr("cnnClassifier.tracking.sync.LOCAL_STORE", f"sqlite:///{place}/mlflow.db")

    def enter(server, experiment):
        for key, value in server.environment.items():
            monkeypatch.setenv(key, value)
        return TrackingConfig(
            uri=server.uri,
            experiment=experiment,
            registered_model=f"{experiment}-model",
            params={"SEED": 42},
        )

    return enter


def log(config, bundle, scores):
    tags = {
        "model_sha256": ModelBundle.read(bundle).model_sha256,
        "gates_not_met": "none",
        "state": "evaluated",
    }
    with track(config, "tiny", {"synthetic": "True"}) as tracker:
        for epoch in (1, 2):
            tracker.metrics({"loss": 1 / epoch}, epoch)
        tracker.child("fold 1").metrics({"roc_auc": 0.75})
        tracker.dataset("test", "abc", "phantom:", {"images": 3})
        tracker.files("evaluation", [scores])
        tracker.model(bundle)
        tracker.register(config.registered_model, {"model_sha256": tags["model_sha256"]})
        tracker.tags(tags)


def found(config):
    from mlflow import MlflowClient

    client = MlflowClient(config.uri, config.uri)
    experiment = client.get_experiment_by_name(config.experiment)
    every = client.search_runs([experiment.experiment_id]) if experiment else []
    return client, [run for run in every if "mlflow.parentRunId" not in run.data.tags], len(every)


@pytest.mark.parametrize(
    "hidden", [False, True], ids=["as it is", "without logged models and registry"]
)
def test_a_server_gets_all_that_it_can_take(place, server, enter, tiny_bundle, said, hidden):
    from mlflow.artifacts import download_artifacts

    (place / "scores.json").write_text("{}")
    with without(LACKING, server) if hidden else nullcontext(server) as reached:
        config = enter(reached, f"hidden-{hidden}")
        log(config, tiny_bundle, place / "scores.json")
        client, (run,), every = found(config)
        assert (run.info.status, every) == ("FINISHED", 2)
        assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == [
            1,
            2,
        ]
        for name in ("model.keras", "model.json", "ood_detector.npz"):
            got = download_artifacts(
                run_id=run.info.run_id,
                artifact_path=f"model/{name}",
                tracking_uri=config.uri,
                dst_path=str(place),
            )
            assert Path(got).read_bytes() == (tiny_bundle / name).read_bytes()
        lacking = [
            record.getMessage()
            for record in said.records
            if "the server has no" in record.getMessage()
        ]
        if hidden:
            assert [line.partition(" (")[0] for line in lacking] == [
                "MLflow: the server has no logged models",
                "MLflow: the server has no registry of models",
            ]
        else:
            assert lacking == []
            version = client.get_model_version_by_alias(config.registered_model, "candidate")
            assert (version.run_id, version.source.startswith("models:/")) == (
                run.info.run_id,
                True,
            )
        reference = f"runs:/{run.info.run_id}/model"
        done = subprocess.run(
            [sys.executable, "-c", PREDICT, reference],
            capture_output=True,
            text=True,
            check=False,
            cwd=place.parent,
        )
        assert done.returncode == 0, done.stderr
        (answer,) = json.loads(done.stdout)
        assert (answer["class"], answer["model_id"]) == (
            "adenocarcinoma",
            ModelBundle.read(tiny_bundle).model_id,
        )
        follower = ModelPoller(reference, config.uri, place / "cache")
        assert follower.fetch()
        assert (follower.folder / "model.keras").read_bytes() == (
            tiny_bundle / "model.keras"
        ).read_bytes()
        if hidden:
            with pytest.raises(TrackingError, match="has no registry of models"):
                Registry(config, print).promote(run.info.run_id, False, "")


def test_a_wrong_password_costs_one_line(place, server, enter, tiny_bundle, said, local):
    config = enter(server.model_copy(update={"password": "wrong"}), "chest")
    log(config, tiny_bundle, place / "mlflow.db")
    (error,) = (record.getMessage() for record in said.records if record.levelno == logging.ERROR)
    assert f"{server.uri}: user or password refused (401)" in error
    assert "\n" not in error
    for refused in (lambda: sync(config, print), lambda: Registry(config, print)):
        with pytest.raises(TrackingError) as caught:
            refused()
        assert "\n" not in str(caught.value)
    with pytest.raises(TrackingError, match="401"):
        ModelPoller("models:/m@production", config.uri, place / "cache").fetch()


def test_what_did_not_reach_the_server_is_sent_once(place, server, enter, tiny_bundle, said, local):
    (place / "scores.json").write_text("{}")
    config = enter(server, "sent-later")
    with reserved_port() as nobodys:
        log(
            config.model_copy(update={"uri": f"http://127.0.0.1:{nobodys}"}),
            tiny_bundle,
            place / "scores.json",
        )
    assert sync(config, print) == 2
    client, (run,), every = found(config)
    assert (every, run.info.status, run.data.params) == (2, "FINISHED", {"SEED": "42"})
    assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == [1, 2]
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"evaluation", "model"}
    assert (
        client.get_model_version_by_alias(config.registered_model, "candidate").run_id
        == run.info.run_id
    )
    assert sync(config, print) == 0
    assert found(config)[2] == 2
    with pytest.raises(TrackingError, match="no server"):
        sync(config.model_copy(update={"uri": "sqlite:///mlflow.db"}), print)


def test_a_sending_that_was_cut_off_is_begun_anew(
    place, server, enter, tiny_bundle, local, monkeypatch
):
    from cnnClassifier.tracking.mlflow_store import Store

    config = enter(server, "cut-off")
    with reserved_port() as nobodys:
        log(
            config.model_copy(update={"uri": f"http://127.0.0.1:{nobodys}"}),
            tiny_bundle,
            place / "mlflow.db",
        )
    with monkeypatch.context() as patch:
        patch.setattr(Store, "log_model", lambda *_: exec('raise OSError("the cable")'))
        with pytest.raises(TrackingError, match="the cable"):
            sync(config, print)
    assert found(config)[2] == 1
    sync(config, print)
    _, (run,), every = found(config)
    assert (every, run.data.tags["sent"]) == (2, "whole")


def test_mlflow_serves_it(place, server, enter, tiny_bundle, picture, monkeypatch):
    config = enter(server, "served")
    with track(config, "tiny", {}) as tracker:
        tracker.model(tiny_bundle)
    _, (run,), _ = found(config)
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
        (place / "serve.log").open("w") as out,
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


def test_the_credentials_are_those_that_dagshubs_own_client_takes(place, monkeypatch):
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
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=place
    )
    stub.shutdown()
    stub.server_close()
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.strip().splitlines()[-1])
    assert theirs["MLFLOW_TRACKING_URI"] == f"{host}/me/repo.mlflow"
    ours = credentials(theirs["MLFLOW_TRACKING_URI"])
    assert ours["MLFLOW_TRACKING_PASSWORD"] == theirs["MLFLOW_TRACKING_PASSWORD"] == "token"
    assert {command for command, _ in asked} == {"GET"}


def test_the_running_server_follows_promotion_and_rollback(place, server, enter, write_bundle):
    config = enter(server, "production")
    bundles = [write_bundle(place / f"bundle{number}", slope=2.0 + number) for number in range(2)]
    ids = [ModelBundle.read(bundle).model_id for bundle in bundles]
    for bundle in bundles:
        log(config, bundle, bundle / "model.json")
    _, found_runs, _ = found(config)
    runs = {run.data.tags["model_sha256"][:12]: run.info.run_id for run in found_runs}
    content = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    content["evaluation"] |= {
        "experiment": config.experiment,
        "registered_model": config.registered_model,
    }
    content["serving"]["model_poll_interval_s"] = 0.5
    (place / "config").mkdir()
    (place / "config/config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    (place / "params.yaml").write_text(
        (ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8"
    )

    def command(*words, code=0):
        done = subprocess.run(
            [sys.executable, str(ROOT / "main.py"), *words],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    def served(url):
        with (
            suppress(OSError),
            urllib.request.urlopen(f"{url}/readyz", timeout=PATIENCE_S) as answer,
        ):
            return json.load(answer)["model"]

    def wait_for(url, model_id):
        until(lambda: served(url) == model_id, 0.2)

    assert "version 1" in command("promote", runs[ids[0]])
    line = [
        sys.executable,
        str(ROOT / "app.py"),
        "--port",
        "0",
        "--model",
        f"models:/{config.registered_model}@production",
    ]
    with (
        (place / "app.log").open("w") as log_file,
        subprocess.Popen(line, stdout=subprocess.PIPE, stderr=log_file, text=True) as app,
    ):
        try:
            url = app.stdout.readline().split()[1]
            wait_for(url, ids[0])
            command("promote", "--reason", "better")  # the candidate
            wait_for(url, ids[1])
            command("rollback", "--reason", "it was not")
            wait_for(url, ids[0])
            assert "no version was in production before" in command("rollback", code=1)
            assert served(url) == ids[0]
        finally:
            app.terminate()
