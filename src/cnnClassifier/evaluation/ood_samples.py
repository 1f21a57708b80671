"""Pictures that are no CT, to see whether the model's limit for unfamiliar images finds them."""

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from cnnClassifier.evaluation.metrics import wilson

_SIDE = 256
_GREY, _COLOUR = (_SIDE, _SIDE, 1), (_SIDE, _SIDE, 3)
# What the scikit-image wheel holds: nothing is downloaded. Its phantom.png is left out: it is a head's CT, drawn.
_SHIPPED = {
    "texture": ("brick.png", "grass.png", "gravel.png"),
    "photograph": (
        "astronaut.png",
        "camera.png",
        "chelsea.png",
        "coffee.png",
        "coins.png",
        "hubble_deep_field.jpg",
        "rocket.jpg",
    ),
    "text and drawing": ("color.png", "horse.png", "page.png"),
    "other medical": ("cell.png", "ihc.png", "retina.jpg"),
}


@dataclass(frozen=True)
class Picture:
    """A picture that is no CT.

    Attributes:
        kind: such as `noise`.
        name: unique.
        pixels: uint8, (height, width, 3).
    """

    kind: str
    name: str
    pixels: np.ndarray


def not_ct() -> Iterator[Picture]:
    """Make the pictures, the same ones each time: noise, flat fields, patterns, text, and what scikit-image ships."""
    for kind, drawn in (
        ("noise", _noise()),
        ("flat", _flat()),
        ("pattern", _patterns()),
        ("text and drawing", _text()),
    ):
        for name, pixels in drawn:
            grey_or_colour = pixels.clip(0, 255).astype(np.uint8)
            yield Picture(
                kind, name, np.ascontiguousarray(np.broadcast_to(grey_or_colour, _COLOUR))
            )
    folder = _scikit_image_data()
    for kind, names in _SHIPPED.items():
        for name in names:
            if (folder / name).is_file():
                with Image.open(folder / name) as image:
                    yield Picture(kind, name, np.asarray(image.convert("RGB")))


def familiarity(
    test_distances: np.ndarray, kinds: Sequence[str], distances: np.ndarray, limit: float
) -> dict[str, Any]:
    """Tell how often test images are taken for unfamiliar, and how often what is no CT is.

    Args:
        test_distances: of the test images, (n,).
        kinds: of each picture that is no CT.
        distances: of those pictures.
        limit: what lies further out is unfamiliar.

    Returns:
        Shares with Wilson's intervals and counts; `by_kind` from the kind that is found least to the best.
    """
    alarms, found = test_distances > limit, distances > limit
    rows = []
    for kind in dict.fromkeys(kinds):
        of_kind = found[np.array(kinds) == kind]
        rows.append({"kind": kind, "n": len(of_kind), "found": int(of_kind.sum())})
    return {
        "limit": limit,
        "false_alarm_rate": round(float(alarms.mean()), 6),
        "n": len(alarms),
        "detection_rate": round(float(found.mean()), 6),
        "n_not_ct": len(found),
        "intervals": {
            "false_alarm_rate": wilson(float(alarms.mean()), len(alarms)),
            "detection_rate": wilson(float(found.mean()), len(found)),
        },
        "by_kind": sorted(rows, key=lambda row: row["found"] / row["n"]),
    }


def _scikit_image_data() -> Path:
    spec = importlib.util.find_spec("skimage")  # found, not imported: only its files are wanted
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "scikit-image isn't installed; run `pip install -r requirements.txt`"
        )
    return Path(spec.origin).parent / "data"


def _noise() -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    for look, shape in (("grey", _GREY), ("colour", _COLOUR)):
        yield f"uniform noise, {look}", rng.uniform(0, 256, shape)
        yield f"gaussian noise, {look}", rng.normal(128, 40, shape)
        for cells in (4, 64) if look == "grey" else (16,):
            yield f"clouds of {_SIDE // cells} pixels, {look}", _clouds(rng, cells, shape[2])
    yield "faint gaussian noise on black", rng.normal(0, 12, _GREY)
    yield "salt and pepper", 255.0 * (rng.random(_GREY) > 0.9)


def _clouds(rng: np.random.Generator, cells: int, channels: int) -> np.ndarray:
    """Smooth noise: few random values, scaled up."""
    layers = [
        Image.fromarray(rng.uniform(0, 255, (cells, cells)).astype(np.float32)).resize(
            (_SIDE, _SIDE), Image.Resampling.BICUBIC
        )
        for _ in range(channels)
    ]
    return np.stack([np.asarray(layer) for layer in layers], axis=-1)


def _flat() -> Iterator[tuple[str, np.ndarray]]:
    colours = {
        "black": (0, 0, 0),
        "grey": (128, 128, 128),
        "white": (255, 255, 255),
        "red": (200, 30, 30),
    }
    for name, colour in colours.items():
        yield f"flat {name}", np.full(_COLOUR, colour, float)


def _patterns() -> Iterator[tuple[str, np.ndarray]]:
    y, x = np.mgrid[:_SIDE, :_SIDE][..., None]
    yield "gradient across", 255 * x / _SIDE
    yield "gradient down", 255 * y / _SIDE
    yield "bright disc", 255.0 * (np.hypot(x - _SIDE / 2, y - _SIDE / 2) < _SIDE / 4)
    yield "rings", 127.5 + 127.5 * np.cos(np.hypot(x - _SIDE / 2, y - _SIDE / 2) / 4)
    yield "colour wheel", np.concatenate([x, y, _SIDE - x], axis=-1).astype(float)
    for side in (4, 32):
        yield f"chessboard of {side} pixels", 255.0 * ((x // side + y // side) % 2)
        yield f"stripes of {side} pixels", 255.0 * (x // side % 2)


def _text() -> Iterator[tuple[str, np.ndarray]]:
    for name, paper, ink in (("page of print", 255, 0), ("screen of text", 0, 255)):
        page = Image.new("L", (_SIDE, _SIDE), paper)
        draw = ImageDraw.Draw(page)
        for line in range(16):
            draw.text(
                (10, 8 + 15 * line),
                f"{line:02d} the quick brown fox jumps over the dog"[: 38 - line % 5],
                fill=ink,
            )
        yield name, np.asarray(page, float)[..., None]
