"""From decoded pixels to the array that the model takes."""

import numpy as np
from PIL import Image

from cnnClassifier.imaging.decode import DicomOptions, decode

_AS_IT_IS = DicomOptions()


def resize(pixels: np.ndarray, image_size: tuple[int, int, int]) -> np.ndarray:
    """Scale to the model's height and width, bilinear with antialiasing; the aspect isn't kept, however odd it is.

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


def shrink(pixels: np.ndarray, most: int) -> np.ndarray:
    """Scale down by a whole number until no side is longer than `most`; smaller pictures are returned as they are.

    Args:
        pixels: uint8, (height, width, 3).
        most: pixels.
    """
    factor = -(-max(pixels.shape) // most)
    return pixels if factor == 1 else np.asarray(Image.fromarray(pixels).reduce(factor))


def prepare(
    data: bytes,
    image_size: tuple[int, int, int],
    max_pixels: int,
    reading: DicomOptions = _AS_IT_IS,
) -> np.ndarray:
    """Turn a file's bytes into the array that the model takes.

    Args:
        data: an image file.
        image_size: (height, width, 3) of the model.
        max_pixels: refuse images with more.
        reading: window and frame of DICOM files.

    Returns:
        uint8, `image_size`, RGB 0-255.

    Raises:
        ImageError: the bytes can't be used as an image.
    """
    return resize(decode(data, max_pixels, reading).pixels, image_size)
