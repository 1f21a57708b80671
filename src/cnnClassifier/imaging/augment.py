"""Random views of a training image: rotation, shift, shear, zoom and flip, drawn once and seeded."""

import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cnnClassifier.entity.config_entity import AugmentationConfig


@dataclass(frozen=True)
class View:
    """An affine map of the image about its centre; the default leaves it as it is.

    Attributes:
        rotation: degrees.
        shear: degrees.
        shift: share of (height, width).
        zoom: factor on (height, width); above 1 shows more of a smaller picture, as in ImageDataGenerator.
        flip: mirror left and right.
    """

    rotation: float = 0.0
    shear: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    zoom: tuple[float, float] = (1.0, 1.0)
    flip: bool = False

    @property
    def key(self) -> str:
        """A text that is the same for the same view."""
        return "as-is" if self == View() else repr(self)


def views_of(image_sha256: str, config: AugmentationConfig) -> list[View]:
    """Draw the views of one image: the first as it is, the others from the seed and the image's content.

    A view depends on its own place in the list alone, so that more views add to those there are.
    """
    views = [View()]
    for number in range(1, config.views):
        seed = hashlib.sha256(f"{config.seed}:{image_sha256}:{number}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(seed[:8], "little"))
        rotation, shear, shift_y, shift_x, zoom_y, zoom_x = rng.uniform(-1, 1, 6).round(6).tolist()
        views.append(
            View(
                rotation=rotation * config.rotation,
                shear=shear * config.shear,
                shift=(shift_y * config.shift, shift_x * config.shift),
                zoom=(1 + zoom_y * config.zoom, 1 + zoom_x * config.zoom),
                flip=config.horizontal_flip and bool(rng.random() < 0.5),
            )
        )
    return views


def augment(pixels: np.ndarray, view: View) -> np.ndarray:
    """Apply a view; what comes from outside the picture repeats its border.

    Args:
        pixels: uint8, (height, width, 3).
        view: what to apply.

    Returns:
        uint8, (height, width, 3).
    """
    if view == View():
        return pixels
    height, width = pixels.shape[:2]
    theta, shear = np.deg2rad([view.rotation, view.shear])
    turn = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    slant = np.array([[1, -np.sin(shear)], [0, np.cos(shear)]])
    scale = np.diag([view.zoom[1] * (-1 if view.flip else 1), view.zoom[0]])
    matrix = (
        turn @ slant @ scale
    )  # from a place in the view to the place in the picture that it shows, as (x, y)
    centre = np.array([width, height]) / 2
    shift = np.array([view.shift[1] * width, view.shift[0] * height])
    corner = centre + turn @ shift - matrix @ centre
    corners = corner + np.array([[0, 0], [width, 0], [0, height], [width, height]]) @ matrix.T
    margin = 1 + int(np.ceil(max(0, -corners.min(), (corners - [width, height]).max())))
    padded = Image.fromarray(
        np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    )
    origin = corner + margin
    data = (matrix[0, 0], matrix[0, 1], origin[0], matrix[1, 0], matrix[1, 1], origin[1])
    return np.asarray(
        padded.transform((width, height), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)
    )
