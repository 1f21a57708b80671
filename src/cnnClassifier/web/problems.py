"""Every error leaves as JSON: {"error": {"code": …, "message": …}}."""

from flask import Flask, Response, jsonify
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from cnnClassifier.utils.errors import ImageError
from cnnClassifier.utils.log import logger
from cnnClassifier.web.model_host import ModelUnavailableError


class RequestError(Exception):
    """The request can't be used.

    Attributes:
        status: the HTTP status.
        code: a stable word for programs.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def content_of(code: str, message: str) -> dict[str, dict[str, str]]:
    """Return the body of an error."""
    return {"error": {"code": code, "message": message}}


def register_problems(app: Flask) -> None:
    """Make `app` answer each kind of exception in JSON."""
    app.register_error_handler(RequestError, lambda e: _answer(e.status, e.code, str(e)))
    app.register_error_handler(ImageError, lambda e: _answer(413 if e.code == "too_large" else 422, e.code, str(e)))
    app.register_error_handler(ModelUnavailableError, _unavailable)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unexpected)


def _answer(status: int, code: str, message: str) -> Response:
    response = jsonify(content_of(code, message))
    response.status_code = status
    return response


def _unavailable(error: ModelUnavailableError) -> Response:
    response = _answer(503, error.code, str(error))
    response.headers["Retry-After"] = "1" if error.code == "loading" else "5"
    return response


def _http(error: HTTPException) -> Response:
    status = error.code or 500
    if isinstance(error, RequestEntityTooLarge):
        return _answer(status, "too_large", "the request is larger than this server takes")
    response = _answer(status, error.name.lower().replace(" ", "_"), str(error.description))
    for name, value in error.get_headers():
        if name not in ("Content-Type", "Content-Length"):
            response.headers[name] = value
    return response


def _unexpected(error: Exception) -> Response:
    logger.error("unexpected %s", type(error).__name__, exc_info=error)
    return _answer(500, "internal_error", "something went wrong in the server; its log says more")
