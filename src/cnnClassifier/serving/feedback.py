"""POST /feedback: store an image with the class that is correct, until someone reviews it."""

import hashlib
import threading
from datetime import UTC, datetime

from flask import Blueprint, Response, g, jsonify, request

from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.entity.feedback import FeedbackFolder, FeedbackFullError, FeedbackRecord
from cnnClassifier.serving.auth import may_give_feedback
from cnnClassifier.serving.concurrency import ConcurrencyLimiter
from cnnClassifier.serving.errors import RequestError
from cnnClassifier.serving.model_manager import ModelManager
from cnnClassifier.serving.predict import read_upload, request_slot
from cnnClassifier.serving.predictor import Predictor
from cnnClassifier.utils.log import logger


def make_blueprint(
    manager: ModelManager, config: ServingConfig, limiter: ConcurrencyLimiter
) -> Blueprint:
    """Return the route, which uses the model in `manager`."""
    routes = Blueprint("feedback", __name__)
    lock = threading.Lock()  # so that requests at the same time don't exceed the limit together

    @routes.post("/feedback")
    def store() -> tuple[Response, int]:
        if config.feedback_dir is None:
            raise RequestError(404, "feedback_off", "this server takes no feedback")
        if not may_give_feedback():
            raise RequestError(403, "no_right", f"the token {g.token.name} may not give feedback")
        with request_slot(limiter, config):
            image, label = _read_form(config)
            g.image_count = 1
            record = _describe(manager.predictor(wait=True), image, label)
            with lock:
                is_new = _store(FeedbackFolder(config.feedback_dir), record, image, config)
        return jsonify(id=record.id, stored=True), 201 if is_new else 200

    return routes


def _read_form(config: ServingConfig) -> tuple[bytes, str]:
    """Return the image and the class of a form."""
    if request.mimetype != "multipart/form-data":
        message = "send a multipart form with the fields `file` and `label`"
        raise RequestError(415, "unsupported_type", message)
    upload = read_upload(request, config)
    if len(upload.images) != 1:
        raise RequestError(400, "too_many_images", "send one image with its correct class")
    if upload.dicom.frame != 1:
        message = "training takes the first frame of a file: give feedback on that one"
        raise RequestError(400, "bad_option", message)
    image = upload.images[0]
    if isinstance(image, RequestError):
        raise image
    return image, request.form.get("label", "")


def _describe(predictor: Predictor, image: bytes, label: str) -> FeedbackRecord:
    classes = predictor.bundle.classes
    if label not in classes:
        raise RequestError(400, "unknown_label", f"label: expected one of {', '.join(classes)}")
    prediction = predictor.predict(image)
    return FeedbackRecord(
        id=hashlib.sha256(image).hexdigest(),
        format=prediction.format,
        label=label,
        predicted=prediction.class_name,
        probabilities=prediction.probabilities,
        model_sha256=predictor.bundle.model_sha256,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _store(
    folder: FeedbackFolder, record: FeedbackRecord, image: bytes, config: ServingConfig
) -> bool:
    """Return whether it is new."""
    try:
        return folder.add(record, image, config.max_feedback_bytes)
    except FeedbackFullError:
        message = "the storage for feedback is full; its reviewer has to make room"
        raise RequestError(507, "feedback_full", message) from None
    except OSError as error:
        logger.error("request=%s feedback can't be stored", g.request_id, exc_info=error)
        message = "feedback can't be stored; see the server's log"
        raise RequestError(507, "storage_error", message) from None
