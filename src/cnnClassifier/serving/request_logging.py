"""Give each request an identifier, and each answer its headers, one line in the log and its place in the metrics."""

import json
import logging
import re
import secrets
import time

from flask import Flask, Response, g, request

from cnnClassifier.serving.metrics import Metrics
from cnnClassifier.utils.log import logger

ID_HEADER = "X-Request-Id"
ID_PATTERN = r"[A-Za-z0-9._-]{1,64}"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: with it browsers say `Origin: null` even where the site's own form is sent.
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def new_id() -> str:
    """Return a random request identifier."""
    return secrets.token_hex(8)


def register_record(app: Flask, metrics: Metrics) -> None:
    """Record each request; register it before all else that looks at requests."""

    def start() -> None:
        g.started = time.perf_counter()
        given = request.headers.get(ID_HEADER, "")
        g.request_id = given if re.fullmatch(ID_PATTERN, given) else new_id()

    def finish(response: Response) -> Response:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers[ID_HEADER] = g.request_id
        if request.is_secure:  # over plain HTTP browsers ignore it, and complain
            response.headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
        if response.headers.get("Access-Control-Allow-Origin"):
            response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        if request.endpoint != "static":
            response.headers.setdefault("Cache-Control", "no-store")
        spent = time.perf_counter() - g.started
        metrics.count_request(response, spent)
        # The page asks /readyz again and again; only what a person did goes to the terminal.
        logger.log(
            logging.INFO if request.method == "POST" else logging.DEBUG,
            "%s",
            _line(response, spent),
        )
        return response

    app.before_request(start)
    app.after_request(finish)


def _line(response: Response, seconds: float) -> str:
    """Return the request as logfmt: neither content, nor names of files, nor anything of the query."""
    facts = {
        "method": request.method[:10] if request.method.isalpha() else "odd",
        "path": json.dumps(request.path[:200]),
        "status": response.status_code,
        "bytes": request.content_length or 0,
        "ms": f"{seconds * 1000:.0f}",
        "request": g.request_id,
        "client": g.get("client", "-"),
        "images": g.get("images", 0),
        "code": g.get("error_code", "-"),
    }
    return " ".join(f"{name}={value}" for name, value in facts.items())
