"""The JSON of /predict."""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.entity.disclaimers import DISCLAIMER
from cnnClassifier.entity.prediction import Prediction
from cnnClassifier.imaging.decode import shrink
from cnnClassifier.serving.errors import RequestError, error_body
from cnnClassifier.serving.predict_options import PredictOptions
from cnnClassifier.serving.predictor import Predictor
from cnnClassifier.serving.uploads import Upload
from cnnClassifier.utils.errors import ImageError
from cnnClassifier.utils.images import image_data_uri

_PREVIEW_SIZE = 512  # pixels of the longest side


def predict_all(
    predictor: Predictor, upload: Upload, uncertain_margin: float, check: Callable[[], None]
) -> list[dict[str, Any]]:
    """Classify the images of a request, in order.

    Args:
        predictor: the model.
        upload: images and options.
        uncertain_margin: see `is_uncertain`.
        check: called before each image; an exception from it ends the request.

    Returns:
        One result for each image; where an image can't be used, its error.

    Raises:
        ImageError: the only image can't be used.
        RequestError: the only image can't be used; 422: none of several can be used.
    """
    results = []
    errors: list[ImageError | RequestError] = []
    for image in upload.images:
        check()
        try:
            if isinstance(image, RequestError):
                raise image
            results.append(_predict(predictor, image, upload.options, uncertain_margin))
        except (ImageError, RequestError) as error:
            errors.append(error)
            results.append(error_body(error.code, str(error)))
    if len(errors) < len(results):
        return results
    if len(errors) == 1:
        raise errors[0]
    message = f"none of {len(errors)} images can be used; the first: {errors[0]}"
    raise RequestError(422, errors[0].code, message)


def is_uncertain(prediction: Prediction, bundle: ModelBundle, margin: float) -> bool:
    """Return whether another class is almost as probable.

    Args:
        prediction: of the model that `bundle` describes.
        bundle: with two classes, the positive one's probability is compared with its threshold;
            with more, the two highest with each other.
        margin: a smaller difference is uncertain.
    """
    if len(bundle.classes) == 2:
        return abs(prediction.probabilities[bundle.positive_class] - bundle.threshold) < margin
    second, highest = sorted(prediction.probabilities.values())[-2:]
    return highest - second < margin


def _predict(
    predictor: Predictor, image: bytes, options: PredictOptions, margin: float
) -> dict[str, Any]:
    start = time.perf_counter()
    prediction = predictor.predict(image, options.dicom)
    bundle = predictor.bundle
    result: dict[str, Any] = {
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
        result["map"] = prediction.activation_map.astype(float).round(3).tolist()
    if options.preview:
        preview = shrink(prediction.pixels, _PREVIEW_SIZE)
        result["preview"] = image_data_uri(preview, "PNG", compress_level=1)
    if prediction.dicom:
        result["dicom"] = asdict(prediction.dicom)
    return result | {
        "ms": round((time.perf_counter() - start) * 1000, 1),
        "model": prediction.model_id,
        "model_sha256": bundle.model_sha256,
        "synthetic": bundle.synthetic,
        "disclaimer": DISCLAIMER,
    }
