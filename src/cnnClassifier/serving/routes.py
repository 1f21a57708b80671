"""The page and the JSON routes."""

import time

from flask import Blueprint, Response, g, jsonify, render_template, request

from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.entity.disclaimers import DISCLAIMER
from cnnClassifier.serving.concurrency import ConcurrencyLimiter, checker
from cnnClassifier.serving.evaluated import scores_of
from cnnClassifier.serving.metrics import Metrics
from cnnClassifier.serving.model_manager import ModelManager
from cnnClassifier.serving.responses import answer_all, facts_of
from cnnClassifier.serving.uploads import read_upload


def make_routes(
    host: ModelManager, config: ServingConfig, turns: ConcurrencyLimiter, metrics: Metrics
) -> Blueprint:
    """Return the app's routes, answered by the model in `host`."""
    routes = Blueprint("routes", __name__)

    @routes.get("/")
    def page() -> str:
        return render_template(
            "index.html", disclaimer=DISCLAIMER, max_upload_bytes=config.max_upload_bytes
        )

    @routes.get("/livez")
    def livez() -> Response:
        return jsonify(status="live")

    @routes.get("/readyz")
    def readyz() -> Response:
        predictor = host.predictor(wait=False)
        facts = {"status": "ready", "model": predictor.bundle.model_id, "engine": predictor.engine}
        return jsonify(facts | ({"refused": host.refused} if host.refused else {}))

    @routes.get("/model")
    def model() -> Response:
        bundle = host.predictor(wait=True).bundle
        return jsonify(facts_of(bundle, scores_of(bundle, config.evaluation_dir)))

    @routes.get("/metrics")
    def prometheus() -> Response:
        return metrics.page()

    @routes.post("/predict")
    def predict() -> Response:
        gone = request.environ.get("waitress.client_disconnected", lambda: False)
        check = checker(time.monotonic() + config.request_timeout_s, gone)
        with turns.take(check):
            upload = read_upload(request, config)
            g.images = len(upload.images)
            predictor = host.predictor(wait=True)
            answers = answer_all(predictor, upload, config.uncertain_margin, check)
        metrics.count_answers(answers, predictor.bundle)
        return jsonify(answers)

    return routes
