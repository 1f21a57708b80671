"""Take the images out of a request, however they were sent."""

import base64
import binascii
import json
import re
from typing import Any

from flask import Request

from cnnClassifier.web.problems import RequestError

FIELDS = ("file", "image")
MAX_IMAGES = 32
_ACCEPTED = (
    'send JSON {"image": "<base64>"}, a multipart form with files named `file` or `image`, or the image itself '
    "with Content-Type: image/…"
)


def body_limit(max_upload_bytes: int) -> int:
    """Return how large a body may be so that its image may have `max_upload_bytes`: base64 takes 4 bytes for 3."""
    return max_upload_bytes * 4 // 3 + 65536


def images_of(request: Request, max_upload_bytes: int) -> list[bytes]:
    """Return the bytes of each image in a request.

    Raises:
        RequestError: 400, 413 or 415, with what was expected.
    """
    kind = request.mimetype
    if kind == "application/json" or kind.endswith("+json"):
        images = [_from_json(request.get_data(cache=False))]
    elif kind == "multipart/form-data":
        images = [part.read() for field in FIELDS for part in request.files.getlist(field)]
    elif kind.startswith("image/"):
        images = [request.get_data(cache=False)]
    else:
        found = f"Content-Type {kind!r:.80} isn't taken" if kind else "no Content-Type"
        raise RequestError(415, "unsupported_type", f"{found}; {_ACCEPTED}")
    if not any(images):
        raise RequestError(400, "empty", f"no image in the request; {_ACCEPTED}")
    if max(map(len, images)) > max_upload_bytes:
        raise RequestError(413, "too_large", f"an image may have at most {max_upload_bytes:,} bytes")
    return images


def _from_json(body: bytes) -> bytes:
    try:
        content: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise RequestError(400, "bad_json", f"the body isn't valid JSON; {_ACCEPTED}") from None
    text = content.get("image") if isinstance(content, dict) else None
    if not isinstance(text, str):
        raise RequestError(400, "missing_image", 'expected a JSON object with a string: {"image": "<base64>"}')
    if text.lstrip().startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(re.sub(r"\s+", "", text), validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(400, "bad_base64", "`image` isn't valid base64") from None
