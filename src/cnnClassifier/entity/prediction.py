"""What the model returns: for a batch of images, and for one image file."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from cnnClassifier.entity.dicom_options import DicomInfo


@dataclass(frozen=True)
class InferenceResult:
    """The decision on n images, from one forward pass each.

    Attributes:
        probabilities: calibrated, float32 (n, classes); rows sum to 1.
        predicted: index of the predicted class, int (n,); the threshold is applied already.
        disagreement: of the heads, float32 (n,), see `ModelBundle.disagreement`.
        distances: from the training images, float32 (n,).
        out_of_distribution: bool (n,): whether the distance exceeds the bundle's `ood_threshold`.
        activation_maps: of the predicted class, float32 (n, h, w), 0 to 1.
    """

    probabilities: np.ndarray
    predicted: np.ndarray
    disagreement: np.ndarray
    distances: np.ndarray
    out_of_distribution: np.ndarray
    activation_maps: np.ndarray

    @classmethod
    def concatenate(cls, results: Iterable["InferenceResult"]) -> Self:
        """Join the results on one or more batches."""
        return cls(
            *map(np.concatenate, zip(*(vars(result).values() for result in results), strict=True))
        )


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image file.

    Attributes:
        label: display name of the predicted class, such as `Normal`.
        class_name: the predicted class as its folder is named.
        probabilities: by class name, in the model's order; they sum to 1.
        model_id: of the model.
        disagreement: standard deviation of the heads' probabilities of the class.
        out_of_distribution: whether the image is unlike all training images.
        distance: from the training images.
        ood_threshold: above this distance the image is out of distribution.
        activation_map: of the predicted class, float32 (h, w), 0 to 1.
        format: of the file's content, such as `PNG`.
        dicom: window and frame of a DICOM file; None for other files.
        pixels: the decoded image, uint8 (height, width, 3).
    """

    label: str
    class_name: str
    probabilities: dict[str, float]
    model_id: str
    disagreement: float
    out_of_distribution: bool
    distance: float
    ood_threshold: float
    activation_map: np.ndarray
    format: str
    dicom: DicomInfo | None
    pixels: np.ndarray
