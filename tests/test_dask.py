"""Acceptance of the cluster: real schedulers, workers that are killed, the bytes of one machine."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.clusters import ONE_THREAD, dask_cluster
from tests.project import patterns, write_project
from tests.test_pipeline import copy_repository, run
from tests.waiting import until

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL"),
]

STEPS = {
    "data_validation": ["dvc", "repro", "data_validation"],
    "training": ["dvc", "repro", "training"],
    "evaluation": ["dvc", "repro", "evaluation"],
    # The same path in all projects: the parts contain it.
    "score": ["python", "main.py", "score", "SOURCE", "--out", "scored", "--part-size", "40"],
}


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A project whose steps ran on one machine."""
    folder = copy_repository(tmp_path_factory.mktemp("local"))
    write_project(
        folder,
        config={
            "data_ingestion.source_URL": patterns(groups=60, size=96, seed=3),
            "evaluation.bootstrap_samples": 100,
        },
        params={"IMAGE_SIZE": [96, 96, 3], "EPOCHS": 2, "FOLDS": 3, "REPEATS": 1},
    )
    run(folder, "dvc", "repro", "data_ingestion")
    images = sorted((folder / "artifacts/data_ingestion/data").rglob("*.png"))
    STEPS["score"][3] = str(folder / "images.csv")
    (folder / "images.csv").write_text("\n".join(["path", *map(str, images)]))
    new = shutil.copytree(folder, tmp_path_factory.mktemp("copies") / "new")
    for words in STEPS.values():
        run(folder, *words, **ONE_THREAD)
    return folder, new


@pytest.fixture
def cluster(tmp_path):
    """A scheduler with two workers; return a client."""
    with dask_cluster(tmp_path) as client:
        yield client


def tree(folder):
    """The content of each file that a step wrote, by path."""
    paths = [folder / "dvc.lock"]
    for name in ("artifacts", ".cache/features", "scored"):
        paths += (path for path in (folder / name).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def kill_a_worker(client):
    """Kill a worker while it works on a batch; return its process ID."""

    def busy():
        tasks = client.processing()
        return [worker for worker, keys in tasks.items() if any("_run" in key for key in keys)]

    address = until(busy)[0]
    pid = client.run(os.getpid, workers=[address])[address]
    os.kill(pid, signal.SIGKILL)
    return pid


@pytest.mark.parametrize("kill", [False, True])
def test_two_workers_give_the_bytes_of_one_machine(local, cluster, tmp_path, kill):
    expected, new = local
    folder = shutil.copytree(new, tmp_path / "project")
    path = folder / "config/config.yaml"
    config = yaml.safe_load(path.read_text())
    config["parallel"] = {"engine": "dask", "scheduler": None, "workers": None}
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    environment = {**os.environ, **ONE_THREAD, "DASK_SCHEDULER_ADDRESS": cluster.scheduler.address}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for step, words in STEPS.items():
        with subprocess.Popen(
            words, cwd=folder, env=environment, text=True, stderr=subprocess.PIPE
        ) as process:
            if kill and step != "evaluation":
                killed = kill_a_worker(cluster)
            _, messages = process.communicate()
        assert process.returncode == 0, messages
        assert "dask: 2 workers at " in messages
        if kill and step != "evaluation":
            until(lambda: len(cluster.nthreads()) == 2)  # the nanny starts another one
            assert killed not in cluster.run(os.getpid).values()
    actual, wanted = tree(folder), tree(expected)
    assert actual.keys() == wanted.keys()
    assert [name for name in wanted if actual[name] != wanted[name]] == []
    assert {"artifacts/training/model.keras", "scored/part-000002.parquet"} <= actual.keys()


def test_ctrl_c_cancels_what_has_not_started(local, cluster, tmp_path):
    folder = shutil.copytree(local[1], tmp_path / "project")
    words = [sys.executable, "main.py", "--only", "data_validation"]
    text = (folder / "config/config.yaml").read_text()
    (folder / "config/config.yaml").write_text(text.replace("engine: local", "engine: dask"))
    environment = {**os.environ, "DASK_SCHEDULER_ADDRESS": cluster.scheduler.address}
    with subprocess.Popen(
        words, cwd=folder, env=environment, text=True, stderr=subprocess.PIPE
    ) as process:
        until(lambda: any(cluster.processing().values()))
        process.send_signal(signal.SIGINT)
        _, messages = process.communicate()
    assert process.returncode == 130
    assert messages.endswith("data_validation: stopped\n")
    until(lambda: not any(cluster.processing().values()))
    assert list((folder / ".cache").iterdir()) == []
