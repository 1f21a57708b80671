"""POST /predict: read the images and options of a request, classify them, and answer in JSON."""

import base64
import binascii
import json
import re
import time
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flask import Request

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.entity.dicom_options import DicomOptions, parse_window
from cnnClassifier.imaging.decode import shrink
from cnnClassifier.imaging.gray import mean_intensity, to_gray
from cnnClassifier.serving.errors import RequestError, error_body
from cnnClassifier.serving.predictor import Predictor
from cnnClassifier.utils.errors import ImageError
from cnnClassifier.utils.images import image_data_uri

_PREVIEW_SIZE = 512  # pixels of the longest side
OPTION_NAMES = ("window", "frame", "map", "preview")
_MAX_JSON_VALUES = 10_000
_FLAGS = {"true": True, "1": True, "false": False, "0": False}
_ACCEPTED = (
    'send JSON {"image": "<base64>"} or {"images": [...]}, a multipart form with files named '
    "`file` or `image`, or the image itself with Content-Type: image/… or application/dicom"
)
_EXPECTED_JSON = 'expected a JSON object: {"image": "<base64>"} or {"images": ["<base64>", …]}'


@dataclass(frozen=True)
class Upload:
    """The content of a request.

    Attributes:
        images: each image's bytes, or why it can't be used.
        dicom: window and frame of DICOM files.
        map: whether the response includes the class activation map.
        preview: whether the response includes the decoded image.
    """

    images: Sequence[bytes | RequestError]
    dicom: DicomOptions
    map: bool
    preview: bool


def read_upload(request: Request, config: ServingConfig) -> Upload:
    """Read the images and the options of a request; options in the body override the query.

    Raises:
        RequestError: 400, 413 or 415, with what was expected.
    """
    mimetype = request.mimetype
    options: Any = {}
    images: list[bytes | RequestError]
    if mimetype == "application/json" or mimetype.endswith("+json"):
        options = _parse_json(request.get_data(cache=False))
        images = [_decode_base64(text) for text in options["images"]]
    elif mimetype == "multipart/form-data":
        options = request.form
        parts = request.files.getlist("file") + request.files.getlist("image")
        images = [part.read() for part in parts]
    elif mimetype.startswith("image/") or mimetype == "application/dicom":
        images = [request.get_data(cache=False)]
    else:
        found = f"Content-Type {mimetype!r:.80} isn't supported" if mimetype else "no Content-Type"
        raise RequestError(415, "unsupported_type", f"{found}; {_ACCEPTED}")
    options = ChainMap(options, request.args)
    dicom = _parse_dicom_options(options)
    _check_size(images, config)
    return Upload(
        images, dicom, map=_parse_flag(options, "map"), preview=_parse_flag(options, "preview")
    )


def _parse_dicom_options(options: Mapping[str, Any]) -> DicomOptions:
    try:
        window = parse_window(str(options.get("window", "auto")))
    except ValueError as error:
        raise RequestError(400, "bad_option", str(error)) from None
    frame = str(options.get("frame", 1))
    if not re.fullmatch(r"[1-9][0-9]{0,8}", frame):
        raise RequestError(400, "bad_option", "frame: expected a whole number from 1")
    return DicomOptions(window, int(frame))


def _parse_flag(options: Mapping[str, Any], name: str) -> bool:
    value = options.get(name, False)
    if isinstance(value, str):
        value = _FLAGS.get(value)
    if not isinstance(value, bool):
        raise RequestError(400, "bad_option", f"{name}: expected true or false")
    return value


def _check_size(images: list[bytes | RequestError], config: ServingConfig) -> None:
    """Check the number of images and replace those that are too large by their error."""
    if not any(images):
        raise RequestError(400, "empty", f"no image in the request; {_ACCEPTED}")
    if len(images) > config.max_images:
        message = f"{len(images)} images in one request; the limit is {config.max_images}"
        raise RequestError(413, "too_many_images", message)
    for index, image in enumerate(images):
        if isinstance(image, bytes) and len(image) > config.max_upload_bytes:
            message = f"an image may have at most {config.max_upload_bytes:,} bytes"
            images[index] = RequestError(413, "too_large", message)


