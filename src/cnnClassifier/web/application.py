"""Put the Flask app together."""

import logging
import time
from pathlib import Path

from flask import Flask, Response, g, request
from flask_cors import CORS

from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.utils.log import logger
from cnnClassifier.web.model_host import ModelHost
from cnnClassifier.web.options import Options
from cnnClassifier.web.problems import register_problems
from cnnClassifier.web.routes import make_routes
from cnnClassifier.web.uploads import body_limit

_TEMPLATES = Path(__file__).resolve().parents[3] / "templates"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def create_app(config: ServingConfig, host: ModelHost | None = None) -> Flask:
    """Return the app; it loads the model at the first request that needs it.

    Args:
        config: limits, origins and where the bundle is.
        host: a model host that is loading already.
    """
    app = Flask("cnnClassifier", template_folder=str(_TEMPLATES), static_folder=str(_TEMPLATES / "static"))
    app.config["MAX_CONTENT_LENGTH"] = body_limit(config.max_upload_bytes)
    app.config["MAX_FORM_PARTS"] = config.max_images + len(Options.__dataclass_fields__)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    host = host or ModelHost(config.bundle_dir, config.max_pixels)
    app.register_blueprint(make_routes(host, config))
    register_problems(app)
    if config.cors_origins:
        CORS(app, origins=list(config.cors_origins))
    app.before_request(_start_clock)
    app.after_request(_finish)
    return app


def _start_clock() -> None:
    g.started = time.perf_counter()


def _finish(response: Response) -> Response:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    if request.endpoint != "static":
        response.headers.setdefault("Cache-Control", "no-store")
    # The page asks /readyz again and again; only what a person did goes to the terminal.
    level = logging.INFO if request.method == "POST" else logging.DEBUG
    spent = (time.perf_counter() - g.get("started", time.perf_counter())) * 1000
    logger.log(
        level,
        "method=%s path=%r status=%d bytes=%s ms=%.0f",
        request.method,
        request.path[:200],
        response.status_code,
        request.content_length,
        spent,
    )
    return response
