import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from cnnClassifier.entity.bundle import INT8_AGREEMENT_FILE, INT8_FILE, ModelBundle
from cnnClassifier.network.engine import Engine
from cnnClassifier.utils.common import save_json, sha256_of
from cnnClassifier.utils.errors import BundleError
from tests.waiting import PATIENCE_S

# Predict through the whole app; stdout: one JSON line.
SERVE = """
import sys
UNUSED = (
    "dagshub dvc gdown imagehash joblib matplotlib mlflow onnx pandas requests sklearn tqdm"
)
for name in UNUSED.split():
    sys.modules[name] = None  # as if it weren't installed

import io, json, os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from PIL import Image
from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.serving.app import create_app

limits = {"max_upload_bytes": 10**6, "max_pixels": 10**6, "request_timeout_s": 600}
config = ServingConfig(bundle_dir=Path(sys.argv[1]), host="127.0.0.1", port=0, **limits)
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
    "passed on": os.environ["KERAS_BACKEND"],
}))
"""


def test_another_process_gets_where_the_network_is(tiny_bundle, tmp_path):
    bundle = ModelBundle.read(tiny_bundle)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    engine = Engine(bundle, shared_path=tmp_path / "model.zip")
    sent = pickle.dumps(engine)
    assert len(sent) < 1000
    received = pickle.loads(sent)
    assert (received.name, received.bundle) == (engine.name, bundle)
    for name, values in vars(engine.predict(images)).items():
        assert np.array_equal(getattr(received.predict(images), name), values)
    with pytest.raises(TypeError, match="no shared_path"):
        pickle.dumps(Engine(bundle))


def run_script(script, *arguments):
    """Run in a process of its own; return the JSON of its last line."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": "src", "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_serves_on_openvino_from_many_threads_with_few_packages(tiny_bundle):
    found = run_script(SERVE, tiny_bundle)
    assert found["backend"] == "openvino"
    assert not found["tensorflow"]
    assert found["passed on"] == "tensorflow"  # to the pipeline that POST /train starts
    assert found["together"] == found["alone"]
    # The pipeline's backend, in this process, says the same; OpenVINO may calculate in bfloat16.
    images = np.stack([np.full((32, 32, 3), level, np.uint8) for level in found["levels"]])
    np.testing.assert_allclose(
        found["alone"], load(tiny_bundle).predict(images).probabilities[:, 0], atol=0.05
    )


def load(folder, int8=False):
    return Engine(ModelBundle.read(folder), int8=int8)


def test_the_result_is_the_decision(write_bundle, tmp_path):
    """Bright pixels mean adenocarcinoma; gray 200 is beyond the distance of the training images."""
    images = [np.full((32, 32, 3), level, np.uint8) for level in (0, 128, 130, 200)]
    bright = load(write_bundle(tmp_path, ood_threshold=0.3)).predict(iter(images))
    positive = bright.probabilities[:, 0]
    assert (bright.probabilities.shape, bright.probabilities.dtype) == ((4, 2), np.float32)
    assert np.allclose(bright.probabilities.sum(1), 1)
    assert (np.diff(positive) > 0).all()
    assert bright.predicted.tolist() == [1, 0, 0, 0]
    assert bright.out_of_distribution.tolist() == (bright.distances > 0.3).tolist()
    assert len(set(bright.out_of_distribution.tolist())) == 2
    assert bright.activation_maps.shape == (4, 30, 30)
    # The threshold of model.json decides, from that probability on, and about the map's class too.
    strict = load(write_bundle(tmp_path, threshold=float(positive[2]))).predict(images)
    assert strict.predicted.tolist() == [1, 1, 0, 0]
    assert bright.activation_maps[1].max() == 1
    assert strict.activation_maps[1].max() == 0


INT8 = """
import sys
sys.modules |= dict.fromkeys(["keras", "scipy", "nncf"])  # as if they weren't installed

import json
from pathlib import Path
import numpy as np
from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.network.engine import Engine

images = np.load(sys.argv[2])
found = Engine(ModelBundle.read(Path(sys.argv[1])), int8=True).predict(images)
print(json.dumps([array.tolist() for array in vars(found).values()]))
"""


def test_int8_says_much_the_same_without_keras(write_bundle, tmp_path):
    folder = write_bundle(tmp_path / "bundle", int8=True)
    images = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8) // np.array(
        [1, 2, 9], np.uint8
    ).reshape(3, 1, 1, 1)
    np.save(tmp_path / "images.npy", images)
    results = run_script(INT8, folder, tmp_path / "images.npy")
    plain = vars(load(folder).predict(images)).values()
    for found, expected in zip(results, plain, strict=True):
        np.testing.assert_allclose(found, expected, atol=0.1)


def test_the_same_model_gives_the_same_int8_bytes(write_bundle, tmp_path):
    first, second = (write_bundle(tmp_path / name, int8=True) for name in ("first", "second"))
    assert ModelBundle.read(first).int8_sha256
    assert (first / INT8_FILE).stat().st_size < 100_000
    image = np.full((32, 32, 3), 99, np.uint8)
    results = [load(folder, int8=True).predict([image]) for folder in (first, second)]
    np.testing.assert_array_equal(results[0].probabilities, results[1].probabilities)


@pytest.mark.parametrize(
    ("change", "accepted"),
    [({}, True), ({"accepted": False}, False), ({"int8_sha256": "0"}, False), (None, False)],
)
def test_int8_is_accepted_by_the_record_of_this_model_alone(
    change, accepted, write_bundle, tmp_path
):
    bundle = ModelBundle.read(write_bundle(tmp_path, int8=True))
    hashes = bundle.model_dump(include={"model_sha256", "int8_sha256"})
    assert not bundle.accepts_int8(tmp_path)
    path = tmp_path / INT8_AGREEMENT_FILE
    if change is None:
        path.write_text("[")
    else:
        save_json(path, {**hashes, "accepted": True, **change})
    assert bundle.accepts_int8(tmp_path) is accepted
    assert not bundle.accepts_int8(None)


def damage(folder, name, key=None):
    """Overwrite a file of the bundle; with a key of `model.json`, with its new sha256 there."""
    (folder / name).write_bytes(b"PK\x03\x04 torn")
    content = json.loads((folder / "model.json").read_text())
    changes = {key: sha256_of(folder / name)} if key else {}
    save_json(folder / "model.json", content | changes)


@pytest.mark.parametrize(
    ("options", "damaged", "message"),
    [
        ({"model_sha256": "0" * 64}, (), "sha256"),
        ({"outputs": 3}, (), "expected 2 finite probabilities"),
        ({"slope": float("nan")}, (), "expected 2 finite probabilities"),
        ({"image_size": (16, 48, 3)}, (), "can't be run"),
        ({"positive_class": "other"}, (), "positive_class"),
        ({"format_version": 1}, (), "made by version 1; run dvc repro"),
        ({"threshold": "high"}, (), r"\(threshold: Input should be"),
        ({"dicom_window": "brain"}, (), "window: expected"),
        ({"called": "normal"}, (), r"\(called: Extra inputs"),
        ({}, ("model.keras", "model_sha256"), "can't be run"),
        ({}, ("ood_detector.npz", "ood_detector_sha256"), "can't be run"),
        ({"int8": True}, (INT8_FILE,), "model_int8.zip isn't the one"),
        ({}, ("ood_detector.npz",), "ood_detector.npz isn't the one"),
    ],
)
def test_refuses_what_cannot_serve(options, damaged, message, write_bundle, tmp_path):
    write_bundle(tmp_path, **options)
    if damaged:
        damage(tmp_path, *damaged)
    with pytest.raises(BundleError, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
