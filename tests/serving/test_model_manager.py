import gc
import shutil
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cnnClassifier.entity import bundle
from cnnClassifier.entity.bundle import INT8_AGREEMENT_FILE
from cnnClassifier.serving import model_manager
from cnnClassifier.serving.errors import RequestError
from cnnClassifier.serving.model_manager import ModelManager
from cnnClassifier.utils.common import atomic_write, save_json
from tests.serving.client import make_config
from tests.waiting import until


@pytest.fixture
def write_model(write_bundle, tmp_path):
    """Write a bundle where the server looks for it, as training does."""

    def write(**options):
        with atomic_write(tmp_path / "training") as temp_path:
            write_bundle(temp_path, **options)

    return write


@pytest.fixture
def manager(tmp_path):
    config = make_config(tmp_path / "training", evaluation_dir=tmp_path / "evaluation")
    manager = ModelManager(config, poll_s=0.05)
    yield manager
    manager.stop()
    for thread in threading.enumerate():
        if thread.name == "watch-model":  # its last messages belong to this test
            thread.join()


def current(manager):
    return manager.predictor(wait=True)


def test_a_model_that_appears_is_loaded(manager, write_model):
    manager.start()
    with pytest.raises(RequestError, match="no trained model"):
        current(manager)
    write_model()
    until(lambda: manager._predictor)
    assert current(manager).engine == "keras-openvino"
    assert manager.refusal == {}


def test_a_swap_loses_no_request_and_frees_the_old_model(manager, write_model, picture):
    write_model()
    manager.start()
    old = weakref.ref(current(manager))
    results, done = [], threading.Event()

    def send_requests():
        while not done.is_set():
            prediction = manager.predictor(wait=False).predict(picture(120))
            results.append(round(prediction.probabilities["adenocarcinoma"], 3))

    with ThreadPoolExecutor(2) as pool:
        clients = [pool.submit(send_requests) for _ in range(2)]
        try:
            until(lambda: len(results) > 4)
            write_model(slope=5.0, classes=("adenocarcinoma", "other"))  # other classes are fine
            until(lambda: current(manager).bundle.classes[1] == "other")
            count = len(results)
            until(lambda: len(results) > count + 4)
        finally:
            done.set()
    assert [client.result() for client in clients] == [None, None]
    assert len(set(results)) == 2
    gc.collect()
    assert old() is None


def test_a_broken_model_is_refused_once_and_the_loaded_one_stays(
    manager, write_model, tmp_path, monkeypatch
):
    warnings = []
    monkeypatch.setattr(
        model_manager.logger, "warning", lambda text, *values: warnings.append(text % values)
    )
    write_model()
    manager.start()
    loaded = current(manager)
    (tmp_path / "half").write_bytes(b"half")
    # In one step: otherwise an empty file may be seen as well.
    (tmp_path / "half").replace(tmp_path / "training/ood_detector.npz")
    until(lambda: manager.refusal)
    refused = manager.refusal["refused"]
    assert refused["reason"].startswith("ood_detector.npz isn't the one that model.json describes")
    assert refused["when"].endswith("+00:00")
    looks = []
    fingerprint = manager._fingerprint
    monkeypatch.setattr(manager, "_fingerprint", lambda: looks.append(1) or fingerprint())
    until(lambda: len(looks) > 4)
    assert len(warnings) == 1
    assert warnings[0].startswith("new model refused, the loaded one stays: ")
    assert current(manager) is loaded
    shutil.rmtree(tmp_path / "training")
    missing = "no trained model: model.json is missing; "
    until(lambda: manager.refusal["refused"]["reason"].startswith(missing))
    assert str(tmp_path / "training/model.json") in warnings[-1]
    with monkeypatch.context() as patch:  # a file disappears while it is read
        patch.setattr(bundle, "sha256_of", lambda _: Path("gone").read_bytes())
        write_model()
        until(lambda: "No such file" in manager.refusal["refused"]["reason"])
    write_model(slope=3.0)
    until(lambda: not manager.refusal)
    assert current(manager).bundle != loaded.bundle


def test_int8_is_used_while_evaluation_accepts_it(manager, write_model, tmp_path):
    write_model(int8=True)
    manager.start()
    found = current(manager).bundle
    agreement = {"model_sha256": found.model_sha256, "int8_sha256": found.int8_sha256}
    for accepted, engine in ((True, "int8"), (False, "keras-openvino")):
        save_json(tmp_path / "evaluation" / INT8_AGREEMENT_FILE, agreement | {"accepted": accepted})
        until(lambda engine=engine: current(manager).engine == engine)
        assert current(manager).bundle == found
