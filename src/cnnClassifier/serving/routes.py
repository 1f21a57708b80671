"""The upload page, /predict, health and metrics."""

from functools import partial

from flask import Blueprint, Response, g, jsonify, render_template, request

from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.serving.auth import may_give_feedback
from cnnClassifier.serving.concurrency import ConcurrencyLimiter, make_check
from cnnClassifier.serving.model_manager import ModelManager
from cnnClassifier.serving.monitoring import Metrics
from cnnClassifier.serving.predict import predict_all, read_upload


def make_blueprint(
    manager: ModelManager, config: ServingConfig, limiter: ConcurrencyLimiter, metrics: Metrics
) -> Blueprint:
    """Return the routes, which use the model in `manager`."""
    routes = Blueprint("routes", __name__)

    @routes.get("/")
    def index() -> str:
        return render_template(
            "index.html",
            max_upload_bytes=config.max_upload_bytes,
            concurrency=config.max_concurrent_requests,
            feedback=config.feedback_dir is not None and may_give_feedback(),
        )

    @routes.get("/livez")
    def livez() -> Response:
        return jsonify(status="live")

    @routes.get("/readyz")
    def readyz() -> Response:
        predictor = manager.predictor(wait=False)
        content = {"status": "ready", "model": predictor.bundle.model_id}
        content["engine"] = predictor.engine
        return jsonify(content | manager.refusal)

    @routes.get("/metrics")
    def prometheus() -> Response:
        return metrics.export()

    @routes.post("/predict")
    def predict() -> Response:
        is_disconnected = request.environ.get("waitress.client_disconnected", lambda: False)
        check = make_check(config.request_timeout_s, is_disconnected)
        with limiter.slot(check):
            upload = read_upload(request, config)
            g.image_count = len(upload.images)
            predictor = manager.predictor(wait=True)
            let_others = partial(limiter.let_others, check)
            results = predict_all(predictor, upload, config, check, let_others)
        metrics.count_predictions(results, predictor.bundle)
        return jsonify(results)

    return routes
