import logging
import os
from pathlib import Path

import pytest

from cnnClassifier.entity.config_entity import ProjectConfig, TrackingConfig


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """Run in a folder of the test's own; restore the environment."""
    before = dict(os.environ)
    for name in before:
        if name.startswith(("MLFLOW_", "DAGSHUB_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """Create MLflow's tables once: that takes longer than most tests."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path.read_bytes()


@pytest.fixture
def local(project, empty_database):
    """Put an empty database into the project, and return its configuration."""
    Path("mlflow.db").write_bytes(empty_database)
    return TrackingConfig(
        uri="sqlite:///mlflow.db",
        project=ProjectConfig(name="chest-ct"),
        params={"SEED": 42, "WEIGHTS": None},
    )


@pytest.fixture
def terminal(caplog, monkeypatch):
    """Return what is logged to the terminal."""
    monkeypatch.setattr(logging.getLogger("cnnClassifier"), "propagate", True)
    caplog.set_level(logging.INFO, "cnnClassifier")
    return caplog


@pytest.fixture
def server(tracking_server):
    """Return the running MLflow server."""
    return tracking_server
