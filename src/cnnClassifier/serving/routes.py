"""The upload page, /predict, /series, health and metrics."""

from flask import Blueprint, Response, jsonify, render_template, request

from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.serving.auth import may_give_feedback
from cnnClassifier.serving.concurrency import ConcurrencyLimiter
from cnnClassifier.serving.model_manager import ModelManager
from cnnClassifier.serving.monitoring import Metrics
from cnnClassifier.serving.predict import Classifier, read_upload, request_slot
from cnnClassifier.serving.series import add_series, predict_series, read_images


def make_blueprint(
    manager: ModelManager,
    config: ServingConfig,
    limiter: ConcurrencyLimiter,
    metrics: Metrics,
    candidate: ModelManager | None,
) -> Blueprint:
    """Return the routes, which use the model in `manager` and compare it with the candidate."""
    routes = Blueprint("routes", __name__)
    classifier = Classifier(manager, config, limiter, metrics, candidate)

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
    @routes.post("/v1/predict", endpoint="predict_v1")
    def predict() -> Response:
        results, upload, bundle = classifier.run(read_upload)
        if not upload.series:
            return jsonify(results)
        images = add_series(results, upload, config.group_pattern)
        return jsonify(images=images, series=predict_series(images, bundle, config))

    @routes.post("/series")
    def series() -> Response:
        with request_slot(limiter, config):
            bundle = manager.predictor(wait=True).bundle
            images = read_images(request.get_data(cache=False), bundle)
            return jsonify(series=predict_series(images, bundle, config))

    return routes
