"""Random views of a training image: rotation, shift, shear, zoom and flip, from a seed."""

import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cnnClassifier.entity.config_entity import AugmentationConfig


@dataclass(frozen=True)
class View:
    """An affine transform of the image about its center; the default is the identity.

    Attributes:
        rotation: degrees.
        shear: degrees.
        shift: fraction of (height, width).
        zoom: factor on (height, width); above 1 shows more of the image at a smaller scale, as in
            Keras's ImageDataGenerator.
        flip: mirror left and right.
    """

    rotation: float = 0.0
    shear: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    zoom: tuple[float, float] = (1.0, 1.0)
    flip: bool = False


def views_of(image_sha256: str, config: AugmentationConfig) -> list[View]:
    """Draw the views of one image: the first is the image itself, the others are random.

    A view depends on the seed, the image's content and its own number alone, so that more views
    extend the list.
    """
    views = [View()]
    for number in range(1, config.views):
        seed = hashlib.sha256(f"{config.seed}:{image_sha256}:{number}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(seed[:8], "little"))
        rotation, shear, shift_y, shift_x, zoom_y, zoom_x = rng.uniform(-1, 1, 6).round(6).tolist()
        view = View(
            rotation=rotation * config.rotation,
            shear=shear * config.shear,
            shift=(shift_y * config.shift, shift_x * config.shift),
            zoom=(1 + zoom_y * config.zoom, 1 + zoom_x * config.zoom),
            flip=config.horizontal_flip and bool(rng.random() < 0.5),
        )
        views.append(view)
    return views


def augment(pixels: np.ndarray, view: View) -> np.ndarray:
    """Apply a view; outside the image its border is repeated.

    Args:
        pixels: uint8, (height, width, 3).
        view: the transform.

    Returns:
        uint8, (height, width, 3).
    """
    if view == View():
        return pixels
    height, width = pixels.shape[:2]
    theta, shear = np.deg2rad([view.rotation, view.shear])
    rotation = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    shearing = np.array([[1, -np.sin(shear)], [0, np.cos(shear)]])
    scaling = np.diag([view.zoom[1] * (-1 if view.flip else 1), view.zoom[0]])
    # Maps a point (x, y) of the view to the point of the image that it shows.
    matrix = rotation @ shearing @ scaling
    center = np.array([width, height]) / 2
    shift = np.array([view.shift[1] * width, view.shift[0] * height])
    origin = center + rotation @ shift - matrix @ center
    corners = origin + np.array([[0, 0], [width, 0], [0, height], [width, height]]) @ matrix.T
    margin = 1 + int(np.ceil(max(0, -corners.min(), (corners - [width, height]).max())))
    padded = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    coefficients = np.column_stack([matrix, origin + margin]).ravel().tolist()
    transformed = Image.fromarray(padded).transform(
        (width, height), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
    )
    return np.asarray(transformed)
