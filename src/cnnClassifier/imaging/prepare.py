"""From decoded pixels to the array that the model takes."""

import numpy as np
from PIL import Image

from cnnClassifier.imaging.decode import decode


def resize(pixels: np.ndarray, image_size: tuple[int, int, int]) -> np.ndarray:
    """Scale to the model's height and width, bilinear with antialiasing; the aspect isn't kept.

    Args:
        pixels: uint8, (height, width, 3).
        image_size: (height, width, 3) of the model.

    Returns:
        uint8, `image_size`, RGB 0-255: normalisation is part of the model.
    """
    height, width, _ = image_size
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def prepare(data: bytes, image_size: tuple[int, int, int], max_pixels: int) -> np.ndarray:
    """Turn a file's bytes into the array that the model takes.

    Returns:
        uint8, `image_size`, RGB 0-255.

    Raises:
        ImageError: the bytes can't be used as an image.
    """
    return resize(decode(data, max_pixels).pixels, image_size)
