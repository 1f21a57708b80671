"""Images of other kinds, and how many of them the out-of-distribution limit detects."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from cnnClassifier.evaluation.metrics import proportion_interval

DATA_IMAGES = "images of the data"  # the kind of the images that are in distribution
_SIZE = 256
_GRAY, _RGB = (_SIZE, _SIZE, 1), (_SIZE, _SIZE, 3)
# Files in the scikit-image wheel, so nothing is downloaded. Its phantom.png is the CT of a head.
_SKIMAGE_FILES = {
    "texture": "brick.png grass.png gravel.png",
    "photograph": "astronaut.png camera.png chelsea.png coffee.png coins.png "
    "hubble_deep_field.jpg rocket.jpg",
    "text and drawing": "color.png horse.png page.png",
    "microscopy and retina": "cell.png ihc.png retina.jpg",
}
_PHOTOGRAPHS = ("texture", "photograph")  # in distribution, where the data are photographs


@dataclass(frozen=True)
class OODSample:
    """An image of another kind than the data's.

    Attributes:
        kind: such as `noise`.
        name: unique.
        pixels: uint8, (height, width, 3).
    """

    kind: str
    name: str
    pixels: np.ndarray


def generate_ood_samples(photographs: bool) -> Iterator[OODSample]:
    """Generate noise, flat images, patterns and text, then the images that scikit-image ships.

    They are the same in every call.

    Args:
        photographs: whether photographs are of another kind than the data.
    """
    for kind, images in _synthetic_images().items():
        for name, pixels in images.items():
            rgb = np.broadcast_to(np.clip(pixels, 0, 255).astype(np.uint8), _RGB)
            yield OODSample(kind, name, np.ascontiguousarray(rgb))
    folder = Path(str(files("skimage"))) / "data"
    for kind, names in _SKIMAGE_FILES.items():
        if kind in _PHOTOGRAPHS and not photographs:
            continue
        for name in names.split():
            path = folder / name
            if path.is_file():
                with Image.open(path) as image:
                    yield OODSample(kind, name, np.asarray(image.convert("RGB")))


def ood_metrics(distances: pd.DataFrame, groups: np.ndarray, limit: float) -> dict[str, Any]:
    """Compute how often images of the data and other images are out of distribution.

    Args:
        distances: a row for each image with `kind`, which is `DATA_IMAGES` or that of an
            `OODSample`, and `distance` from the training images.
        groups: of the images of the data, in the order of their rows; each other image is a group.
        limit: images with a larger distance are out of distribution.

    Returns:
        Rates with their intervals and counts; `by_kind` starts with the lowest detection rate.
    """
    flagged = distances["distance"] > limit
    is_data = distances["kind"] == DATA_IMAGES
    false_positives, detections = flagged[is_data].to_numpy(), flagged[~is_data].to_numpy()
    result: dict[str, Any] = {
        "limit": limit,
        "false_positive_rate": round(float(false_positives.mean()), 6),
        "detection_rate": round(float(detections.mean()), 6),
        "intervals": {
            "false_positive_rate": proportion_interval(false_positives, groups),
            "detection_rate": proportion_interval(detections, np.arange(len(detections))),
        },
        "n": len(false_positives),
        "n_ood": len(detections),
    }
    rows = []
    for kind, detected in flagged[~is_data].groupby(distances["kind"], sort=False):
        rows.append({"kind": kind, "n": len(detected), "detected": int(detected.sum())})
    result["by_kind"] = sorted(rows, key=lambda row: row["detected"] / row["n"])
    return result


def _synthetic_images() -> dict[str, dict[str, np.ndarray]]:
    """Return pixels from 0 to 255, with one or three channels, by kind and name."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:_SIZE, :_SIZE][..., None]
    radius = np.hypot(x - _SIZE / 2, y - _SIZE / 2)
    return {
        "noise": {
            "uniform noise, gray": rng.uniform(0, 256, _GRAY),
            "gaussian noise, gray": rng.normal(128, 40, _GRAY),
            "clouds of 64 pixels, gray": _clouds(rng, 4, 1),
            "clouds of 4 pixels, gray": _clouds(rng, 64, 1),
            "uniform noise, color": rng.uniform(0, 256, _RGB),
            "gaussian noise, color": rng.normal(128, 40, _RGB),
            "clouds of 16 pixels, color": _clouds(rng, 16, 3),
            "faint gaussian noise on black": rng.normal(0, 12, _GRAY),
            "salt and pepper": 255.0 * (rng.random(_GRAY) > 0.9),
        },
        "flat": {
            "flat black": np.full(_RGB, 0),
            "flat gray": np.full(_RGB, 128),
            "flat white": np.full(_RGB, 255),
            "flat red": np.full(_RGB, (200, 30, 30)),
        },
        "pattern": {
            "gradient across": 255 * x / _SIZE,
            "gradient down": 255 * y / _SIZE,
            "bright disc": 255.0 * (radius < _SIZE / 4),
            "rings": 127.5 + 127.5 * np.cos(radius / 4),
            "color wheel": np.concatenate([x, y, _SIZE - x], axis=-1),
            "chessboard of 4 pixels": 255.0 * ((x // 4 + y // 4) % 2),
            "stripes of 4 pixels": 255.0 * (x // 4 % 2),
            "chessboard of 32 pixels": 255.0 * ((x // 32 + y // 32) % 2),
            "stripes of 32 pixels": 255.0 * (x // 32 % 2),
        },
        "text and drawing": {
            "printed page": _text(background=255, color=0),
            "screen of text": _text(background=0, color=255),
        },
    }


def _clouds(rng: np.random.Generator, cells: int, channels: int) -> np.ndarray:
    """Scale a few random values up to smooth noise."""
    layers = []
    for _ in range(channels):
        values = Image.fromarray(rng.uniform(0, 255, (cells, cells)).astype(np.float32))
        layers.append(np.asarray(values.resize((_SIZE, _SIZE), Image.Resampling.BICUBIC)))
    return np.stack(layers, axis=-1)


def _text(background: int, color: int) -> np.ndarray:
    page = Image.new("L", (_SIZE, _SIZE), background)
    draw = ImageDraw.Draw(page)
    for line in range(16):
        text = f"{line:02d} the quick brown fox jumps over the dog"[: 38 - line % 5]
        draw.text((10, 8 + 15 * line), text, fill=color)
    return np.asarray(page)[..., None]
