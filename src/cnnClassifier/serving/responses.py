"""From predictions to the JSON that leaves."""

import base64
import io
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from PIL import Image

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.entity.disclaimers import DISCLAIMER
from cnnClassifier.entity.prediction import Prediction
from cnnClassifier.serving.errors import RequestError, content_of
from cnnClassifier.serving.evaluated import figure_of
from cnnClassifier.serving.predict_options import Options
from cnnClassifier.serving.predictor import Predictor
from cnnClassifier.serving.uploads import Upload
from cnnClassifier.utils.errors import ImageError


def answer_all(
    predictor: Predictor, upload: Upload, margin: float, before_each: Callable[[], None]
) -> list[dict[str, Any]]:
    """Return one answer for each image, in order; an image that can't be used has its error as its answer.

    Args:
        predictor: the model.
        upload: images and options.
        margin: see `is_uncertain`.
        before_each: called before each image; what it raises ends the request.

    Raises:
        ImageError: the only image can't be used.
        RequestError: none of several can be used: 422 with the first one's code.
    """
    answers: list[dict[str, Any]] = []
    first: ImageError | RequestError | None = None
    for data in upload.images:
        before_each()
        try:
            if isinstance(data, RequestError):
                raise data
            answers.append(_answer(predictor, data, upload.options, margin))
        except (ImageError, RequestError) as error:
            if len(upload.images) == 1:
                raise
            first = first or error
            answers.append(content_of(error.code, str(error)))
    if first and all("error" in answer for answer in answers):
        raise RequestError(
            422, first.code, f"none of {len(answers)} images can be used; the first: {first}"
        )
    return answers


def is_uncertain(prediction: Prediction, bundle: ModelBundle, margin: float) -> bool:
    """Return whether another class was nearly called.

    Args:
        prediction: of the model that `bundle` describes.
        bundle: of two classes the positive one's probability is held against its threshold, of more the best two
            against each other.
        margin: how near is nearly.
    """
    if len(bundle.classes) == 2:
        return abs(prediction.probabilities[bundle.positive_class] - bundle.threshold) < margin
    best, second = sorted(prediction.probabilities.values(), reverse=True)[:2]
    return best - second < margin


def _answer(predictor: Predictor, data: bytes, options: Options, margin: float) -> dict[str, Any]:
    started = time.perf_counter()
    prediction = predictor.predict(data, options.reading)
    bundle = predictor.bundle
    answer: dict[str, Any] = {
        "image": prediction.label,
        "class": prediction.class_name,
        "probability": prediction.probabilities[prediction.class_name],
        "probabilities": prediction.probabilities,
        "threshold": bundle.threshold if len(bundle.classes) == 2 else None,
        "uncertain": is_uncertain(prediction, bundle, margin),
        "unfamiliar": prediction.out_of_distribution,
        "distance": prediction.distance,
        "unfamiliar_limit": prediction.ood_threshold,
    }
    if options.map:
        answer["map"] = [
            [round(value, 3) for value in row] for row in prediction.activation_map.tolist()
        ]
    if options.preview:
        answer["preview"] = preview_of(prediction.pixels)
    if prediction.dicom:
        answer["dicom"] = asdict(prediction.dicom)
    return answer | {
        "ms": round((time.perf_counter() - started) * 1000, 1),
        "model": prediction.model_id,
        "model_sha256": bundle.model_sha256,
        "synthetic": bundle.synthetic,
        "disclaimer": DISCLAIMER,
    }


def preview_of(pixels: np.ndarray) -> str:
    """Return a picture as a PNG data URI.

    Args:
        pixels: uint8, (height, width, 3), RGB.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def facts_of(bundle: ModelBundle, scores: dict[str, Any] | None) -> dict[str, Any]:
    """Return what /model tells.

    Args:
        bundle: the model.
        scores: content of its scores.json, where that is at hand.
    """
    return {
        "model": bundle.model_id,
        "model_sha256": bundle.model_sha256,
        "backbone": bundle.backbone,
        "classes": bundle.classes,
        "labels": {name: bundle.label(name) for name in bundle.classes},
        "positive_class": bundle.positive_class,
        "threshold": bundle.threshold if len(bundle.classes) == 2 else None,
        "image_size": bundle.image_size,
        "synthetic": bundle.synthetic,
        # The kind alone: an address or a path of the training data is nobody's business here.
        "data_source": "phantom" if bundle.synthetic else "images",
        "metrics": scores and {name: figure_of(scores, name) for name in scores["counts"]},
        "disclaimer": DISCLAIMER,
    }
