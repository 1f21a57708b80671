"""The pipeline on data and a feature cache in S3 gives what it gives on local ones."""

import logging
import os
import re
import subprocess
import sys
from collections import Counter

import pandas as pd
import pytest

from cnnClassifier.utils.object_store import RemoteFolder
from image_patterns import parse_patterns, write_patterns
from tests.archives import read_files
from tests.clusters import ONE_THREAD, dask_cluster
from tests.object_stores import SECRET, s3_server
from tests.project import ROOT, patterns, write_project

IDENTICAL = [
    "data_validation/manifest.csv",
    "training/model.keras",
    "training/out_of_fold.csv",
    "training/ood_detector.npz",
    "evaluation/predictions.csv",
]
PARAMS = {"IMAGE_SIZE": [96, 96, 3], "EPOCHS": 2, "FOLDS": 3, "REPEATS": 1, "VIEWS": 2}
KILLED = """
import os, sys
from cnnClassifier.utils.object_store import open_store
store, folder = open_store(sys.argv[1])
stream = store.open_output_stream(f"{folder}/half", compression=None)
stream.write(bytes(20_000_000))
os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two classes of 12 images, one of them damaged."""
    folder = tmp_path_factory.mktemp("images")
    write_patterns(folder, parse_patterns(patterns(groups=12, size=128, seed=3)))
    (folder / "normal/damaged.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def s3(images):
    """Return the address of a server that has the images, with its requests in a list."""
    requests = []
    logger = logging.getLogger("werkzeug")
    handler = logging.Handler()
    handler.emit = lambda record: requests.append(record.getMessage())
    with s3_server({f"scans/{name}": data for name, data in read_files(images).items()}) as url:
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        yield url, requests
        logger.removeHandler(handler)


def run(folder, *words, code=0, **environment):
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment},
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def assert_same_outputs(folder, expected):
    for name in IDENTICAL:
        path = f"artifacts/{name}"
        assert (folder / path).read_bytes() == (expected / path).read_bytes(), name


@pytest.mark.full
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_data_and_cache_in_s3(tmp_path, images, s3):
    url, requests = s3
    credentials = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
        **ONE_THREAD,
    }
    changes = {"evaluation.bootstrap_samples": 100, "training.int8": False}
    local = write_project(
        tmp_path / "local", changes | {"data_ingestion.source_URL": str(images)}, PARAMS
    )
    run(local, ROOT / "main.py", **ONE_THREAD)
    changes["data_ingestion.copy"] = False
    changes["training.cache_dir"] = "s3://clinic/cache"
    remote = write_project(
        tmp_path / "remote", changes | {"data_ingestion.source_URL": "s3://clinic/scans"}, PARAMS
    )
    run(remote, ROOT / "main.py", **credentials)
    assert_same_outputs(remote, local)
    data = read_files(remote / "artifacts/data_ingestion/data")
    assert set(data) == {"source_files.feather"}
    manifest = pd.read_csv(remote / "artifacts/data_validation/manifest.csv")
    assert manifest["reason"].notna().sum() == 1
    assert not (remote / ".cache/features").exists()
    # The second training reads all features from the store, and gives the same model.
    requests.clear()
    log = run(remote, ROOT / "main.py", "--only", "training", **credentials)
    assert "0 forward passes" in log
    model = "artifacts/training/model.keras"
    assert (remote / model).read_bytes() == (local / model).read_bytes()
    # Each read takes two requests, and the cache is listed once.
    methods = Counter(re.findall(r"(GET|HEAD) /clinic", " ".join(requests)))
    assert methods["GET"] == methods["HEAD"] + 1
    # The workers of a cluster read the images from the store, and write the features into it.
    changes |= {"training.cache_dir": "s3://clinic/of-cluster", "parallel.engine": "dask"}
    clustered = write_project(
        tmp_path / "dask", changes | {"data_ingestion.source_URL": "s3://clinic/scans"}, PARAMS
    )
    with dask_cluster(tmp_path, **credentials) as client:
        address = {"DASK_SCHEDULER_ADDRESS": client.scheduler.address}
        log = run(clustered, ROOT / "main.py", **credentials, **address)
    assert "dask: 2 workers at " in log
    assert_same_outputs(clustered, local)
    # A killed upload is no file.
    run(remote, "-c", KILLED, "s3://clinic/cache", code=-9, **credentials)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in credentials.items():
            patch.setenv(name, value)
        assert "half" not in RemoteFolder("s3://clinic/cache").list_files()
    # A store that can't be reached stops a stage with one line.
    message = run(
        remote,
        *(ROOT / "main.py", "--only", "training"),
        code=1,
        **credentials | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
    )
    assert "s3://clinic/cache/" in message
    assert "AWS_ACCESS_KEY_ID" in message
    assert SECRET not in message
    assert "Traceback" not in message
