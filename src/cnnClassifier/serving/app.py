"""Create the Flask app."""

import io
from pathlib import Path
from typing import IO, Any

from flask import Flask, Request
from flask_cors import CORS

from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.serving import api_docs, model_page, routes, training_jobs
from cnnClassifier.serving.auth import Auth, Tokens
from cnnClassifier.serving.concurrency import ConcurrencyLimiter
from cnnClassifier.serving.errors import register_error_handlers
from cnnClassifier.serving.metrics import Metrics
from cnnClassifier.serving.model_manager import ModelManager
from cnnClassifier.serving.predict_options import OPTION_NAMES
from cnnClassifier.serving.request_logging import ID_HEADER, register_request_logging
from cnnClassifier.serving.uploads import max_body_bytes

_TEMPLATES_DIR = Path(__file__).resolve().parents[3] / "templates"


class _InMemoryRequest(Request):
    def _get_file_stream(self, *_: Any, **__: Any) -> IO[bytes]:
        return io.BytesIO()  # images of patients are never written to disk


def create_app(
    config: ServingConfig,
    manager: ModelManager | None = None,
    tokens: Tokens | None = None,
    jobs: training_jobs.TrainingJobs | None = None,
) -> Flask:
    """Return the app; it loads the model at the first request that needs it.

    Args:
        config: limits, origins and the bundle's folder.
        manager: one that is loading the model already.
        tokens: without any, every client is admitted.
        jobs: runs trainings; None if the app can't train.
    """
    app = Flask(
        "cnnClassifier", template_folder=_TEMPLATES_DIR, static_folder=_TEMPLATES_DIR / "static"
    )
    app.request_class = _InMemoryRequest
    app.config["MAX_CONTENT_LENGTH"] = max_body_bytes(config.max_upload_bytes)
    app.config["MAX_FORM_PARTS"] = config.max_images + len(OPTION_NAMES)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    manager = manager or ModelManager(config)
    limiter = ConcurrencyLimiter(config.max_concurrent_requests, config.max_queued_requests)
    metrics = Metrics(limiter)
    register_request_logging(app, metrics)
    register_error_handlers(app)
    Auth(app, config, tokens or {})
    app.register_blueprint(routes.make_blueprint(manager, config, limiter, metrics))
    app.register_blueprint(model_page.make_blueprint(manager, config))
    app.register_blueprint(training_jobs.make_blueprint(jobs))
    app.register_blueprint(api_docs.make_blueprint(config, requires_token=bool(tokens)))
    if config.cors_origins:
        CORS(app, origins=list(config.cors_origins), expose_headers=[ID_HEADER, "Retry-After"])
    return app
