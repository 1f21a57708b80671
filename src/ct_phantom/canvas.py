"""The slice that is being painted: pixels in Hounsfield units (HU) and their coordinates."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import ndimage

from ct_phantom.anatomy import ellipse_depth
from ct_phantom.patient import Patient

AIR = -1000.0

Segment = tuple[tuple[float, float], tuple[float, float]]


class SliceCanvas:
    """A slice that is being painted, with the coordinates of its pixels.

    Attributes:
        hu: (size, size), the painted values.
        x: coordinates of the pixels in the turned, slightly warped body; `y` likewise.
        plane_x: coordinates in the scanner; `plane_y` likewise.
        wave: four smooth random fields.
        pixel: width of a pixel.
    """

    def __init__(self, patient: Patient, z: float, size: int) -> None:
        anatomy = patient.anatomy
        self.patient, self.anatomy, self.z = patient, anatomy, z
        self.pixel = anatomy.fov_mm / size / anatomy.half_width_mm
        axis = (
            (np.arange(size) + 0.5) * self.pixel - anatomy.fov_mm / 2 / anatomy.half_width_mm
        ).astype(np.float32)
        self.plane_x, self.plane_y = np.meshgrid(axis, axis)
        x, y = (
            self.plane_x - np.float32(anatomy.shift_x),
            self.plane_y - np.float32(anatomy.shift_y),
        )
        cos, sin = np.float32(math.cos(anatomy.turn)), np.float32(math.sin(anatomy.turn))
        self.x, self.y = x * cos + y * sin, y * cos - x * sin
        self.wave = [self._field(number) for number in range(4)]
        self.x = self.x + 0.011 * self.wave[0]
        self.y = self.y + 0.011 * self.wave[1]
        self.hu = np.full((size, size), AIR, dtype=np.float32)

    def _field(self, number: int) -> np.ndarray:
        total = np.zeros_like(self.x)
        for kx, ky, kz, phase, height in self.patient.waves[number].astype(np.float32):
            total += height * np.cos(kx * self.x + ky * self.y + (kz * np.float32(self.z) + phase))
        return total

    def cover(self, inside: Any, softness: float = 1.0) -> Any:
        """Turn signed depths into the covered fraction of each pixel."""
        return np.clip(inside / (self.pixel * softness) + 0.5, 0, 1)

    def paint(self, inside: Any, hu: Any, softness: float = 1.0) -> None:
        """Paint where `inside` is positive, with smooth edges."""
        self.hu += self.cover(inside, softness) * (hu - self.hu)

    def box(self, points: Iterable[tuple[float, float]], margin: float) -> tuple[slice, slice]:
        """Return the rows and columns around `points`."""
        anatomy, size = self.anatomy, len(self.hu)
        cos, sin = math.cos(anatomy.turn), math.sin(anatomy.turn)
        columns = [(x * cos - y * sin + anatomy.shift_x) / self.pixel + size / 2 for x, y in points]
        rows = [(x * sin + y * cos + anatomy.shift_y) / self.pixel + size / 2 for x, y in points]
        margin = (margin + 0.03) / self.pixel + 1
        first_row, end_row = (
            min(max(int(row), 0), size) for row in (min(rows) - margin, max(rows) + margin)
        )
        first, end = (
            min(max(int(column), 0), size)
            for column in (min(columns) - margin, max(columns) + margin)
        )
        return slice(first_row, end_row), slice(first, end)

    def paint_ellipse(
        self, center: tuple[float, float], radii: tuple[float, float], hu: Any, turn: float = 0.0
    ) -> None:
        """Paint a filled ellipse."""
        box = self.box([center], max(radii))
        inside = ellipse_depth(
            self.x[box] - center[0],
            self.y[box] - center[1],
            (radii[0], radii[0], radii[1], radii[1]),
            2.0,
            turn,
        )
        self._paint_in(box, inside, hu)

    def _paint_in(self, box: tuple[slice, slice], inside: Any, hu: Any) -> None:
        value = hu[box] if isinstance(hu, np.ndarray) else hu
        self.hu[box] += self.cover(inside) * (value - self.hu[box])

    def rod(self, ends: Segment, radii: tuple[float, float]) -> tuple[tuple[slice, slice], Any]:
        """Return the box around a tapering rod between two `ends`, and the depth of its pixels."""
        box = self.box(ends, max(radii))
        (start_x, start_y), (end_x, end_y) = ends
        along_x, along_y = end_x - start_x, end_y - start_y
        x, y = self.x[box] - start_x, self.y[box] - start_y
        fraction = np.clip((x * along_x + y * along_y) / max(along_x**2 + along_y**2, 1e-9), 0, 1)
        gap = np.hypot(x - fraction * along_x, y - fraction * along_y)
        return box, radii[0] + fraction * (radii[1] - radii[0]) - gap

    def paint_rod(self, ends: Segment, radii: tuple[float, float], hu: Any) -> None:
        """Paint a filled tapering rod."""
        box, inside = self.rod(ends, radii)
        self._paint_in(box, inside, hu)


def noise_texture(rng: np.random.Generator, size: int, *sigma: float) -> np.ndarray:
    """Return smooth noise, (size, size), of mean 0 and standard deviation 1.

    Args:
        rng: source of the noise.
        size: pixels of the square's side.
        sigma: width of the grains in pixels; for rows and columns, or one for both.
    """
    coarse = [max(int(width / 2), 1) for width in (sigma * 2)[:2]]
    shape = [-(-size // step) + 1 for step in coarse]
    grain = ndimage.gaussian_filter(
        rng.standard_normal(shape, dtype=np.float32),
        [width / step for width, step in zip((sigma * 2)[:2], coarse, strict=True)],
        mode="wrap",
        truncate=3,
    )
    if max(coarse) > 1:
        grain = ndimage.zoom(grain, coarse, order=1)
    grain = grain[:size, :size]
    return (grain - grain.mean()) / grain.std()
