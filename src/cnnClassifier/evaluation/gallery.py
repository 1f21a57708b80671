"""The images that the model got most wrong, and where in them it looked."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from cnnClassifier.evaluation.metrics import Outcome

_OPACITY = 0.65


@dataclass(frozen=True)
class Case:
    """One image of the gallery.

    Attributes:
        path: as in the manifest.
        true: its class.
        called: the class that the model calls.
        probability: of the called class.
        image: as the model takes it, uint8 (height, width, 3).
        overlay: the image with its class activation map.
    """

    path: str
    true: str
    called: str
    probability: float
    image: np.ndarray
    overlay: np.ndarray

    @property
    def right(self) -> bool:
        """Whether the model is right."""
        return self.true == self.called


def worst(outcome: Outcome, most: int) -> list[int]:
    """Return the places of at most `most` images: errors first, those with the largest loss; then the least certain."""
    true = np.take_along_axis(outcome.probabilities, outcome.labels[:, None], axis=1)[:, 0]
    return np.lexsort((true, outcome.called == outcome.labels))[:most].tolist()


def overlay(image: np.ndarray, activation: np.ndarray) -> np.ndarray:
    """Lay a class activation map over an image: the brighter and the less transparent, the more it counted.

    Args:
        image: uint8, (height, width, 3).
        activation: float, (h, w), 0..1; scaled to the image.

    Returns:
        uint8, (height, width, 3).
    """
    from matplotlib import colormaps

    size = (image.shape[1], image.shape[0])
    smooth = Image.fromarray(activation.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    strength = np.asarray(smooth).clip(0, 1)
    colour = 255 * colormaps["inferno"](strength)[..., :3]
    opacity = _OPACITY * strength[..., None]
    return (image * (1 - opacity) + colour * opacity).round().astype(np.uint8)
