import gc
import shutil
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from cnnClassifier.entity.bundle import INT8_AGREEMENT_FILE
from cnnClassifier.serving.model_manager import ModelManager, ModelUnavailableError
from cnnClassifier.utils.common import atomic_write, save_json
from tests.waiting import until


@pytest.fixture
def place(write_bundle, tmp_path):
    """Put a bundle where the server looks for it, the way training does."""

    def put(**options):
        with atomic_write(tmp_path / "training") as staged:
            write_bundle(staged, **options)

    return put


@pytest.fixture
def host(tmp_path):
    host = ModelManager(tmp_path / "training", 10**6, tmp_path / "evaluation", poll_s=0.05)
    yield host
    host.stop()
    for thread in threading.enumerate():
        if thread.name == "watch-model":  # what it still says is no other test's
            thread.join()


def serving(host):
    try:
        return host.predictor(wait=True)
    except ModelUnavailableError:
        return None


def test_takes_up_a_model_that_appears(host, place):
    host.start()
    assert serving(host) is None
    place()
    until(lambda: host._predictor)
    assert host.predictor(wait=False).engine == "keras-openvino"
    assert host.refused is None


def test_swaps_without_losing_a_request_or_keeping_the_old_model(host, place, picture):
    place()
    host.start()
    old = weakref.ref(serving(host))
    answers, done = [], threading.Event()

    def ask():
        while not done.is_set():
            answers.append(
                host.predictor(wait=False).predict(picture(120)).probabilities["adenocarcinoma"]
            )

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        try:
            until(lambda: len(answers) > 4)
            place(slope=5.0, classes=("adenocarcinoma", "other"))  # other classes are taken as well
            until(lambda: host.predictor(wait=False).bundle.classes[1] == "other")
            count = len(answers)
            until(lambda: len(answers) > count + 4)
        finally:
            done.set()
    assert [one.result() for one in asking] == [None, None]
    assert len({round(answer, 3) for answer in answers}) == 2
    gc.collect()
    assert old() is None


def test_refuses_a_broken_one_once_and_goes_on(host, place, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(
        "cnnClassifier.serving.model_manager.logger.warning",
        lambda text, *values: said.append(text % values),
    )
    place()
    host.start()
    kept = serving(host)
    (tmp_path / "half").write_bytes(b"half")
    (tmp_path / "half").replace(
        tmp_path / "training/ood_detector.npz"
    )  # in one step: else an empty one may be seen as well
    until(lambda: host.refused)
    assert "ood_detector.npz isn't the one that model.json describes" in host.refused["reason"]
    assert host.refused["when"].endswith("+00:00")
    looks = []
    monkeypatch.setattr(host, "_mark", lambda look=host._mark: (looks.append(1), look())[1])
    until(lambda: len(looks) > 4)
    assert [line.startswith("model refused, the old one goes on: ") for line in said] == [True]
    assert host.predictor(wait=False) is kept
    shutil.rmtree(tmp_path / "training")
    place(slope=3.0)
    until(lambda: host.refused is None)
    assert host.predictor(wait=False).bundle != kept.bundle


def test_takes_int8_when_evaluation_accepts_it(host, place, tmp_path):
    place(int8=True)
    host.start()
    bundle = serving(host).bundle
    record = {
        "model_sha256": bundle.model_sha256,
        "int8_sha256": bundle.int8_sha256,
        "accepted": True,
    }
    save_json(tmp_path / "evaluation" / INT8_AGREEMENT_FILE, record)
    until(lambda: host.predictor(wait=False).engine == "int8")
    assert host.predictor(wait=False).bundle == bundle
    save_json(tmp_path / "evaluation" / INT8_AGREEMENT_FILE, record | {"accepted": False})
    until(lambda: host.predictor(wait=False).engine == "keras-openvino")
