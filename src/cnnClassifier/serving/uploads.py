"""Take the images and the options out of a request, however they were sent."""

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
from cnnClassifier.serving.predict_options import Options, options_of

FIELDS = ("file", "image")
DICOM_TYPE = "application/dicom"
_ACCEPTED = (
    'send JSON {"image": "<base64>"} or {"images": [...]}, a multipart form with files named `file` or `image`, or the '
    f"image itself with Content-Type: image/… or {DICOM_TYPE}"
)


@dataclass(frozen=True)
class Upload:
    """What a request brings: for each image its bytes, or why they can't be used."""

    images: Sequence[bytes | RequestError]
    options: Options


def body_limit(max_upload_bytes: int) -> int:
    """Return how large a body may be so that its image may have `max_upload_bytes`: base64 takes 4 bytes for 3."""
    return max_upload_bytes * 4 // 3 + 65536


def read_upload(request: Request, config: ServingConfig) -> Upload:
    """Return the images of a request and what it asks.

    Raises:
        RequestError: 400, 413 or 415, with what was expected.
    """
    kind = request.mimetype
    images: Sequence[bytes | RequestError]
    if kind == "application/json" or kind.endswith("+json"):
        content = _json_of(request.get_data(cache=False))
        images = [_from_base64(text) for text in _texts_of(content, config.max_images)]
        options = options_of(content, request.args)
    elif kind == "multipart/form-data":
        options = options_of(request.form, request.args)
        images = [part.read() for field in FIELDS for part in request.files.getlist(field)]
    elif kind.startswith("image/") or kind == DICOM_TYPE:
        images = [request.get_data(cache=False)]
        options = options_of(request.args)
    else:
        found = f"Content-Type {kind!r:.80} isn't taken" if kind else "no Content-Type"
        raise RequestError(415, "unsupported_type", f"{found}; {_ACCEPTED}")
    if not any(images):
        raise RequestError(400, "empty", f"no image in the request; {_ACCEPTED}")
    _check_count(len(images), config.max_images)
    images = [_sized(image, config.max_upload_bytes) for image in images]
    if len(images) == 1 and isinstance(images[0], RequestError):
        raise images[0]
    return Upload(images, options)


def _sized(image: bytes | RequestError, most: int) -> bytes | RequestError:
    if isinstance(image, bytes) and len(image) > most:
        return RequestError(413, "too_large", f"an image may have at most {most:,} bytes")
    return image


def _check_count(count: int, most: int) -> None:
    if count > most:
        raise RequestError(
            413, "too_many_images", f"{count} images in one request; at most {most} are taken"
        )


def _json_of(body: bytes) -> dict[str, Any]:
    try:
        content: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise RequestError(400, "bad_json", f"the body isn't valid JSON; {_ACCEPTED}") from None
    if not isinstance(content, dict):
        raise _missing()
    return content


def _texts_of(content: dict[str, Any], most: int) -> list[str]:
    texts = content.get("images", [content.get("image")])
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise _missing()
    _check_count(len(texts), most)
    return texts


def _missing() -> RequestError:
    return RequestError(
        400,
        "missing_image",
        'expected a JSON object: {"image": "<base64>"} or {"images": ["<base64>", …]}',
    )


def _from_base64(text: str) -> bytes | RequestError:
    if text.lstrip().startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(re.sub(r"\s+", "", text), validate=True)
    except (binascii.Error, ValueError):
        return RequestError(400, "bad_base64", "the image isn't valid base64")
