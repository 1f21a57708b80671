"""Every error is JSON: {"error": {"code": …, "message": …}, "request_id": …}."""

import re
from collections.abc import Mapping

from flask import Flask, Response, g, jsonify
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


def register_error_handlers(app: Flask) -> None:
    """Answer each kind of exception in JSON."""
    app.register_error_handler(RequestError, _handle_request_error)
    app.register_error_handler(ImageError, _handle_image_error)
    app.register_error_handler(HTTPException, _handle_http_exception)
    app.register_error_handler(Exception, _handle_unexpected)


def _error_response(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    g.error_code = code
    response = jsonify(error_body(code, message) | {"request_id": g.request_id})
    response.status_code = status
    response.headers.update(headers or {})
    return response


def _handle_request_error(error: RequestError) -> Response:
    return _error_response(error.status, error.code, str(error), error.headers)


def _handle_image_error(error: ImageError) -> Response:
    return _error_response(413 if error.code == "too_large" else 422, error.code, str(error))


def _handle_http_exception(error: HTTPException) -> Response:
    status = error.code or 500
    if isinstance(error, RequestEntityTooLarge):
        return _error_response(status, "too_large", "the request exceeds this server's limit")
    code = re.sub(r"\W+", "_", error.name.lower())
    headers = dict(error.get_headers())
    headers.pop("Content-Type", None)
    return _error_response(status, code, str(error.description), headers)


def _handle_unexpected(error: Exception) -> Response:
    logger.error("request=%s unexpected %s", g.request_id, type(error).__name__, exc_info=error)
    return _error_response(500, "internal_error", "internal error; see the server's log")
