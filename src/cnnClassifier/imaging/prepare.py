"""From an image file's bytes to the model's input array."""

import numpy as np
from PIL import Image

from cnnClassifier.entity.dicom_options import DEFAULT_DICOM_OPTIONS, DicomOptions
from cnnClassifier.imaging.decode import decode


def prepare(
    data: bytes,
    image_size: tuple[int, int, int],
    max_pixels: int,
    dicom_options: DicomOptions = DEFAULT_DICOM_OPTIONS,
) -> np.ndarray:
    """Turn a file's bytes into the model's input array.

    Args:
        data: an image file.
        image_size: (height, width, 3) of the model.
        max_pixels: refuse images with more.
        dicom_options: window and frame of DICOM files.

    Returns:
        uint8, `image_size`, RGB 0-255.

    Raises:
        ImageError: the bytes can't be used as an image.
    """
    return resize(decode(data, max_pixels, dicom_options).pixels, image_size)


def resize(pixels: np.ndarray, image_size: tuple[int, int, int]) -> np.ndarray:
    """Scale to the model's height and width, bilinear with antialiasing, whatever the aspect ratio.

    Args:
        pixels: uint8, (height, width, 3).
        image_size: (height, width, 3) of the model.

    Returns:
        uint8, `image_size`, RGB 0-255: the normalization is part of the model.
    """
    height, width, _ = image_size
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def shrink(pixels: np.ndarray, max_side: int) -> np.ndarray:
    """Scale down by a whole factor until no side is longer than `max_side`.

    Args:
        pixels: uint8, (height, width, 3); returned as it is where it is small enough.
        max_side: in pixels.
    """
    factor = -(-max(pixels.shape) // max_side)
    return pixels if factor == 1 else np.asarray(Image.fromarray(pixels).reduce(factor))
