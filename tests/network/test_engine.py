import json
import os
import subprocess
import sys

import numpy as np
import pytest

from cnnClassifier.entity.bundle import INT8_AGREEMENT_FILE, INT8_FILE, ModelBundle
from cnnClassifier.network.engine import Engine
from cnnClassifier.utils.common import save_json, sha256_of
from cnnClassifier.utils.errors import BundleError
from tests.waiting import PATIENCE_S

# Serves predictions through the whole app and tells what it found; stdout: one JSON line.
SERVE = """
import sys
for name in "dagshub dvc gdown imagehash joblib matplotlib mlflow onnx pandas requests sklearn tqdm".split():
    sys.modules[name] = None  # as if it weren't installed

import io, json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from PIL import Image
from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.serving.app import create_app

config = ServingConfig(
    bundle_dir=Path(sys.argv[1]), host="127.0.0.1", port=0, max_upload_bytes=10**6, max_pixels=10**6, request_timeout_s=600
)  # of which loading may take most
client = create_app(config).test_client
def ask(level):
    buffer = io.BytesIO()
    Image.new("L", (32, 32), level).save(buffer, "PNG")
    answer = client().post("/predict", data=buffer.getvalue(), content_type="image/png")
    assert answer.status_code == 200, answer.json
    return answer.json[0]["probabilities"]["adenocarcinoma"]

levels = [(7 * i) % 256 for i in range(48)]
with ThreadPoolExecutor(8) as pool:
    together = list(pool.map(ask, levels))
print(json.dumps({
    "levels": levels, "together": together, "alone": [ask(level) for level in levels],
    "backend": sys.modules["keras"].config.backend(), "tensorflow": "tensorflow" in sys.modules,
}))
"""


def test_serves_on_openvino_from_many_threads_with_few_packages(tiny_bundle):
    environment = {**os.environ, "PYTHONPATH": "src", "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(
        [sys.executable, "-c", SERVE, tiny_bundle],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["backend"] == "openvino"
    assert not found["tensorflow"]
    assert found["together"] == found["alone"]
    # The pipeline's backend, in this process, says the same; OpenVINO may calculate in bfloat16.
    images = np.stack([np.full((32, 32, 3), level, np.uint8) for level in found["levels"]])
    np.testing.assert_allclose(
        found["alone"], Engine(tiny_bundle).probabilities(images)[:, 0], atol=0.05
    )


def test_batches_equal_single_images(tiny_bundle):
    engine = Engine(tiny_bundle)
    images = np.random.default_rng(0).integers(0, 256, (19, 32, 32, 3), dtype=np.uint8)
    together = engine.probabilities(images)
    assert (together.shape, together.dtype) == ((19, 2), np.float32)
    np.testing.assert_allclose(
        together, np.concatenate([engine.probabilities(one[None]) for one in images]), atol=1e-6
    )


INT8 = """
import sys
sys.modules["keras"] = sys.modules["scipy"] = sys.modules["nncf"] = None  # as if they weren't installed

import json
from pathlib import Path
import numpy as np
from cnnClassifier.network.engine import Engine

images = np.load(sys.argv[2])
seen = Engine(Path(sys.argv[1]), int8=True).inspect(images)
print(json.dumps([seen.probabilities.tolist(), seen.distances.tolist(), seen.maps.tolist()]))
"""


def test_int8_says_much_the_same_without_keras(write_bundle, tmp_path):
    folder = write_bundle(tmp_path / "bundle", int8=True)
    images = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8) // np.array(
        [1, 2, 9], np.uint8
    ).reshape(3, 1, 1, 1)
    np.save(tmp_path / "images.npy", images)
    done = subprocess.run(
        [sys.executable, "-c", INT8, folder, tmp_path / "images.npy"],
        env={**os.environ, "PYTHONPATH": "src"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    plain = Engine(folder).inspect(images)
    for found, expected in zip(
        json.loads(done.stdout), (plain.probabilities, plain.distances, plain.maps), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=0.1)


def test_the_same_model_gives_the_same_int8_bytes(write_bundle, tmp_path):
    first, second = (write_bundle(tmp_path / name, int8=True) for name in ("first", "second"))
    assert ModelBundle.read(first).int8_sha256
    assert (first / INT8_FILE).stat().st_size < 100_000
    weights = [
        Engine(folder, int8=True).probabilities(np.full((1, 32, 32, 3), 99, np.uint8))
        for folder in (first, second)
    ]
    np.testing.assert_array_equal(*weights)


def test_int8_is_accepted_by_the_record_of_this_model_alone(write_bundle, tmp_path):
    bundle = ModelBundle.read(write_bundle(tmp_path, int8=True))
    record = {
        "model_sha256": bundle.model_sha256,
        "int8_sha256": bundle.int8_sha256,
        "accepted": True,
    }
    assert not bundle.accepts_int8(None)
    assert not bundle.accepts_int8(tmp_path)
    for change, accepted in (
        ({}, True),
        ({"accepted": False}, False),
        ({"int8_sha256": "0"}, False),
    ):
        save_json(tmp_path / INT8_AGREEMENT_FILE, record | change)
        assert bundle.accepts_int8(tmp_path) is accepted
    (tmp_path / INT8_AGREEMENT_FILE).write_text("[")
    assert not bundle.accepts_int8(tmp_path)


def _torn_int8(folder, write):
    write(folder, int8=True)
    (folder / INT8_FILE).write_bytes(b"PK")


def _torn_reference(folder, write):
    write(folder)
    (folder / "reference.npz").write_bytes(b"PK")


def _not_keras(folder, write):
    write(folder)
    (folder / "model.keras").write_bytes(b"PK\x03\x04 torn")
    card = json.loads((folder / "model.json").read_text())
    ModelBundle(**card | {"model_sha256": sha256_of(folder / "model.keras")}).write(folder)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder, write: write(folder, model_sha256="0" * 64), "sha256"),
        (lambda folder, write: write(folder, outputs=3), "expected 2 finite probabilities"),
        (
            lambda folder, write: write(folder, slope=float("nan")),
            "expected 2 finite probabilities",
        ),
        (lambda folder, write: write(folder, image_size=(16, 48, 3)), "can't be run"),
        (lambda folder, write: write(folder, positive_class="other"), "positive_class"),
        (_not_keras, "can't be run"),
        (_torn_int8, "model_int8.zip isn't the one"),
        (_torn_reference, "reference.npz isn't the one"),
    ],
    ids=[
        "other model",
        "outputs",
        "nan",
        "size",
        "positive",
        "no archive",
        "torn int8",
        "torn reference",
    ],
)
def test_refuses_what_cannot_serve(make, message, write_bundle, tmp_path):
    make(tmp_path, write_bundle)
    with pytest.raises(BundleError, match=message) as caught:
        Engine(tmp_path)
    assert "\n" not in str(caught.value)