def _parse_json(body: bytes) -> dict[str, Any]:
    """Return the JSON object, with a single `image` as a list of one in `images`."""
    if body.count(b",") > _MAX_JSON_VALUES:  # millions would take many times the body's memory
        message = f"the JSON has more than {_MAX_JSON_VALUES:,} values; {_EXPECTED_JSON}"
        raise RequestError(400, "bad_json", message)
    try:
        content: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise RequestError(400, "bad_json", f"the body isn't valid JSON; {_ACCEPTED}") from None
    images = isinstance(content, dict) and content.setdefault("images", [content.get("image")])
    if not isinstance(images, list) or not images or {type(image) for image in images} != {str}:
        raise RequestError(400, "missing_image", _EXPECTED_JSON)
    return content


def _decode_base64(text: str) -> bytes | RequestError:
    if text.lstrip().startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(re.sub(r"\s+", "", text), validate=True)
    except (binascii.Error, ValueError):
        return RequestError(400, "bad_base64", "the image isn't valid base64")


def predict_all(
    predictor: Predictor,
    upload: Upload,
    config: ServingConfig,
    check: Callable[[], None],
    let_others: Callable[[], None],
) -> list[dict[str, Any]]:
    """Classify the images of a request, in order.

    Args:
        predictor: the model.
        upload: images and options.
        config: margin of uncertain predictions, and the disclaimer.
        check: called before each image; an exception from it ends the request.
        let_others: called between two images, so that many in one request delay no other request.

    Returns:
        One result for each image; where an image can't be used, its error.

    Raises:
        ImageError: the only image can't be used.
        RequestError: the only image can't be used; 422: none of several can be used.
    """
    results: list[dict[str, Any]] = []
    errors: list[ImageError | RequestError] = []
    for image in upload.images:
        if results:
            let_others()
        check()
        try:
            if isinstance(image, RequestError):
                raise image
            results.append(_predict(predictor, image, upload, config))
        except (ImageError, RequestError) as error:
            errors.append(error)
            results.append(error_body(error.code, str(error)))
    if len(errors) < len(results):
        return results
    if len(errors) == 1:
        raise errors[0]
    message = f"none of {len(errors)} images can be used; the first: {errors[0]}"
    raise RequestError(422, errors[0].code, message)


def is_uncertain(
    probabilities: Mapping[str, float], disagreement: float, bundle: ModelBundle, margin: float
) -> bool:
    """Return whether another class is almost as probable, or the heads disagree.

    Args:
        probabilities: of each class of `bundle`.
        disagreement: of the heads; compared with the bundle's limit, if it has one.
        bundle: with two classes, the positive one's probability is compared with its threshold;
            with more, the two highest with each other.
        margin: a smaller difference is uncertain.
    """
    if bundle.max_disagreement is not None and disagreement > bundle.max_disagreement:
        return True
    if bundle.positive_class and bundle.threshold is not None:
        return abs(probabilities[bundle.positive_class] - bundle.threshold) < margin
    second, highest = sorted(probabilities.values())[-2:]
    return highest - second < margin


def _predict(
    predictor: Predictor, image: bytes, upload: Upload, config: ServingConfig
) -> dict[str, Any]:
    start = time.perf_counter()
    prediction = predictor.predict(image, upload.dicom)
    bundle, limit = predictor.bundle, predictor.bundle.max_disagreement
    result: dict[str, Any] = {
        "image": prediction.label,
        "class": prediction.class_name,
        "probability": prediction.probabilities[prediction.class_name],
        "probabilities": prediction.probabilities,
        "threshold": bundle.threshold,
        "uncertain": is_uncertain(
            prediction.probabilities, prediction.disagreement, bundle, config.uncertain_margin
        ),
        "disagreement": None if limit is None else prediction.disagreement,
        "disagreement_limit": limit,
        "unfamiliar": prediction.out_of_distribution,
        "distance": prediction.distance,
        "unfamiliar_limit": prediction.ood_threshold,
        "width": prediction.pixels.shape[1],
        "height": prediction.pixels.shape[0],
        "mean_intensity": mean_intensity(to_gray(prediction.pixels)),
    }
    if upload.map:
        result["map"] = prediction.activation_map.astype(float).round(3).tolist()
    if upload.preview:
        preview = shrink(prediction.pixels, _PREVIEW_SIZE)
        result["preview"] = image_data_uri(preview, "PNG", compress_level=1)
    if prediction.dicom:
        result["dicom"] = asdict(prediction.dicom)
    return result | {
        "ms": round((time.perf_counter() - start) * 1000, 1),
        "model": prediction.model_id,
        "model_sha256": bundle.model_sha256,
        "synthetic": bundle.synthetic,
        "disclaimer": config.project.disclaimer,
    }
