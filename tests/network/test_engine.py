import json
import os
import subprocess
import sys

import numpy as np
import pytest

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.network.engine import Engine
from cnnClassifier.utils.common import sha256_of
from cnnClassifier.utils.errors import BundleError

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
from cnnClassifier.web.application import create_app

client = create_app(ServingConfig(Path(sys.argv[1]), "", 0, 10**6, 10**6, ())).test_client
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
        [sys.executable, "-c", SERVE, tiny_bundle], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["backend"] == "openvino"
    assert not found["tensorflow"]
    assert found["together"] == found["alone"]
    # The pipeline's backend, in this process, says the same; OpenVINO may calculate in bfloat16.
    images = np.stack([np.full((32, 32, 3), level, np.uint8) for level in found["levels"]])
    np.testing.assert_allclose(found["alone"], Engine(tiny_bundle).probabilities(images)[:, 0], atol=0.05)


def test_batches_equal_single_images(tiny_bundle):
    engine = Engine(tiny_bundle)
    images = np.random.default_rng(0).integers(0, 256, (19, 32, 32, 3), dtype=np.uint8)
    together = engine.probabilities(images)
    assert (together.shape, together.dtype) == ((19, 2), np.float32)
    np.testing.assert_allclose(together, np.concatenate([engine.probabilities(one[None]) for one in images]), atol=1e-6)
    np.testing.assert_allclose(together, engine.probabilities(images.astype(np.float64)), atol=1e-6)
    assert engine.probabilities(images[:0]).shape == (0, 2)


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
        (lambda folder, write: write(folder, slope=float("nan")), "expected 2 finite probabilities"),
        (lambda folder, write: write(folder, image_size=(16, 48, 3)), "can't be run"),
        (lambda folder, write: write(folder, positive_class="other"), "positive_class"),
        (_not_keras, "can't be run"),
    ],
    ids=["other model", "outputs", "nan", "size", "positive", "no archive"],
)
def test_refuses_what_cannot_serve(make, message, write_bundle, tmp_path):
    make(tmp_path, write_bundle)
    with pytest.raises(BundleError, match=message) as caught:
        Engine(tmp_path)
    assert "\n" not in str(caught.value)
