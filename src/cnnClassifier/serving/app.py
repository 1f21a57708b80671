"""Put the Flask app together."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from flask import Flask, Request
from flask_cors import CORS

from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.serving.api_docs import make_docs
from cnnClassifier.serving.auth import Access
from cnnClassifier.serving.concurrency import ConcurrencyLimiter
from cnnClassifier.serving.errors import register_problems
from cnnClassifier.serving.metrics import Metrics
from cnnClassifier.serving.model_manager import ModelManager
from cnnClassifier.serving.pages import make_pages
from cnnClassifier.serving.predict_options import READERS
from cnnClassifier.serving.request_logging import ID_HEADER, register_record
from cnnClassifier.serving.routes import make_routes
from cnnClassifier.serving.tokens import Token
from cnnClassifier.serving.training_jobs import Jobs
from cnnClassifier.serving.training_routes import make_training_routes
from cnnClassifier.serving.uploads import body_limit

_TEMPLATES = Path(__file__).resolve().parents[3] / "templates"


class _Request(Request):
    def _get_file_stream(self, *_: Any, **__: Any) -> IO[bytes]:
        return io.BytesIO()  # pictures of patients stay off the disk, also for a moment


def create_app(
    config: ServingConfig,
    host: ModelManager | None = None,
    tokens: Sequence[Token] = (),
    jobs: Jobs | None = None,
) -> Flask:
    """Return the app; it loads the model at the first request that needs it.

    Args:
        config: limits, origins and where the bundle is.
        host: a model host that is loading already.
        tokens: who is let in; everyone where there are none.
        jobs: runs trainings; None where the app can't train.
    """
    app = Flask(
        "cnnClassifier", template_folder=str(_TEMPLATES), static_folder=str(_TEMPLATES / "static")
    )
    app.request_class = _Request
    app.config["MAX_CONTENT_LENGTH"] = body_limit(config.max_upload_bytes)
    app.config["MAX_FORM_PARTS"] = config.max_images + len(READERS)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    turns = ConcurrencyLimiter(config.max_concurrent_requests, config.max_queued_requests)
    metrics = Metrics(turns)
    register_record(app, metrics)
    register_problems(app)
    Access(app, config, tokens)
    host = host or ModelManager.of(config)
    app.register_blueprint(make_routes(host, config, turns, metrics))
    app.register_blueprint(make_pages(host, config))
    app.register_blueprint(make_training_routes(jobs))
    app.register_blueprint(make_docs(config, secured=bool(tokens)))
    if config.cors_origins:
        CORS(app, origins=list(config.cors_origins), expose_headers=[ID_HEADER, "Retry-After"])
    return app
