"""Give each request an identifier, security headers, a log line and its place in the metrics."""

import json
import logging
import re
import secrets
import time

from flask import Flask, Response, g, request

from cnnClassifier.serving.metrics import Metrics
from cnnClassifier.utils.log import logger

ID_HEADER = "X-Request-Id"
_ID_PATTERN = r"[A-Za-z0-9._-]{1,64}"
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: with it browsers send `Origin: null` even with the site's own form.
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def new_request_id() -> str:
    """Return a random request identifier."""
    return secrets.token_hex(8)


def register_request_logging(app: Flask, metrics: Metrics) -> None:
    """Log and count each request; register it before everything else that handles requests."""

    @app.before_request
    def start() -> None:
        g.start_time = time.perf_counter()
        request_id = request.headers.get(ID_HEADER, "")
        valid = re.fullmatch(_ID_PATTERN, request_id)
        g.request_id = request_id if valid else new_request_id()

    @app.after_request
    def finish(response: Response) -> Response:
        _add_headers(response)
        seconds = time.perf_counter() - g.start_time
        metrics.count_request(response, seconds)
        # The page polls /readyz; only what a user did is shown on the terminal.
        level = logging.INFO if request.method == "POST" else logging.DEBUG
        logger.log(level, "%s", _log_line(response, seconds))
        return response


def _add_headers(response: Response) -> None:
    headers = response.headers
    for name, value in SECURITY_HEADERS.items():
        headers.setdefault(name, value)
    headers[ID_HEADER] = g.request_id
    if request.is_secure:  # over plain HTTP browsers ignore it and log a warning
        headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
    if headers.get("Access-Control-Allow-Origin"):
        headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    if request.endpoint != "static":
        headers.setdefault("Cache-Control", "no-store")


def _log_line(response: Response, seconds: float) -> str:
    """Return the request as logfmt, without content, file names or query."""
    fields = {
        "method": request.method[:10] if request.method.isalpha() else "other",
        "path": json.dumps(request.path[:200]),
        "status": response.status_code,
        "bytes": request.content_length or 0,
        "ms": f"{seconds * 1000:.0f}",
        "request": g.request_id,
        "client": g.get("client", "-"),
        "images": g.get("image_count", 0),
        "code": g.get("error_code", "-"),
    }
    return " ".join(f"{name}={value}" for name, value in fields.items())
