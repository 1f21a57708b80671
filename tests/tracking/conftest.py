import logging
import os

import pytest

from cnnClassifier.entity.config_entity import TrackingConfig


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


@pytest.fixture(scope="session")
def made_store(tmp_path_factory):
    """Make the tables of a local store once: that takes longer than most tests."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def local(place, made_store):
    """Put an empty local store into the folder, and return what writes there."""
    (place / "mlflow.db").write_bytes(made_store.read_bytes())
    return TrackingConfig(
        uri="sqlite:///mlflow.db",
        experiment="chest",
        registered_model="chest-ct",
        params={"SEED": 42, "WEIGHTS": None},
    )


@pytest.fixture
def server(tracking_server):
    """Return the running MLflow server."""
    return tracking_server


@pytest.fixture
def said(caplog, monkeypatch):
    """What goes to the terminal."""
    monkeypatch.setattr(logging.getLogger("cnnClassifier"), "propagate", True)
    caplog.set_level(logging.INFO, "cnnClassifier")
    return caplog
