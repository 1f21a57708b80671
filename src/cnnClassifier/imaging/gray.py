"""Gray levels of decoded images."""

import numpy as np
from PIL import Image


def to_gray(pixels: np.ndarray) -> np.ndarray:
    """Return the luminance (ITU-R 601-2).

    Args:
        pixels: uint8, (height, width, 3), RGB.

    Returns:
        uint8, (height, width).
    """
    return np.asarray(Image.fromarray(pixels).convert("L"))


def mean_intensity(gray: np.ndarray) -> float:
    """Return the mean gray level, 0 to 255, with two digits after the point."""
    return round(float(gray.mean()), 2)
