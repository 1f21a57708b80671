"""The page and the JSON routes."""

import threading

from flask import Blueprint, Response, jsonify, render_template, request

from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.entity.notices import DISCLAIMER
from cnnClassifier.web.answers import answer_all, card_of
from cnnClassifier.web.model_host import ModelHost
from cnnClassifier.web.problems import RequestError
from cnnClassifier.web.uploads import read_upload

# How many requests hold images in memory at once; the others wait for so many seconds.
_AT_ONCE = 2
_PATIENCE = 30.0


def make_routes(host: ModelHost, config: ServingConfig) -> Blueprint:
    """Return the app's routes, answered by the model in `host`."""
    routes = Blueprint("routes", __name__)
    slots = threading.BoundedSemaphore(_AT_ONCE)

    @routes.get("/")
    def page() -> str:
        return render_template("index.html", disclaimer=DISCLAIMER, max_upload_bytes=config.max_upload_bytes)

    @routes.get("/livez")
    def livez() -> Response:
        return jsonify(status="live")

    @routes.get("/readyz")
    def readyz() -> Response:
        return jsonify(status="ready", model=host.predictor(wait=False).bundle.model_id)

    @routes.get("/model")
    def model() -> Response:
        return jsonify(card_of(host.predictor(wait=True).bundle))

    @routes.post("/predict")
    def predict() -> Response:
        if not slots.acquire(timeout=_PATIENCE):
            raise RequestError(503, "busy", "too many requests at once; try again")
        try:
            upload = read_upload(request, config)
            return jsonify(answer_all(host.predictor(wait=True), upload, config.uncertain_margin, lambda: None))
        finally:
            slots.release()

    return routes
