"""Create the Flask app."""

import io
from pathlib import Path
from typing import IO, Any

from flask import Flask, Request
from flask_cors import CORS

from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.entity.disclaimers import SYNTHETIC
from cnnClassifier.serving import feedback, pages, protocols, routes, training_jobs
from cnnClassifier.serving.auth import Auth, Tokens
from cnnClassifier.serving.concurrency import ConcurrencyLimiter
from cnnClassifier.serving.drift_monitor import DriftMonitor
from cnnClassifier.serving.errors import handle_error
from cnnClassifier.serving.model_manager import ModelManager
from cnnClassifier.serving.monitoring import ID_HEADER, Metrics, register_request_logging
from cnnClassifier.serving.predict import OPTION_NAMES

_TEMPLATES_DIR = Path(__file__).resolve().parents[3] / "templates"


class _InMemoryRequest(Request):
    def _get_file_stream(self, *_: Any, **__: Any) -> IO[bytes]:
        return io.BytesIO()  # private images are never written to disk


def create_app(
    config: ServingConfig,
    manager: ModelManager | None = None,
    tokens: Tokens | None = None,
    jobs: training_jobs.TrainingJobs | None = None,
    candidate: ModelManager | None = None,
) -> Flask:
    """Return the app; it loads the model at the first request that needs it.

    Args:
        config: limits, origins and the bundle's folder.
        manager: one that is loading the model already.
        tokens: without any, every client is admitted.
        jobs: runs trainings; by default in the working folder.
        candidate: loads a second model; /predict compares both.
    """
    app = Flask(
        "cnnClassifier", template_folder=_TEMPLATES_DIR, static_folder=_TEMPLATES_DIR / "static"
    )
    app.jinja_env.globals |= {"project": config.project, "synthetic_notice": SYNTHETIC}
    app.request_class = _InMemoryRequest
    # Base64 takes 4 bytes for 3, and a form has headers.
    app.config["MAX_CONTENT_LENGTH"] = config.max_upload_bytes * 4 // 3 + 65536
    app.config["MAX_FORM_PARTS"] = config.max_images + len(OPTION_NAMES)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    manager = manager or ModelManager(config)
    limiter = ConcurrencyLimiter(config.max_concurrent_requests, config.max_queued_requests)
    app.extensions["concurrency_limiter"] = limiter
    drift_monitor = DriftMonitor(config)
    metrics = Metrics(limiter, drift_monitor)
    register_request_logging(app, metrics, config.frame_ancestors)
    app.register_error_handler(Exception, handle_error)
    Auth(app, config, tokens or {})
    app.register_blueprint(routes.make_blueprint(manager, config, limiter, metrics, candidate))
    app.register_blueprint(feedback.make_blueprint(manager, config, limiter))
    app.register_blueprint(protocols.make_blueprint(manager, config, limiter, metrics))
    app.register_blueprint(
        pages.make_blueprint(manager, config, drift_monitor, requires_token=bool(tokens))
    )
    jobs = jobs or training_jobs.TrainingJobs(Path.cwd(), Path("logs/jobs"))
    app.register_blueprint(training_jobs.make_blueprint(jobs))
    if config.cors_origins:
        CORS(app, origins=list(config.cors_origins), expose_headers=[ID_HEADER, "Retry-After"])
    return app
