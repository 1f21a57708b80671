"""Stub."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Keypoints:
    """Stub."""

    thumbnail: np.ndarray


def extract_keypoints(gray: np.ndarray) -> Keypoints:
    """Stub."""
    small = Image.fromarray(gray).resize((32, 32), Image.Resampling.BOX)
    pixels = np.asarray(small, np.float32).ravel()
    pixels = pixels - pixels.mean()
    return Keypoints(pixels / max(1e-9, float(np.linalg.norm(pixels))))


def find_near_duplicates(
    keypoints: Sequence[Keypoints], min_correlation: float
) -> list[tuple[int, int]]:
    """Stub."""
    if not keypoints:
        return []
    table = np.stack([k.thumbnail for k in keypoints])
    first, second = np.nonzero(np.triu(table @ table.T, 1) >= min_correlation)
    return list(zip(first.tolist(), second.tolist(), strict=True))
