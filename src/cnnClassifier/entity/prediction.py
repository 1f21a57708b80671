"""The answer for one image."""

from dataclasses import dataclass

import numpy as np

from cnnClassifier.entity.dicom_options import DicomInfo


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image.

    Attributes:
        label: the class for people, such as `Normal`.
        class_name: the class as its folder is named.
        probabilities: one for each class name, in the model's order; they sum to 1.
        model_id: which model said so.
        unfamiliar: whether the image is unlike all that the model was trained on.
        distance: from the training images.
        unfamiliar_limit: beyond this distance it is unfamiliar.
        map: class activation map of the called class, float32 (h, w), 0 to 1.
        dicom: window and frame, where it is a DICOM file.
        pixels: the picture as decoded, uint8 (height, width, 3), scaled down to at most 512 on the longest side.
    """

    label: str
    class_name: str
    probabilities: dict[str, float]
    model_id: str
    unfamiliar: bool
    distance: float
    unfamiliar_limit: float
    map: np.ndarray
    dicom: DicomInfo | None
    pixels: np.ndarray


@dataclass(frozen=True)
class InferenceResult:
    """What one forward pass tells of n images.

    Attributes:
        probabilities: calibrated, float32 (n, classes).
        distances: from the training images, float32 (n,); unfamiliar beyond the bundle's limit.
        maps: class activation map of the called class, float32 (n, h, w), 0 to 1.
    """

    probabilities: np.ndarray
    distances: np.ndarray
    maps: np.ndarray
