import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from cnnClassifier.tracking.mlflow_run import RunContent, TrackingError, log_run


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder of its own to run in; the environment is afterwards as it was."""
    kept = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "DAGSHUB_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    os.environ.clear()
    os.environ.update(kept)


@pytest.fixture
def content(place):
    for name in ("model.keras", "scores.json"):
        (place / name).write_bytes(os.urandom(5000))
    return RunContent(
        params={"SEED": 42, "SPLIT": [0.6, 0.2, 0.2], "WEIGHTS": None},
        metrics={"roc_auc": 0.75, "loss": 0.5},
        tags={"synthetic": "True"},
        history={"val_loss": [0.9, 0.7, 0.8], "accuracy": [0.5 + step / 2000 for step in range(1000)]},
        files={"model": [place / "model.keras"], "": [place / "scores.json"]},
    )


def check(uri, run_id, content, place):
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    client = MlflowClient(tracking_uri=uri)
    run = client.get_run(run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "VGG16 abc")
    assert client.get_experiment(run.info.experiment_id).name == "chest"
    assert run.data.params == {"SEED": "42", "SPLIT": "[0.6, 0.2, 0.2]", "WEIGHTS": "None"}
    assert {name: run.data.metrics[name] for name in content.metrics} == content.metrics
    assert run.data.tags["synthetic"] == "True"
    for name, values in content.history.items():
        points = client.get_metric_history(run_id, name)
        assert sorted((point.step, point.value) for point in points) == list(enumerate(values, start=1))
    for path, source in (("model/model.keras", "model.keras"), ("scores.json", "scores.json")):
        found = download_artifacts(run_id=run_id, artifact_path=path, tracking_uri=uri, dst_path=str(place / "got"))
        with open(found, "rb") as file:
            assert file.read() == (place / source).read_bytes()


def test_a_run_in_a_file_holds_all_that_was_given(place, content, capfd):
    uri = f"sqlite:///{place / 'mlflow.db'}"
    first = log_run(uri, "chest", "VGG16 abc", content)
    assert capfd.readouterr() == ("", "")
    check(uri, first, content, place)
    subprocess.run(["git", "init", "-q"], check=True)
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    second = log_run(uri, "chest", "VGG16 abc", content)
    assert second != first

    from mlflow import MlflowClient

    tags = [MlflowClient(tracking_uri=uri).get_run(run).data.tags for run in (first, second)]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert [tag.get("mlflow.source.git.commit") for tag in tags] == [None, commit]
    assert tags[1]["git_dirty"] == "True"

    (place / "model.keras").unlink()
    with pytest.raises(TrackingError, match=r"model\.keras"):
        log_run(uri, "chest", "broken", content)
    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("chest").experiment_id])
    assert sorted(run.info.status for run in runs) == ["FAILED", "FINISHED", "FINISHED"]


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://user:secret@127.0.0.1:{port}", "http://127.0.0.1:{port}: "),
        ("https://dagshub.com/user/repo.mlflow", "no credentials; set DAGSHUB_USER_TOKEN, or MLFLOW_TRACKING_USERNAME"),
        ("http://user:secret@127.0.0.1:{port}/dagshub.com", "http://127.0.0.1:{port}/dagshub.com: "),
        ("sqlite:///model.keras/store.db", "sqlite:///model.keras/store.db: "),
        ("nonsense://there", "nonsense://there: "),
    ],
)
def test_a_server_that_does_not_answer_costs_one_line_without_the_password(content, monkeypatch, caplog, uri, said):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(TrackingError) as caught:
        log_run(uri.format(port=port), "chest", "VGG16 abc", content)
    message = str(caught.value)
    assert said.format(port=port) in message
    assert "\n" not in message
    chain = [caught.value]
    while chain[-1].__cause__ or (chain[-1].__context__ and not chain[-1].__suppress_context__):
        chain.append(chain[-1].__cause__ or chain[-1].__context__)
    assert "secret" not in "".join(map(str, chain)) + caplog.text


def test_dagshubs_token_is_user_and_password(content, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("DAGSHUB_USER_TOKEN", "token")
    with pytest.raises(TrackingError):  # a loopback address whose path merely names the host
        log_run("http://127.0.0.1:9/dagshub.com", "chest", "VGG16 abc", content)
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("token", "token")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "own")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    with pytest.raises(TrackingError):
        log_run("http://127.0.0.1:9/dagshub.com", "chest", "VGG16 abc", content)
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("me", "own")


@pytest.mark.slow
def test_a_run_on_a_server_holds_all_that_was_given(place, content):
    with socket.create_server(("127.0.0.1", 0)) as free:
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", uri.rpartition(":")[2]]
    command += ["--backend-store-uri", f"sqlite:///{place / 'server.db'}", "--workers", "1"]
    command += ["--artifacts-destination", str(place / "store")]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            for _ in range(240):
                try:
                    urllib.request.urlopen(f"{uri}/health", timeout=2).close()
                    break
                except OSError:
                    assert server.poll() is None
                    time.sleep(0.5)
            run_id = log_run(uri, "chest", "VGG16 abc", content)
            check(uri, run_id, content, place)
        finally:
            server.terminate()
