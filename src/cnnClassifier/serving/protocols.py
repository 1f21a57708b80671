"""Standard protocols beside /predict: MLflow's scoring server, and Open Inference Protocol v2.

Both take encoded image files or pixels, in an input named `image`, and give the predictions that
/predict gives. Pixels become a BMP file, so that the same code checks, decodes and scales them.
"""

import io
import json
import math
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from flask import Blueprint, Request, Response, jsonify
from PIL import Image
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError

import cnnClassifier
from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.serving.concurrency import ConcurrencyLimiter
from cnnClassifier.serving.errors import RequestError
from cnnClassifier.serving.model_manager import ModelManager
from cnnClassifier.serving.monitoring import Metrics
from cnnClassifier.serving.predict import (
    Classifier,
    Upload,
    check_count,
    check_json,
    check_size,
    decode_base64,
    is_json,
    parse_dicom_options,
    parse_json,
)

_INPUT = "image"  # name of the column and of the tensor
_PIXELS = "expected pixels: whole numbers from 0 to 255, of shape [n, height, width, 3]"
_MLFLOW_FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_EXPECTED_MLFLOW = (
    f"expected one of {', '.join(_MLFLOW_FORMATS)}, with a column `{_INPUT}` of image files in "
    f'base64, such as {{"dataframe_records": [{{"{_INPUT}": "<base64>"}}]}}; or {_PIXELS}'
)
_HEADER_LENGTH = "Inference-Header-Content-Length"
_BINARY_SIZE = "binary_data_size"


def make_blueprint(
    manager: ModelManager, config: ServingConfig, limiter: ConcurrencyLimiter, metrics: Metrics
) -> Blueprint:
    """Return the routes, which use the model in `manager`."""
    routes = Blueprint("protocols", __name__)
    classifier = Classifier(manager, config, limiter, metrics)

    @routes.get("/ping")
    @routes.get("/health", endpoint="health")
    def ping() -> Response:
        manager.predictor(wait=False)
        return Response("\n", mimetype="text/plain")

    @routes.get("/version")
    def version() -> Response:
        return Response(cnnClassifier.__version__, mimetype="text/plain")

    @routes.post("/invocations")
    def invocations() -> Response:
        results, _, bundle = classifier.run(_read_invocation)
        _check_results(results)
        predictions = []
        for result in results:
            row = {"class": result["class"], **result["probabilities"]}
            row |= {"unfamiliar": result["unfamiliar"], "model_id": result["model"]}
            predictions.append(row)
        return jsonify(predictions=predictions, **_notices(bundle, config))

    _add_open_inference(routes, classifier, manager, config)
    return routes


def _add_open_inference(
    routes: Blueprint, classifier: Classifier, manager: ModelManager, config: ServingConfig
) -> None:
    """Add the routes of the Open Inference Protocol."""

    @routes.get("/v2")
    def server_metadata() -> Response:
        return jsonify(
            name=cnnClassifier.__name__,
            version=cnnClassifier.__version__,
            extensions=["binary_tensor_data"],
        )

    @routes.get("/v2/health/live")
    def server_live() -> Response:
        return jsonify(live=True)

    @routes.get("/v2/health/ready")
    def server_ready() -> Response:
        manager.predictor(wait=False)
        return jsonify(ready=True)

    @routes.get("/v2/models/<name>")
    def model_metadata(name: str) -> Response:
        _check_name(name, config)
        bundle = manager.predictor(wait=True).bundle
        outputs = []
        for output, values in _make_outputs([], bundle).items():
            shape = [size or -1 for size in values.shape]
            outputs.append({"name": output, "datatype": _datatype(values), "shape": shape})
        inputs = [{"name": _INPUT, "datatype": "BYTES", "shape": [-1]}]
        return jsonify(name=name, platform="keras", inputs=inputs, outputs=outputs)

    @routes.get("/v2/models/<name>/ready")
    def model_ready(name: str) -> Response:
        _check_name(name, config)
        manager.predictor(wait=False)
        return jsonify(name=name, ready=True)

    @routes.post("/v2/models/<name>/infer")
    def infer(name: str) -> Response:
        _check_name(name, config)
        results, upload, bundle = classifier.run(_read_inference)
        _check_results(results)
        content: dict[str, Any] = {"model_name": name}
        if upload.inference.id is not None:
            content["id"] = upload.inference.id
        content["parameters"] = {"model": bundle.model_id, **_notices(bundle, config)}
        return _inference_response(content, upload.inference, _make_outputs(results, bundle))


def _notices(bundle: ModelBundle, config: ServingConfig) -> dict[str, Any]:
    """Return what belongs to every prediction."""
    return {"synthetic": bundle.synthetic, "disclaimer": config.project.disclaimer}


