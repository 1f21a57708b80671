"""Read the images and the options of a request to /predict."""

import base64
import binascii
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flask import Request

from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.serving.errors import RequestError
from cnnClassifier.serving.predict_options import PredictOptions, parse_options

_ACCEPTED = (
    'send JSON {"image": "<base64>"} or {"images": [...]}, a multipart form with files named '
    "`file` or `image`, or the image itself with Content-Type: image/… or application/dicom"
)
_EXPECTED_JSON = 'expected a JSON object: {"image": "<base64>"} or {"images": ["<base64>", …]}'


@dataclass(frozen=True)
class Upload:
    """The content of a request: each image's bytes, or why it can't be used, and the options."""

    images: Sequence[bytes | RequestError]
    options: PredictOptions


def max_body_bytes(max_upload_bytes: int) -> int:
    """Return the size limit of a body: base64 takes 4 bytes for 3, and a form has headers."""
    return max_upload_bytes * 4 // 3 + 65536


def read_upload(request: Request, config: ServingConfig) -> Upload:
    """Read the images and the options of a request.

    Raises:
        RequestError: 400, 413 or 415, with what was expected.
    """
    mimetype = request.mimetype
    images: list[bytes | RequestError] = []
    if mimetype == "application/json" or mimetype.endswith("+json"):
        content = _parse_json(request.get_data(cache=False))
        options = parse_options(content, request.args)
        for text in content["images"]:
            images.append(_decode_base64(text))
    elif mimetype == "multipart/form-data":
        options = parse_options(request.form, request.args)
        for part in request.files.getlist("file") + request.files.getlist("image"):
            images.append(part.read())
    elif mimetype.startswith("image/") or mimetype == "application/dicom":
        options = parse_options(request.args)
        images.append(request.get_data(cache=False))
    else:
        found = f"Content-Type {mimetype!r:.80} isn't supported" if mimetype else "no Content-Type"
        raise RequestError(415, "unsupported_type", f"{found}; {_ACCEPTED}")
    _check_size(images, config)
    return Upload(images, options)


def _check_size(images: list[bytes | RequestError], config: ServingConfig) -> None:
    """Check the number of images and replace those that are too large by their error."""
    if not any(images):
        raise RequestError(400, "empty", f"no image in the request; {_ACCEPTED}")
    if len(images) > config.max_images:
        message = f"{len(images)} images in one request; the limit is {config.max_images}"
        raise RequestError(413, "too_many_images", message)
    for index, image in enumerate(images):
        if isinstance(image, bytes) and len(image) > config.max_upload_bytes:
            message = f"an image may have at most {config.max_upload_bytes:,} bytes"
            images[index] = RequestError(413, "too_large", message)


def _parse_json(body: bytes) -> dict[str, Any]:
    """Return the JSON object, with a single `image` as a list of one in `images`."""
    try:
        content: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise RequestError(400, "bad_json", f"the body isn't valid JSON; {_ACCEPTED}") from None
    if not isinstance(content, dict):
        raise RequestError(400, "missing_image", _EXPECTED_JSON)
    images = content.setdefault("images", [content.get("image")])
    if not isinstance(images, list) or not images or {type(image) for image in images} != {str}:
        raise RequestError(400, "missing_image", _EXPECTED_JSON)
    return content


def _decode_base64(text: str) -> bytes | RequestError:
    if text.lstrip().startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(re.sub(r"\s+", "", text), validate=True)
    except (binascii.Error, ValueError):
        return RequestError(400, "bad_base64", "the image isn't valid base64")
