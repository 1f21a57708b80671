"""The images with the worst predictions, and their class activation maps."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from cnnClassifier.evaluation.metrics import LabeledPredictions

_OPACITY = 0.65


@dataclass(frozen=True)
class GalleryImage:
    """An image of the gallery.

    Attributes:
        path: as in the manifest.
        actual: its class.
        predicted: the class that the model predicts.
        probability: of the predicted class.
        pixels: the input of the model, uint8 (height, width, 3).
        overlay: the image with its class activation map.
    """

    path: str
    actual: str
    predicted: str
    probability: float
    pixels: np.ndarray
    overlay: np.ndarray

    @property
    def correct(self) -> bool:
        """Whether the prediction is right."""
        return self.actual == self.predicted


def worst_predictions(predictions: LabeledPredictions, count: int) -> list[int]:
    """Return the indices of the errors, largest loss first, then of the least certain images.

    Args:
        predictions: on the test split.
        count: maximum number of indices.
    """
    labels = predictions.labels[:, None]
    true_class = np.take_along_axis(predictions.probabilities, labels, axis=1)[:, 0]
    return np.lexsort((true_class, predictions.correct))[:count].tolist()


def overlay(image: np.ndarray, activation: np.ndarray) -> np.ndarray:
    """Draw a class activation map over an image: bright and opaque where the activation is high.

    Args:
        image: uint8, (height, width, 3).
        activation: float, (h, w), 0 to 1; scaled to the image.

    Returns:
        uint8, (height, width, 3).
    """
    from matplotlib import colormaps

    size = (image.shape[1], image.shape[0])
    smooth = Image.fromarray(activation.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    strength = np.asarray(smooth).clip(0, 1)
    color = 255 * colormaps["inferno"](strength)[..., :3]
    opacity = _OPACITY * strength[..., None]
    return (image * (1 - opacity) + color * opacity).round().astype(np.uint8)