def _check_results(results: Sequence[Mapping[str, Any]]) -> None:
    """Raise the first error: a table or a tensor has no place for those of single images."""
    for index, result in enumerate(results):
        if "error" in result:
            error = result["error"]
            raise RequestError(422, error["code"], f"image {index}: {error['message']}")


def _check_name(name: str, config: ServingConfig) -> None:
    if name != config.project.name:
        message = f"there is no model {name!r:.80}; this server has {config.project.name}"
        raise RequestError(404, "no_such_model", message)


def _to_array(data: list[Any]) -> np.ndarray:
    """Return nested lists as an array of objects.

    Of texts, numpy would otherwise make an array in which each takes as much memory as the longest.

    Raises:
        RequestError: 400 `bad_tensor`.
    """
    try:
        return np.array(data, object)
    except ValueError:
        raise RequestError(400, "bad_tensor", "the lists have different lengths") from None


def _to_pixels(data: list[Any]) -> np.ndarray:
    """Return nested lists of whole numbers as uint8.

    Raises:
        RequestError: 400 `bad_tensor`.
    """
    values = _to_array(data)
    if set(map(type, values.flat)) == {int}:
        with suppress(OverflowError):
            numbers = values.astype(np.int64)
            if numbers.min() >= 0 and numbers.max() <= 255:
                return numbers.astype(np.uint8)
    raise RequestError(400, "bad_tensor", _PIXELS)


def _encode_pixels(pixels: np.ndarray, config: ServingConfig) -> list[bytes]:
    """Return each image as a BMP file.

    Args:
        pixels: uint8, (n, height, width, 3).
        config: limits.

    Raises:
        RequestError: 400 `bad_tensor` or 413 `too_many_images`.
    """
    if pixels.ndim != 4 or pixels.shape[3] != 3 or not pixels.size:
        raise RequestError(400, "bad_tensor", _PIXELS)
    check_count(len(pixels), config)
    files = []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "BMP")
        files.append(buffer.getvalue())
    return files


# ---- MLflow's scoring server


def _read_invocation(request: Request, config: ServingConfig) -> Upload:
    """Read the body of /invocations; `params` may have `window` and `frame`."""
    if not is_json(request):
        raise RequestError(415, "unsupported_type", f"send application/json; {_EXPECTED_MLFLOW}")
    content = parse_json(request.get_data(cache=False), _EXPECTED_MLFLOW)
    formats = [name for name in _MLFLOW_FORMATS if name in content]
    params = content.get("params") or {}
    if len(formats) != 1 or not isinstance(params, dict):
        raise RequestError(400, "missing_image", _EXPECTED_MLFLOW)
    try:
        values = _image_column(formats[0], content[formats[0]])
        check_count(len(values), config)
    except (KeyError, TypeError, ValueError, IndexError):
        raise RequestError(400, "missing_image", _EXPECTED_MLFLOW) from None
    images: Sequence[bytes | RequestError]
    if all(isinstance(value, str) for value in values):
        images = [decode_base64(value) for value in values]
    else:
        images = _encode_pixels(_to_pixels(values), config)
    return Upload(check_size(images, config), parse_dicom_options(params))


def _image_column(name: str, table: Any) -> list[Any]:
    """Return the column `image`, or the values where there is a single column without a name.

    Raises:
        KeyError, TypeError, ValueError, IndexError: the table has another form.
    """
    if name == "dataframe_split":
        column = list(table["columns"]).index(_INPUT)
        return [row[column] for row in table["data"]]
    if name == "inputs" and isinstance(table, dict):
        table = table[_INPUT]
    if not isinstance(table, list):
        raise TypeError("no list")
    return [row[_INPUT] if isinstance(row, dict) else row for row in table]


# ---- Open Inference Protocol v2, with Triton's extension for binary tensors


_FAST = FailFast()  # the first error is reported, and there may be a million


class _Tensor(BaseModel):
    model_config = ConfigDict(strict=True)

    name: Literal["image"]
    datatype: Literal["BYTES", "UINT8"]
    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=4), _FAST]
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class _RequestedOutput(BaseModel):
    model_config = ConfigDict(strict=True)

    name: Literal["class", "probabilities", "uncertain", "unfamiliar", "class_names"]
    parameters: dict[str, Any] = {}


class _InferenceRequest(BaseModel):
    model_config = ConfigDict(strict=True)

    id: str | None = None
    parameters: dict[str, Any] = {}
    inputs: Annotated[list[_Tensor], Field(min_length=1, max_length=1), _FAST]
    outputs: Annotated[list[_RequestedOutput], _FAST] = []


@dataclass(frozen=True, kw_only=True)
class _InferenceUpload(Upload):
    inference: _InferenceRequest


