"""Options of a request to /predict, besides its images."""

import re
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cnnClassifier.entity.dicom_options import DicomOptions, parse_window
from cnnClassifier.serving.errors import RequestError

OPTION_NAMES = ("window", "frame", "map", "preview")
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class PredictOptions:
    """Options of one request.

    Attributes:
        dicom: window and frame of DICOM files.
        map: whether the response includes the class activation map.
        preview: whether the response includes the decoded image.
    """

    dicom: DicomOptions
    map: bool
    preview: bool


def parse_options(*sources: Any) -> PredictOptions:
    """Read the options; where two sources have the same one, the first overrides.

    Args:
        sources: JSON object, form fields or query.

    Raises:
        RequestError: 400 `bad_option`, with what was expected.
    """
    values = ChainMap(*sources)
    try:
        window = parse_window(str(values.get("window", "auto")))
    except ValueError as error:
        raise RequestError(400, "bad_option", str(error)) from None
    frame = str(values.get("frame", 1))
    if not re.fullmatch(r"[1-9][0-9]{0,8}", frame):
        raise RequestError(400, "bad_option", "frame: expected a whole number from 1")
    dicom = DicomOptions(window, int(frame))
    return PredictOptions(dicom, _parse_flag(values, "map"), _parse_flag(values, "preview"))


def _parse_flag(values: Mapping[str, Any], name: str) -> bool:
    value = values.get(name, False)
    if isinstance(value, str):
        value = _FLAGS.get(value)
    if not isinstance(value, bool):
        raise RequestError(400, "bad_option", f"{name}: expected true or false")
    return value
