import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.utils.common import sha256_of

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def keras():
    """Keras on TensorFlow, as the pipeline has it: a process has one backend. OpenVINO gets processes of its own."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    assert keras.config.backend() == "tensorflow"
    return keras


@pytest.fixture(scope="session")
def write_bundle(keras):
    """Write a bundle whose model calls an image with any bright spot adenocarcinoma, and any other normal."""

    def write(folder, *, outputs=2, slope=2.0, **card):
        layers = keras.layers
        image = keras.Input((32, 32, 3))
        x = layers.Rescaling(1 / 255)(image)
        x = layers.Conv2D(4, 3, kernel_initializer=keras.initializers.Constant(1 / 27))(x)
        x = layers.GlobalMaxPooling2D()(x)
        dense = layers.Dense(outputs, activation="softmax")
        model = keras.Model(image, dense(x))
        turn = np.array([1.0, -1.0, *[0.0] * (outputs - 2)], np.float32)
        dense.set_weights([np.tile(slope * turn, (4, 1)), -2 * slope * turn])
        folder.mkdir(parents=True, exist_ok=True)
        model.save(folder / "model.keras")
        content = {
            "classes": ("adenocarcinoma", "normal"),
            "positive_class": "adenocarcinoma",
            "image_size": (32, 32, 3),
            "threshold": 0.5,
            "backbone": "tiny",
            "data_source": "phantom:",
            "synthetic": True,
            "model_sha256": sha256_of(folder / "model.keras"),
            "manifest_sha256": "0" * 64,
            "versions": {"keras": keras.__version__},
        }
        ModelBundle(**(content | card)).write(folder)
        return folder

    return write


@pytest.fixture(scope="session")
def tiny_bundle(write_bundle, tmp_path_factory):
    """Return a folder with a trained bundle of 32x32 images; treat it as read-only."""
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def picture():
    """Make an image file's bytes: one grey level all over."""

    def make(level=255, size=(40, 30), kind="PNG", mode="L", **options):
        buffer = io.BytesIO()
        Image.new("L", size, level).convert(mode).save(buffer, kind, **options)
        return buffer.getvalue()

    return make
