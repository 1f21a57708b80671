import io
import logging
import os

import numpy as np
import pytest
from PIL import Image

from cnnClassifier.entity.bundle import (
    FORMAT_VERSION,
    INT8_FILE,
    METADATA_FILE,
    MODEL_FILE,
    OOD_DETECTOR_FILE,
)
from cnnClassifier.network.architecture import add_heads, combine_heads
from cnnClassifier.network.openvino_model import export_openvino, quantize, save_openvino
from cnnClassifier.network.out_of_distribution import OutOfDistributionDetector
from cnnClassifier.utils.common import save_json, sha256_of
from tests.browser import chromium, page_opener
from tests.mlflow_server import mlflow_server

HEADS = {
    "conv_max": {"weight": 0.9, "temperature": 1.0},
    "linear": {"weight": 0.1, "temperature": 1.0},
}


def pytest_collection_modifyitems(items):
    """Run the fast tests first, then the longest file, so that no process is left with it."""

    def order(item):
        is_slow = item.get_closest_marker("slow") is not None
        return is_slow, item.path.name != "test_pipeline.py"

    items.sort(key=order)


@pytest.fixture
def dvc_repo(monkeypatch):
    """DVC's Repo class, without the log handlers that it set up when it was imported."""
    from dvc.repo import Repo

    monkeypatch.setattr(logging.getLogger("dvc"), "handlers", [])
    return Repo


@pytest.fixture(scope="session")
def keras():
    """Keras on TensorFlow, as in the pipeline; a process has one backend."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    assert keras.config.backend() == "tensorflow"
    return keras


@pytest.fixture(scope="session")
def write_bundle(keras):
    """Write a bundle whose model predicts adenocarcinoma for bright spots, else normal.

    It has a local and a linear head for each fold. They agree at the threshold and far from it, and
    disagree in between, where some are more certain than others.
    """

    def write(folder, *, outputs=2, slope=2.0, folds=3, int8=False, **changes):
        image = keras.Input((32, 32, 3))
        x = keras.layers.Rescaling(1 / 255, name="scaled")(image)
        mean = keras.initializers.Constant(1 / 27)
        x = keras.layers.Conv2D(4, 3, kernel_initializer=mean, name="map")(x)
        backbone = keras.Model(image, x)
        model = add_heads(backbone, ["scaled", "map"], "map", "auto", folds, 0.0, outputs, 0)
        sign = np.array([1.0, -1.0, *[0.0] * (outputs - 2)], np.float32)
        for fold in range(folds):
            certainty = slope * (1 + (fold - (folds - 1) / 2) / 2)
            for name in ("mix", "map"):  # channel 0 passes the brightness
                layer = model.get_layer(f"conv_max_{fold}_{name}")
                kernel, bias = map(np.zeros_like, layer.get_weights())
                kernel[kernel.shape[0] // 2, kernel.shape[1] // 2, 0, 0] = 1
                layer.set_weights([kernel, bias])
            for kind in HEADS:
                head = model.get_layer(f"{kind}_{fold}")
                kernel, _ = map(np.zeros_like, head.get_weights())
                kernel[0] = 4 * certainty * sign
                head.set_weights([kernel, -2 * certainty * sign])
        model = combine_heads(model, {kind: head["weight"] for kind, head in HEADS.items()}, folds)
        folder.mkdir(parents=True, exist_ok=True)
        model.save(folder / MODEL_FILE)
        # In distribution is any brightness, from black to white.
        OutOfDistributionDetector(
            np.full(4, 0.5, np.float32), np.eye(1, 4, dtype=np.float32), np.ones(1, np.float32), 1.0
        ).save(folder / OOD_DETECTOR_FILE)
        if int8:
            images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
            save_openvino(folder / INT8_FILE, quantize(export_openvino(model, "map"), images))
        content = {
            "format_version": FORMAT_VERSION,
            "classes": ("adenocarcinoma", "normal"),
            "positive_class": "adenocarcinoma",
            "image_size": (32, 32, 3),
            "heads": HEADS,
            "temperature": 1.0,
            "threshold": 0.5,
            "operating_points": {"default": 0.5},
            "calibration": {"n": 10, "loss": 0.5, "loss_calibrated": 0.5},
            "max_disagreement": 0.09 if folds > 1 else None,
            "feature_layer": "map",
            "ood_threshold": 2.0,
            "backbone": "tiny",
            "data_source": "phantom:",
            "synthetic": True,
            "model_sha256": sha256_of(folder / MODEL_FILE),
            "ood_detector_sha256": sha256_of(folder / OOD_DETECTOR_FILE),
            "manifest_sha256": "0" * 64,
            "int8_sha256": sha256_of(folder / INT8_FILE) if int8 else None,
            "versions": {"keras": keras.__version__},
        }
        save_json(folder / METADATA_FILE, content | changes)
        return folder

    return write


@pytest.fixture(scope="session")
def tiny_bundle(write_bundle, tmp_path_factory):
    """Return a folder with a trained bundle of 32x32 images; treat it as read-only."""
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def tracking_server(tmp_path_factory):
    """Return a running MLflow server, one for all tests: it takes many seconds to start."""
    with mlflow_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="session")
def browser():
    """Return a running Chromium, one for all tests."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_page(browser):
    """Open a page, see `page_opener`."""
    with page_opener(browser) as open_:
        yield open_


@pytest.fixture(scope="session")
def picture():
    """Make an image file's bytes: one grey level all over."""

    def make(level=255, size=(40, 30), kind="PNG", mode="L", **options):
        buffer = io.BytesIO()
        Image.new("L", size, level).convert(mode).save(buffer, kind, **options)
        return buffer.getvalue()

    return make


@pytest.fixture
def memory_store():
    """Return fsspec's file system in memory, empty before and after the test."""
    import fsspec

    store = fsspec.filesystem("memory")
    store.store.clear()
    yield store
    store.store.clear()
