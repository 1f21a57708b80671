"""One prediction for each series of images: of a DICOM series, a patient or a folder."""

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError

from cnnClassifier.entity.bundle import (
    ModelBundle,
    apply_threshold,
    is_uncertain,
    pool_probabilities,
)
from cnnClassifier.entity.config_entity import NO_GROUPS, ServingConfig
from cnnClassifier.imaging.dicom_header import is_dicom, read_series_pseudonym
from cnnClassifier.serving.errors import RequestError
from cnnClassifier.serving.predict import Upload

_TOLERANCE = 0.01  # of the sum of probabilities that a client may have rounded
_MAX_IMAGES, _MAX_BYTES = 10_000, 2_000_000  # of a request that has no images but their results
_MAX_NAME = 255  # characters of a file's name that the pattern sees
_EXPECTED = (
    'expected {"images": [{"series": "…", "probabilities": {"<class>": 0.1, …}}, …]}, such as the '
    "results of /predict?series=true, with the classes of /model"
)


def add_series(
    results: Iterable[dict[str, Any]], upload: Upload, group_pattern: str | None
) -> list[dict[str, Any]]:
    """Return the results, each with the `file` and, if it was classified, the name of its `series`.

    Args:
        results: of the images in `upload`, see `predict.predict_all`.
        upload: images and their paths.
        group_pattern: see `find_series`.
    """
    images = []
    for result, image, path in zip(results, upload.images, upload.paths, strict=True):
        added: dict[str, Any] = {"file": path}
        if "error" not in result and isinstance(image, bytes):
            added["series"] = find_series(image, path, group_pattern)
        images.append(result | added)
    return images


def find_series(data: bytes, path: str, group_pattern: str | None) -> str | None:
    """Return the name of an image's series; None if nothing tells it.

    It is, of a DICOM file, a pseudonym of its SeriesInstanceUID; else what the pattern finds in the
    file's name; else the folder.

    Args:
        data: the image file.
        path: path or name, as the client sent it.
        group_pattern: see `data_validation.group_pattern`.
    """
    if is_dicom(data):
        pseudonym = read_series_pseudonym(data)
        if pseudonym:
            return pseudonym
    pure_path = PurePosixPath(path.replace("\\", "/"))
    if group_pattern and group_pattern != NO_GROUPS:
        match = re.search(group_pattern, pure_path.name[:_MAX_NAME])
        if match and match["group"]:
            return match["group"]
    folder = str(pure_path.parent)
    return None if folder in (".", "/") else folder


def predict_series(
    images: Iterable[Mapping[str, Any]], bundle: ModelBundle, config: ServingConfig
) -> list[dict[str, Any]]:
    """Return the prediction of each series, sorted by name; see `pool_probabilities`.

    Args:
        images: results of images; those without `series` are ignored.
        bundle: the model that made them.
        config: margin of uncertain predictions.
    """
    images = [image for image in images if image.get("series") is not None]
    if not images:
        return []
    names = sorted({image["series"] for image in images})
    index_of = {name: index for index, name in enumerate(names)}
    indices = np.array([index_of[image["series"]] for image in images])
    rows = [[image["probabilities"][name] for name in bundle.classes] for image in images]
    _, pooled = pool_probabilities(np.array(rows), indices)
    predicted = apply_threshold(pooled, bundle.positive_index, bundle.threshold)
    counts = np.bincount(indices)
    unfamiliar = np.bincount(indices, [image["unfamiliar"] for image in images]).astype(int)
    series = []
    for index, name in enumerate(names):
        class_name = bundle.classes[predicted[index]]
        probabilities = dict(zip(bundle.classes, pooled[index].tolist(), strict=True))
        prediction = {
            "series": name,
            "images": int(counts[index]),
            "unfamiliar_images": int(unfamiliar[index]),
            "image": bundle.label(class_name),
            "class": class_name,
            "probability": probabilities[class_name],
            "probabilities": probabilities,
            "threshold": bundle.threshold,
            "uncertain": is_uncertain(probabilities, 0.0, bundle, config.uncertain_margin),
        }
        series.append(prediction)
    return series


class _Image(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    series: str | None = None
    probabilities: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    unfamiliar: bool = False


class _Images(BaseModel):
    images: Annotated[list[_Image], Field(max_length=_MAX_IMAGES), FailFast()]


def read_images(body: bytes, bundle: ModelBundle) -> list[dict[str, Any]]:
    """Return the results of images that a client got before, perhaps in several requests.

    Args:
        body: of the request, in JSON.
        bundle: the model; the results must have its classes.

    Raises:
        RequestError: 400 `bad_series`, with what was expected, or 413.
    """
    if len(body) > _MAX_BYTES:
        raise RequestError(413, "too_large", f"the body may have at most {_MAX_BYTES:,} bytes")
    try:
        images = _Images.model_validate_json(body).images
    except ValidationError:
        raise RequestError(400, "bad_series", _EXPECTED) from None
    members = [image.model_dump() for image in images if image.series is not None]
    for member in members:
        values = member["probabilities"]
        if values.keys() != set(bundle.classes) or abs(sum(values.values()) - 1) > _TOLERANCE:
            raise RequestError(400, "bad_series", _EXPECTED)
    if not members:
        raise RequestError(400, "bad_series", _EXPECTED)
    return members
