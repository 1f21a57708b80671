"""Images that are no CT, and how many of them the out-of-distribution limit detects."""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from cnnClassifier.evaluation.metrics import wilson_interval

TEST_IMAGES = "test images"  # the kind of the images that are in distribution
_SIZE = 256
_GRAY, _RGB = (_SIZE, _SIZE, 1), (_SIZE, _SIZE, 3)
_FLAT_COLORS = {
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
    "white": (255, 255, 255),
    "red": (200, 30, 30),
}
# Files in the scikit-image wheel, so that nothing is downloaded. Its phantom.png is the CT of a head.
_SKIMAGE_FILES = {
    "texture": "brick.png grass.png gravel.png",
    "photograph": "astronaut.png camera.png chelsea.png coffee.png coins.png "
    "hubble_deep_field.jpg rocket.jpg",
    "text and drawing": "color.png horse.png page.png",
    "other medical": "cell.png ihc.png retina.jpg",
}


@dataclass(frozen=True)
class OODSample:
    """An image that is no CT.

    Attributes:
        kind: such as `noise`.
        name: unique.
        pixels: uint8, (height, width, 3).
    """

    kind: str
    name: str
    pixels: np.ndarray


def generate_ood_samples() -> Iterator[OODSample]:
    """Generate noise, flat images, patterns and text, then the images that scikit-image ships.

    They are the same in every call.
    """
    generators = {
        "noise": _noise(),
        "flat": _flat(),
        "pattern": _patterns(),
        "text and drawing": _text(),
    }
    for kind, images in generators.items():
        for name, pixels in images:
            rgb = np.broadcast_to(pixels.clip(0, 255).astype(np.uint8), _RGB)
            yield OODSample(kind, name, np.ascontiguousarray(rgb))
    folder = _skimage_data()
    for kind, names in _SKIMAGE_FILES.items():
        for name in names.split():
            if (folder / name).is_file():
                with Image.open(folder / name) as image:
                    yield OODSample(kind, name, np.asarray(image.convert("RGB")))


def ood_metrics(distances: pd.DataFrame, limit: float) -> dict[str, Any]:
    """Compute how often test images and other images are out of distribution.

    Args:
        distances: a row for each image with `kind`, which is `TEST_IMAGES` or that of an `OODSample`,
            and `distance` from the training images.
        limit: images with a larger distance are out of distribution.

    Returns:
        Rates with Wilson's intervals and counts; `by_kind` starts with the lowest detection rate.
    """
    flagged = distances["distance"] > limit
    is_test = distances["kind"] == TEST_IMAGES
    result: dict[str, Any] = {"limit": limit, "intervals": {}}
    for name, images in (("false_positive_rate", is_test), ("detection_rate", ~is_test)):
        rate = float(flagged[images].mean())
        result[name] = round(rate, 6)
        result["intervals"][name] = wilson_interval(rate, int(images.sum()))
    result["n"], result["n_ood"] = int(is_test.sum()), int((~is_test).sum())
    rows = []
    for kind, detected in flagged[~is_test].groupby(distances["kind"], sort=False):
        rows.append({"kind": kind, "n": len(detected), "detected": int(detected.sum())})
    result["by_kind"] = sorted(rows, key=lambda row: row["detected"] / row["n"])
    return result


def _skimage_data() -> Path:
    spec = importlib.util.find_spec("skimage")  # not imported: only its files are needed
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "scikit-image isn't installed; run `pip install -r requirements.txt`"
        )
    return Path(spec.origin).parent / "data"


def _noise() -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    for color, shape, cell_counts in (("gray", _GRAY, (4, 64)), ("color", _RGB, (16,))):
        yield f"uniform noise, {color}", rng.uniform(0, 256, shape)
        yield f"gaussian noise, {color}", rng.normal(128, 40, shape)
        for cells in cell_counts:
            yield f"clouds of {_SIZE // cells} pixels, {color}", _clouds(rng, cells, shape[2])
    yield "faint gaussian noise on black", rng.normal(0, 12, _GRAY)
    yield "salt and pepper", 255.0 * (rng.random(_GRAY) > 0.9)


def _clouds(rng: np.random.Generator, cells: int, channels: int) -> np.ndarray:
    """Scale a few random values up to smooth noise."""
    pixels = np.empty((_SIZE, _SIZE, channels))
    for channel in range(channels):
        values = Image.fromarray(rng.uniform(0, 255, (cells, cells)).astype(np.float32))
        pixels[..., channel] = values.resize((_SIZE, _SIZE), Image.Resampling.BICUBIC)
    return pixels


def _flat() -> Iterator[tuple[str, np.ndarray]]:
    for name, color in _FLAT_COLORS.items():
        yield f"flat {name}", np.full(_RGB, color, float)


def _patterns() -> Iterator[tuple[str, np.ndarray]]:
    y, x = np.mgrid[:_SIZE, :_SIZE][..., None]
    radius = np.hypot(x - _SIZE / 2, y - _SIZE / 2)
    yield "gradient across", 255 * x / _SIZE
    yield "gradient down", 255 * y / _SIZE
    yield "bright disc", 255.0 * (radius < _SIZE / 4)
    yield "rings", 127.5 + 127.5 * np.cos(radius / 4)
    yield "color wheel", np.concatenate([x, y, _SIZE - x], axis=-1).astype(float)
    for width in (4, 32):
        yield f"chessboard of {width} pixels", 255.0 * ((x // width + y // width) % 2)
        yield f"stripes of {width} pixels", 255.0 * (x // width % 2)


def _text() -> Iterator[tuple[str, np.ndarray]]:
    for name, background, text_color in (("printed page", 255, 0), ("screen of text", 0, 255)):
        page = Image.new("L", (_SIZE, _SIZE), background)
        draw = ImageDraw.Draw(page)
        for line in range(16):
            text = f"{line:02d} the quick brown fox jumps over the dog"[: 38 - line % 5]
            draw.text((10, 8 + 15 * line), text, fill=text_color)
        yield name, np.asarray(page, float)[..., None]
