"""Read the images and options of a request to /predict, and classify the images of any request."""

import base64
import binascii
import json
import re
import time
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

from flask import Request, g, request

from cnnClassifier.entity.bundle import ModelBundle, is_uncertain
from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.entity.dicom_options import DicomOptions, parse_window
from cnnClassifier.imaging.decode import shrink
from cnnClassifier.imaging.gray import mean_intensity, to_gray
from cnnClassifier.serving.archive import File, unpack_archives
from cnnClassifier.serving.comparison import compare
from cnnClassifier.serving.concurrency import ConcurrencyLimiter, make_check
from cnnClassifier.serving.errors import RequestError, error_body, release_frames
from cnnClassifier.serving.model_manager import ModelManager
from cnnClassifier.serving.monitoring import Metrics
from cnnClassifier.serving.predictor import Predictor
from cnnClassifier.utils.errors import ImageError
from cnnClassifier.utils.images import image_data_uri

_PREVIEW_SIZE = 512  # pixels of the longest side
_MAX_UNPACKED = 4  # times the size of one image, for all images in zip archives together
_MAX_JSON_PARTS = 1_000_000  # lists, objects and quotes; numbers need less memory
OPTION_NAMES = ("window", "frame", "map", "preview", "series")
_FILE_TYPES = ("application/dicom", "application/zip", "application/x-zip-compressed")
_FLAGS = {"true": True, "1": True, "false": False, "0": False}
_ACCEPTED = (
    'send JSON {"image": "<base64>"} or {"images": [...]}, a multipart form with files named '
    "`file` or `image`, or the file itself with Content-Type: image/…, application/dicom or "
    "application/zip"
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
        series: whether the response includes the series of each image.
        paths: path or name of each image, as the client sent it; only for `series`.
    """

    images: Sequence[bytes | RequestError]
    dicom: DicomOptions
    map: bool = False
    preview: bool = False
    series: bool = False
    paths: Sequence[str] = ()


UploadT = TypeVar("UploadT", bound=Upload)


def read_upload(request: Request, config: ServingConfig) -> Upload:
    """Read the images and the options of a request; options in the body override the query.

    Raises:
        RequestError: 400, 413 or 415, with what was expected.
    """
    mimetype = request.mimetype
    options: Any = {}
    files: list[File]
    if is_json(request):
        options = _parse_images(request.get_data(cache=False))
        files = [("", decode_base64(text)) for text in options["images"]]
    elif mimetype == "multipart/form-data":
        options = request.form
        parts = request.files.getlist("file") + request.files.getlist("image")
        files = [(part.filename or "", part.read()) for part in parts]
    elif mimetype.startswith("image/") or mimetype in _FILE_TYPES:
        files = [("", request.get_data(cache=False))]
    else:
        found = f"Content-Type {mimetype!r:.80} isn't supported" if mimetype else "no Content-Type"
        raise RequestError(415, "unsupported_type", f"{found}; {_ACCEPTED}")
    options = ChainMap(options, request.args)
    dicom = parse_dicom_options(options)
    files = unpack_archives(files, _MAX_UNPACKED * config.max_upload_bytes)
    images = check_size([image for _, image in files], config)
    flags = {name: _parse_flag(options, name) for name in ("map", "preview", "series")}
    return Upload(images, dicom, **flags, paths=[path for path, _ in files])


def is_json(request: Request) -> bool:
    """Return whether the body of a request is JSON."""
    return request.mimetype == "application/json" or request.mimetype.endswith("+json")


def parse_dicom_options(options: Mapping[str, Any]) -> DicomOptions:
    """Read `window` and `frame`.

    Raises:
        RequestError: 400, with what was expected.
    """
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


def check_size(
    images: Sequence[bytes | RequestError], config: ServingConfig
) -> list[bytes | RequestError]:
    """Check the number of images, and replace those that are too large by their error.

    Raises:
        RequestError: 400 `empty` or 413 `too_many_images`.
    """
    if not any(images):
        raise RequestError(400, "empty", f"no image in the request; {_ACCEPTED}")
    check_count(len(images), config)
    checked: list[bytes | RequestError] = []
    for image in images:
        if isinstance(image, bytes) and len(image) > config.max_upload_bytes:
            message = f"an image may have at most {config.max_upload_bytes:,} bytes"
            image = RequestError(413, "too_large", message)
        checked.append(image)
    return checked


def check_count(count: int, config: ServingConfig) -> None:
    """Check the number of images of a request.

    Raises:
        RequestError: 413 `too_many_images`.
    """
    if count > config.max_images:
        message = f"{count} images in one request; the limit is {config.max_images}"
        raise RequestError(413, "too_many_images", message)


def parse_json(body: bytes, expected: str) -> dict[str, Any]:
    """Return the JSON object in a body.

    Args:
        body: of a request.
        expected: what to send, for the message.

    Raises:
        RequestError: 400 `bad_json` or `missing_image`, or 413.
    """
    check_json(body)
    try:
        content: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise RequestError(400, "bad_json", f"the body isn't valid JSON; {expected}") from None
    if not isinstance(content, dict):
        raise RequestError(400, "missing_image", expected)
    return content


def check_json(body: bytes) -> None:
    """Refuse JSON that would need many times its size in memory.

    Raises:
        RequestError: 413 `too_large`.
    """
    if sum(map(body.count, (b"[", b"{", b'"'))) > _MAX_JSON_PARTS:
        message = f"more than {_MAX_JSON_PARTS:,} lists, objects and quotes in the JSON"
        raise RequestError(413, "too_large", message)


def _parse_images(body: bytes) -> dict[str, Any]:
    """Return the JSON object, with a single `image` as a list of one in `images`."""
    content = parse_json(body, _EXPECTED_JSON)
    images = content.setdefault("images", [content.get("image")])
    if not isinstance(images, list) or not images or {type(image) for image in images} != {str}:
        raise RequestError(400, "missing_image", _EXPECTED_JSON)
    return content


def decode_base64(text: str) -> bytes | RequestError:
    """Return the bytes of base64 or of a data URI; where the text is neither, the error."""
    if text.lstrip().startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(re.sub(r"\s+", "", text), validate=True)
    except (binascii.Error, ValueError):
        return RequestError(400, "bad_base64", "the image isn't valid base64")


@contextmanager
def request_slot(
    limiter: ConcurrencyLimiter, config: ServingConfig
) -> Iterator[Callable[[], None]]:
    """Hold a slot for the current request; yield a check whether it has to end."""
    is_disconnected = request.environ.get("waitress.client_disconnected", lambda: False)
    check = make_check(config.request_timeout_s, is_disconnected)
    with limiter.slot(check):
        yield check


class Classifier:
    """Classify the images of a request: in a slot, with the loaded model, and count them.

    Args:
        manager: has the model.
        config: limits, margin of uncertain predictions, and the disclaimer.
        limiter: its slots.
        metrics: counts the predictions.
        candidate: has a second model, whose predictions are added.
    """

    def __init__(
        self,
        manager: ModelManager,
        config: ServingConfig,
        limiter: ConcurrencyLimiter,
        metrics: Metrics,
        candidate: ModelManager | None = None,
    ) -> None:
        self._manager = manager
        self._config = config
        self._limiter = limiter
        self._metrics = metrics
        self._candidate = candidate

    def run(
        self, read: Callable[[Request, ServingConfig], UploadT]
    ) -> tuple[list[dict[str, Any]], UploadT, ModelBundle]:
        """Classify the images of the current request, see `predict_all`.

        Args:
            read: takes the images from the request, as `read_upload` does; called in the slot, for
                the images need memory.

        Returns:
            The result of each image, what `read` returned, and the model.
        """
        with request_slot(self._limiter, self._config) as check:
            upload = read(request, self._config)
            g.image_count = len(upload.images)
            predictor = self._manager.predictor(wait=True)
            yield_slot = partial(self._limiter.yield_slot, check)
            results = predict_all(
                predictor, upload, self._config, check, yield_slot, self._candidate
            )
        self._metrics.count_predictions(results, predictor.bundle)
        return results, upload, predictor.bundle


def predict_all(
    predictor: Predictor,
    upload: Upload,
    config: ServingConfig,
    check: Callable[[], None],
    yield_slot: Callable[[], None],
    candidate: ModelManager | None = None,
) -> list[dict[str, Any]]:
    """Classify the images of a request, in order.

    Args:
        predictor: the model.
        upload: images and options.
        config: margin of uncertain predictions, and the disclaimer.
        check: called before each image; an exception from it ends the request.
        yield_slot: called between two images, so that many in one request delay no other request.
        candidate: has a second model, whose predictions are added as `compared`.

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
            yield_slot()
        check()
        try:
            if isinstance(image, RequestError):
                raise image
            results.append(_predict(predictor, image, upload, config, candidate))
        except (ImageError, RequestError) as error:
            release_frames(error)
            errors.append(error)
            results.append(error_body(error.code, str(error)))
    if len(errors) < len(results):
        return results
    if len(errors) == 1:
        raise errors[0]
    message = f"none of {len(errors)} images can be used; the first: {errors[0]}"
    raise RequestError(422, errors[0].code, message)


def _predict(
    predictor: Predictor,
    image: bytes,
    upload: Upload,
    config: ServingConfig,
    candidate: ModelManager | None,
) -> dict[str, Any]:
    start = time.perf_counter()
    prepared = predictor.prepare(image, upload.dicom)
    prediction = predictor.predict_prepared(prepared)
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
    result |= {
        "ms": round((time.perf_counter() - start) * 1000, 1),
        "model": prediction.model_id,
        "model_sha256": bundle.model_sha256,
        "synthetic": bundle.synthetic,
        "disclaimer": config.project.disclaimer,
    }
    if candidate:
        class_name = prediction.class_name
        result["compared"] = compare(class_name, image, upload.dicom, prepared, candidate)
    return result
