"""Predict with a second model, the candidate, and compare."""

from typing import Any

from cnnClassifier.entity.dicom_options import DicomOptions
from cnnClassifier.serving.errors import RequestError, error_body
from cnnClassifier.serving.model_manager import ModelManager
from cnnClassifier.serving.predictor import PreparedImage
from cnnClassifier.utils.errors import ImageError
from cnnClassifier.utils.log import logger


def compare(
    class_name: str,
    image: bytes,
    dicom_options: DicomOptions,
    prepared: PreparedImage,
    candidate: ModelManager,
) -> dict[str, Any]:
    """Return the candidate's prediction; where it has none, the error, for it is no one else's.

    Args:
        class_name: the prediction of the model that is served.
        image: the file.
        dicom_options: window and frame as requested.
        prepared: the image as the served model's input.
        candidate: has the second model.
    """
    try:
        predictor = candidate.loaded_predictor()
        prepared = predictor.prepare(image, dicom_options, prepared)
        prediction = predictor.predict_prepared(prepared)
    except (ImageError, RequestError) as error:
        return error_body(error.code, str(error))
    except Exception as error:
        logger.error("the candidate fails: %s", type(error).__name__, exc_info=error)
        return error_body("candidate_failed", "the candidate fails; see the server's log")
    return {
        "model": prediction.model_id,
        "class": prediction.class_name,
        "probability": prediction.probabilities[prediction.class_name],
        "probabilities": prediction.probabilities,
        "agrees": prediction.class_name == class_name,
    }
