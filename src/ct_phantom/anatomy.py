"""The individual anatomy, and outlines of the organs as signed depths (positive inside).

Lengths are in half widths of the patient's chest. In a slice x grows to the patient's left (the
image's right) and y to the back; z grows towards the feet, from the aortic arch on.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np


def _within(low: float, high: float) -> Any:
    return field(metadata={"range": (low, high)})


@dataclass(frozen=True)
class Anatomy:
    """The individual anatomy; each value is drawn uniformly from its range."""

    half_width_mm: float = _within(142, 192)
    fov_mm: float = _within(335, 410)
    turn: float = _within(-0.09, 0.09)  # radians about the long axis
    shift_x: float = _within(-0.04, 0.04)
    shift_y: float = _within(-0.07, 0.03)
    wall_side: float = _within(0.17, 0.34)
    wall_front: float = _within(0.09, 0.17)
    wall_back: float = _within(0.19, 0.26)
    front: float = _within(0.36, 0.54)  # of the cavity, from its center
    back: float = _within(0.40, 0.52)
    squareness: float = _within(2.1, 2.7)
    muscle_hu: float = _within(38, 68)
    fat: float = _within(0.02, 0.15)  # under the skin
    fat_planes: float = _within(0.02, 0.07)
    breast: float = _within(-0.16, 0.16)  # none below 0
    gland: float = _within(0.0, 1.0)
    mediastinum: float = _within(0.12, 0.18)  # half width
    heart: float = _within(0.75, 1.3)
    heart_turn: float = _within(0.2, 0.7)
    aorta: float = _within(0.065, 0.092)
    contrast: float = _within(-100, 220)  # HU above plain blood, none below 0
    lung_hu: float = _within(-900, -760)
    dependent: float = _within(10, 190)  # HU from front to back
    emphysema: float = _within(-1.0, 1.0)  # none below 0
    vessels: float = _within(0.75, 1.25)  # calibre
    vessel_fraction: float = _within(0.35, 0.9)  # of the vessels that exist
    effusion: float = _within(-0.14, 0.12)  # depth, none below 0
    effusion_side: float = _within(-1.0, 1.0)
    atelectasis: float = _within(-0.04, 0.13)  # depth of the haze along the back
    fissure: float = _within(-0.1, 0.25)
    granuloma: float = _within(-0.10, 0.02)  # radius, none below 0
    bone: float = _within(0.75, 1.2)
    rib_phase: float = _within(0.0, 1.0)
    table_mm: float = _within(-2.0, 14.0)  # gap between back and table
    table_curve: float = _within(0.0, 0.30)
    thickness_mm: float = _within(1.5, 6.0)
    blur_mm: float = _within(0.5, 1.1)  # of the reconstruction kernel
    sharpening: float = _within(-0.5, 0.9)
    grain_hu: float = _within(8, 38)
    motion: float = _within(-0.09, 0.02)  # none below 0


def smoothstep(value: Any, start: float, end: float) -> Any:
    """Rise smoothly from 0 at `start` to 1 at `end` (Hermite interpolation)."""
    fraction = (value - start) / (end - start)
    if isinstance(fraction, np.ndarray):
        fraction = np.clip(fraction, 0, 1)
    else:
        fraction = min(max(float(fraction), 0.0), 1.0)
    return fraction * fraction * (3 - 2 * fraction)


def ellipse_depth(
    x: Any, y: Any, radii: tuple[Any, Any, Any, Any], power: float = 2.0, turn: float = 0.0
) -> Any:
    """Return the depth inside an ellipse around (0, 0) with a radius to -x, +x, -y and +y each."""
    if turn:
        cos, sin = math.cos(turn), math.sin(turn)
        x, y = x * cos + y * sin, y * cos - x * sin
    left, right, front, back = (np.asarray(side, dtype=np.float32) for side in radii)
    u = np.abs(x) / np.where(x < 0, left, right)
    v = np.abs(y) / np.where(y < 0, front, back)
    scale = np.sqrt(u * u + v * v) if power == 2.0 else (u**power + v**power) ** (1 / power)
    return np.hypot(x, y) * (1 / np.maximum(scale, 1e-3) - 1)


def smooth_max(first: Any, second: Any, width: float) -> Any:
    """Return the larger of both, with a rounded crease."""
    fraction = np.clip(0.5 + (first - second) / (2 * width), 0, 1)
    return second + (first - second) * fraction + width * fraction * (1 - fraction)


def cavity_depth(anatomy: Anatomy, x: Any, y: Any, z: Any) -> Any:
    """Return the depth inside the rib cage."""
    reach = (1 - anatomy.wall_side) * (0.84 + 0.16 * smoothstep(z, -0.3, 0.45))
    front = anatomy.front * (0.86 + 0.14 * smoothstep(z, -0.3, 0.5))
    return ellipse_depth(x, y, (reach, reach, front, anatomy.back), anatomy.squareness)


def heart_depth(anatomy: Anatomy, x: Any, y: Any, z: Any) -> Any:
    """Return the depth inside the heart."""
    grown = smoothstep(z, 0.12, 0.62) * anatomy.heart
    sides = (0.21 * grown + 0.02, 0.36 * grown + 0.02, 0.23 * grown + 0.02, 0.21 * grown + 0.02)
    return ellipse_depth(x - 0.07, y + 0.35 * anatomy.front, sides, 2.2, anatomy.heart_turn)


def spine_y(anatomy: Anatomy) -> float:
    """Return the center of the vertebra."""
    return anatomy.back - 0.15


def aorta_center(anatomy: Anatomy) -> tuple[float, float]:
    """Return the center of the descending aorta."""
    return 0.135, spine_y(anatomy) - 0.06


def mediastinum_depth(anatomy: Anatomy, x: Any, y: Any, z: Any) -> Any:
    """Return the depth inside heart, great vessels and spine."""
    front, spine = anatomy.front, spine_y(anatomy)
    narrow = anatomy.mediastinum * (1 - 0.25 * smoothstep(z, 0.3, 0.7))
    width = 0.015 + (narrow - 0.015) * smoothstep(y, -front * 1.02, -front * 0.45)
    band = width - np.abs(x - 0.02)
    inside = smooth_max(band, heart_depth(anatomy, x, y, z), 0.05)
    hilum = np.exp(-(((z - 0.42) / 0.18) ** 2)) * 0.075 + 1e-3
    for side in (-1, 1):
        inside = smooth_max(
            inside, ellipse_depth(x - side * 0.18, y - 0.05, (hilum, hilum, hilum, hilum)), 0.05
        )
    aorta_x, aorta_y = aorta_center(anatomy)
    size = anatomy.aorta + 0.008
    inside = smooth_max(
        inside, ellipse_depth(x - aorta_x, y - aorta_y, (size, size, size, size)), 0.03
    )
    return smooth_max(inside, ellipse_depth(x, y - spine - 0.05, (0.15, 0.15, 0.16, 0.3)), 0.05)
