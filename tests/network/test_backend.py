"""Keras's backend, without JAX and PyTorch: their stand-ins have what the module uses of them."""

import os
import sys
from types import SimpleNamespace

import pytest

from cnnClassifier.entity.config_entity import DistributedConfig
from cnnClassifier.network import backend
from cnnClassifier.utils.errors import UserError
from tests.waiting import reserved_port


@pytest.fixture
def start(keras, monkeypatch):
    """Start as if Keras weren't imported yet; return the backend that was chosen."""

    def start(requested, installed, distributed=None):
        started = []
        monkeypatch.delitem(sys.modules, "keras")
        if requested is None:
            monkeypatch.delenv("KERAS_BACKEND", raising=False)
        else:
            monkeypatch.setenv("KERAS_BACKEND", requested)
        monkeypatch.setattr(backend, "find_spec", lambda name: name in installed or None)
        monkeypatch.setattr(backend, "_start_devices", started.append)
        monkeypatch.setattr(backend, "name", lambda: os.environ["KERAS_BACKEND"])
        backend.start(distributed)
        return started

    return start


@pytest.mark.parametrize(
    ("requested", "installed", "expected"),
    [
        (None, ("tensorflow", "jax", "torch"), "tensorflow"),
        (None, ("torch",), "torch"),
        ("jax", ("tensorflow", "jax"), "jax"),
    ],
)
def test_the_requested_backend_starts_else_the_one_that_is_installed(
    start, requested, installed, expected
):
    assert start(requested, installed) == [expected]


@pytest.mark.parametrize(
    ("requested", "installed", "message"),
    [
        ("torch", ("tensorflow",), "torch isn't installed; run `make setup BACKEND=torch`"),
        (None, (), "tensorflow isn't installed"),
        ("openvino", ("tensorflow",), "openvino can't train; expected one of tensorflow, jax"),
    ],
)
def test_a_backend_that_cannot_train_is_a_clear_error(start, requested, installed, message):
    with pytest.raises(UserError, match=message):
        start(requested, installed)


@pytest.mark.parametrize(
    ("requested", "message"),
    [
        ("tensorflow", "2 processes train on JAX alone, found tensorflow; set KERAS_BACKEND=jax"),
        ("jax", r"process 0 can't be reached at 127\.0\.0\.1:\d+ within 1 s"),
    ],
)
def test_processes_that_cannot_train_together_are_a_clear_error(
    start, monkeypatch, requested, message
):
    monkeypatch.setattr(backend, "_report_abort", lambda message: None)
    with reserved_port() as port:
        config = DistributedConfig(
            processes=2, process=1, coordinator=f"127.0.0.1:{port}", connect_timeout_s=1
        )
        with pytest.raises(UserError, match=message):
            start(requested, (requested,), config)


@pytest.mark.parametrize(
    ("name", "module", "expected"),
    [
        ("jax", SimpleNamespace(default_backend=lambda: "gpu"), True),
        ("jax", SimpleNamespace(default_backend=lambda: "cpu"), False),
        ("torch", SimpleNamespace(accelerator=SimpleNamespace(is_available=lambda: True)), True),
        ("torch", SimpleNamespace(accelerator=SimpleNamespace(is_available=lambda: False)), False),
    ],
)
def test_each_backend_finds_its_gpu(monkeypatch, name, module, expected):
    monkeypatch.setattr(backend, "name", lambda: name)
    monkeypatch.setitem(sys.modules, name, module)
    assert backend.has_gpu() is expected


def test_a_process_on_openvino_leaves_this_one_as_it_is(keras):
    before = dict(os.environ)
    assert backend.run_on_openvino(backend.name) == "openvino"
    assert (backend.name(), dict(os.environ)) == ("tensorflow", before)


def test_keras_on_openvino_leaves_out_what_only_plots_and_wrappers_need():
    names = "matplotlib", "pandas", "sklearn"
    loaded = f"[name for name in {names} if name in __import__('sys').modules]"
    later = f"[__import__(name).__name__ for name in {names}]"
    assert backend.run_on_openvino(eval, f"({loaded}, {later})") == ([], list(names))
