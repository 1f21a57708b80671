"""The page and the JSON routes."""

import threading
from typing import Any

from flask import Blueprint, Response, jsonify, render_template, request

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.entity.notices import DISCLAIMER
from cnnClassifier.pipeline.prediction import Predictor
from cnnClassifier.utils.errors import ImageError
from cnnClassifier.web.model_host import ModelHost
from cnnClassifier.web.problems import RequestError
from cnnClassifier.web.uploads import images_of

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
        return jsonify(_card(host.predictor(wait=True).bundle))

    @routes.post("/predict")
    def predict() -> Response:
        if not slots.acquire(timeout=_PATIENCE):
            raise RequestError(503, "busy", "too many requests at once; try again")
        try:
            images = images_of(request, config.max_upload_bytes)
            predictor = host.predictor(wait=True)
            return jsonify([_answer(predictor, data, index, len(images)) for index, data in enumerate(images, 1)])
        finally:
            slots.release()

    return routes


def _answer(predictor: Predictor, data: bytes, index: int, count: int) -> dict[str, Any]:
    try:
        prediction = predictor.predict(data)
    except ImageError as error:
        raise ImageError(error.code, f"image {index} of {count}: {error}" if count > 1 else str(error)) from error
    return {
        "image": prediction.label,
        "class": prediction.class_name,
        "probability": prediction.probabilities[prediction.class_name],
        "probabilities": prediction.probabilities,
        "unfamiliar": prediction.unfamiliar,
        "model": prediction.model_id,
        "synthetic": predictor.bundle.synthetic,
        "disclaimer": DISCLAIMER,
    }


def _card(bundle: ModelBundle) -> dict[str, Any]:
    return {
        "model": bundle.model_id,
        "backbone": bundle.backbone,
        "classes": bundle.classes,
        "labels": {name: bundle.label(name) for name in bundle.classes},
        "positive_class": bundle.positive_class,
        "threshold": bundle.threshold if len(bundle.classes) == 2 else None,
        "image_size": bundle.image_size,
        "synthetic": bundle.synthetic,
        # The kind alone: an address or a path of the training data is nobody's business here.
        "data_source": "phantom" if bundle.synthetic else "images",
        "disclaimer": DISCLAIMER,
    }
