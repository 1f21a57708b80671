"""Every error leaves as JSON: {"error": {"code": …, "message": …}, "request_id": …}."""

import re
from collections.abc import Mapping

from flask import Flask, Response, g, jsonify
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from cnnClassifier.serving.model_manager import ModelUnavailableError
from cnnClassifier.utils.errors import ImageError
from cnnClassifier.utils.log import logger


class RequestError(Exception):
    """The request can't be answered as asked.

    Attributes:
        status: the HTTP status.
        code: a stable word for programs.
        headers: of the answer, such as Retry-After.
    """

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})


def content_of(code: str, message: str) -> dict[str, dict[str, str]]:
    """Return the body of an error."""
    return {"error": {"code": code, "message": message}}


def register_problems(app: Flask) -> None:
    """Make `app` answer each kind of exception in JSON."""
    app.register_error_handler(RequestError, lambda e: _answer(e.status, e.code, str(e), e.headers))
    app.register_error_handler(
        ImageError, lambda e: _answer(413 if e.code == "too_large" else 422, e.code, str(e))
    )
    app.register_error_handler(ModelUnavailableError, _unavailable)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unexpected)


def _answer(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    response = jsonify(content_of(code, message) | {"request_id": g.request_id})
    response.status_code = status
    response.headers.update(headers or {})
    g.error_code = code
    return response


def _unavailable(error: ModelUnavailableError) -> Response:
    return _answer(
        503, error.code, str(error), {"Retry-After": "1" if error.code == "loading" else "5"}
    )


def _http(error: HTTPException) -> Response:
    status = error.code or 500
    if isinstance(error, RequestEntityTooLarge):
        return _answer(status, "too_large", "the request is larger than this server takes")
    response = _answer(status, re.sub(r"\W+", "_", error.name.lower()), str(error.description))
    for name, value in error.get_headers():
        if name not in ("Content-Type", "Content-Length"):
            response.headers[name] = value
    return response


def _unexpected(error: Exception) -> Response:
    logger.error("request=%s unexpected %s", g.request_id, type(error).__name__, exc_info=error)
    return _answer(500, "internal_error", "something went wrong in the server; its log says more")