def _read_inference(request: Request, config: ServingConfig) -> _InferenceUpload:
    """Read the body of an inference request; its `parameters` may have `window` and `frame`."""
    body = request.get_data(cache=False)
    length = request.headers.get(_HEADER_LENGTH, str(len(body)))
    if not (length.isascii() and length.isdecimal() and len(length) < 12):
        raise RequestError(400, "bad_header", f"{_HEADER_LENGTH}: expected a number of bytes")
    check_json(body[: int(length)])
    try:
        inference = _InferenceRequest.model_validate_json(body[: int(length)])
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise RequestError(400, "bad_inference", f"{where}: {first['msg']}") from None
    images = _read_tensor(inference.inputs[0], body[int(length) :], config)
    dicom = parse_dicom_options(inference.parameters)
    return _InferenceUpload(check_size(images, config), dicom, inference=inference)


def _read_tensor(
    tensor: _Tensor, binary: bytes, config: ServingConfig
) -> Sequence[bytes | RequestError]:
    """Return the image files of a tensor: binary, or in JSON, where files are in base64."""
    data, size = tensor.data, tensor.parameters.get(_BINARY_SIZE)
    if (size is None) == (data is None) or len(binary) != (size or 0):
        message = f"expected either data, or {_BINARY_SIZE} and as many bytes after the JSON"
        raise RequestError(400, "bad_tensor", message)
    check_count(tensor.shape[0], config)
    is_pixels, count = tensor.datatype == "UINT8", math.prod(tensor.shape)
    if data is not None:
        values = _to_pixels(data) if is_pixels else _to_array(data)
    elif is_pixels:
        values = np.frombuffer(binary, np.uint8)
    else:
        values = _to_array(_split_strings(binary, count))
    if values.size != count:
        raise RequestError(400, "bad_tensor", "shape: doesn't fit the number of values")
    if is_pixels:
        return _encode_pixels(values.reshape(tensor.shape), config)
    return [value if isinstance(value, bytes) else _decode(value) for value in values.flat]


def _decode(value: Any) -> bytes | RequestError:
    if not isinstance(value, str):
        raise RequestError(400, "bad_tensor", "data: expected image files in base64")
    return decode_base64(value)


def _split_strings(binary: bytes, max_count: int) -> list[bytes]:
    """Return the elements of a binary BYTES tensor, each with its length before it."""
    values: list[bytes] = []
    position = 0
    while position < len(binary) and len(values) <= max_count:
        start = position + 4
        position = start + int.from_bytes(binary[position:start], "little")
        if position > len(binary):
            raise RequestError(400, "bad_tensor", "a length in the binary data is wrong")
        values.append(binary[start:position])
    return values


def _make_outputs(
    results: Sequence[Mapping[str, Any]], bundle: ModelBundle
) -> dict[str, np.ndarray]:
    """Return the output tensors by name; `class_names` has the columns of `probabilities`."""
    rows = [[result["probabilities"][name] for name in bundle.classes] for result in results]
    return {
        "class": np.array([result["class"] for result in results], object),
        "probabilities": np.array(rows, "<f4").reshape(-1, len(bundle.classes)),
        "uncertain": np.array([result["uncertain"] for result in results], bool),
        "unfamiliar": np.array([result["unfamiliar"] for result in results], bool),
        "class_names": np.array(bundle.classes, object),
    }


def _datatype(values: np.ndarray) -> str:
    return {"O": "BYTES", "f": "FP32", "b": "BOOL"}[values.dtype.kind]


def _inference_response(
    content: dict[str, Any], inference: _InferenceRequest, outputs: Mapping[str, np.ndarray]
) -> Response:
    """Return the requested outputs, each in JSON or binary."""
    default = inference.parameters.get("binary_data_output") is True
    requested: dict[str, bool] = {}
    for output in inference.outputs:
        requested[output.name] = output.parameters.get("binary_data", default) is True
    requested = requested or dict.fromkeys(outputs, default)
    tensors, binary = [], b""
    for name, is_binary in requested.items():
        values = outputs[name]
        tensor: dict[str, Any] = {"name": name, "datatype": _datatype(values)}
        tensor["shape"] = list(values.shape)
        if is_binary:
            encoded = _to_binary(values)
            binary += encoded
            tensor["parameters"] = {_BINARY_SIZE: len(encoded)}
        else:
            tensor["data"] = values.ravel().tolist()
        tensors.append(tensor)
    content["outputs"] = tensors
    if not any(requested.values()):
        return jsonify(content)
    header = json.dumps(content).encode()
    headers = {_HEADER_LENGTH: str(len(header))}
    return Response(header + binary, headers=headers, mimetype="application/octet-stream")


def _to_binary(values: np.ndarray) -> bytes:
    if values.dtype.kind != "O":
        return values.tobytes()
    encoded = [text.encode() for text in values]
    return b"".join(struct.pack("<I", len(text)) + text for text in encoded)
