"""Every error is JSON: {"error": {"code": …, "message": …}, "request_id": …}.

A browser that loads a page gets the same as a page.
Below /v2 it is {"error": message, "code": …, "request_id": …}, as Open Inference Protocol says.
"""

import re
from collections.abc import Mapping
from typing import Any

from flask import Response, g, jsonify, make_response, render_template, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from cnnClassifier.utils.errors import ImageError
from cnnClassifier.utils.log import logger


class RequestError(Exception):
    """The request can't be answered as asked.

    Attributes:
        status: the HTTP status.
        code: a stable identifier for programs.
        headers: for the response, such as Retry-After.
    """

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})


def error_body(code: str, message: str) -> dict[str, dict[str, str]]:
    """Return the JSON of an error."""
    return {"error": {"code": code, "message": message}}


def is_page_load() -> bool:
    """Return whether a browser will show the response as a page: no script or program asked."""
    mode = request.headers.get("Sec-Fetch-Mode", "navigate")  # an old browser doesn't send it
    return mode == "navigate" and "text/html" in request.headers.get("Accept", "")


def handle_error(error: Exception) -> Response:
    """Answer any exception, in JSON or as a page."""
    cause, error = error, _to_request_error(error)
    release_frames(cause)
    g.error_code = error.code
    content: dict[str, Any] = error_body(error.code, str(error))
    if request.path.startswith("/v2"):  # in Open Inference Protocol it is a text
        content = {"error": str(error), "code": error.code}
    if is_page_load():
        response = make_response(render_template("error.html", message=str(error)))
    else:
        response = jsonify(content | {"request_id": g.request_id})
    response.status_code = error.status
    response.headers.update(error.headers)
    return response


def release_frames(error: Exception) -> None:
    """Let an exception forget its traceback.

    The frames in it would keep images in memory, in a cycle, until the next garbage collection.
    """
    error.__traceback__ = error.__context__ = error.__cause__ = None


def _to_request_error(error: Exception) -> RequestError:
    if isinstance(error, RequestError):
        return error
    if isinstance(error, ImageError):
        return RequestError(413 if error.code == "too_large" else 422, error.code, str(error))
    if isinstance(error, RequestEntityTooLarge):
        return RequestError(413, "too_large", "the request exceeds this server's limit")
    if isinstance(error, HTTPException):
        code = re.sub(r"\W+", "_", error.name.lower())
        headers = dict(error.get_headers())
        del headers["Content-Type"]
        return RequestError(error.code or 500, code, str(error.description), headers)
    logger.error("request=%s unexpected %s", g.request_id, type(error).__name__, exc_info=error)
    return RequestError(500, "internal_error", "internal error; see the server's log")
