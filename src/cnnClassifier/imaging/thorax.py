"""A made-up patient's chest and what a CT scanner would measure in it, in Hounsfield units (HU).

Lengths are in half widths of the patient's chest unless a name ends in `_mm`. In a slice x grows to the patient's left
(the picture's right) and y to the back; z grows towards the feet, from the aortic arch on.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from scipy import ndimage

AIR, FAT, CORTEX = -1000.0, -100.0, 750.0
OUTSIDE_SCAN = -3000.0

_Ends = tuple[tuple[float, float], tuple[float, float]]


def _within(low: float, high: float) -> Any:
    return field(metadata={"range": (low, high)})


@dataclass(frozen=True)
class Anatomy:
    """What makes one chest differ from the next; every value is drawn evenly from its range."""

    half_width_mm: float = _within(142, 192)
    fov_mm: float = _within(335, 410)
    turn: float = _within(-0.09, 0.09)  # radians about the long axis
    shift_x: float = _within(-0.04, 0.04)
    shift_y: float = _within(-0.07, 0.03)
    wall_side: float = _within(0.17, 0.34)
    wall_front: float = _within(0.09, 0.17)
    wall_back: float = _within(0.19, 0.26)
    front: float = _within(0.36, 0.54)  # of the cavity, from its centre
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
    vessel_share: float = _within(0.35, 0.9)  # of the vessels that are there at all
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


@dataclass(frozen=True)
class Lesion:
    """An adenocarcinoma.

    Attributes:
        centre: (x, y, z).
        radius: of its opaque part at its widest.
        solid: share of the radius that is solid; 0 is a pure ground-glass lesion.
        glass_hu: of the ground-glass part.
        solid_hu: of the solid part.
        lobes: (n, 3): number of lobes, height as a share of the radius, phase.
        spicules: (n, 4): angle, length as a share of the radius, thickness, bend.
    """

    centre: tuple[float, float, float]
    radius: float
    solid: float
    glass_hu: float
    solid_hu: float
    lobes: np.ndarray
    spicules: np.ndarray


@dataclass(frozen=True)
class Patient:
    """One chest.

    Attributes:
        anatomy: its measures.
        waves: (4, n, 5): four smooth random fields in space, each a sum of waves (x, y, z, phase, height).
        tree: (n, 9): vessel segments, each two ends (x, y, z), the radii there, and 1 where an airway runs beside it.
        lesion: where and what the lesion is, or would be.
        levels: z of each slice.
        seed: of the noise.
    """

    anatomy: Anatomy
    waves: np.ndarray
    tree: np.ndarray
    lesion: Lesion
    levels: tuple[float, ...]
    seed: int


def draw_patient(rng: np.random.Generator, slices: int, lesion_mm: tuple[float, float]) -> Patient:
    """Draw a patient, with a place for a lesion that `measure` shows or leaves out.

    Args:
        rng: source of everything that is random.
        slices: how many neighbouring levels are scanned.
        lesion_mm: smallest and largest diameter of the lesion.
    """
    anatomy = Anatomy(
        **{item.name: float(rng.uniform(*item.metadata["range"])) for item in fields(Anatomy)}
    )
    unit = anatomy.half_width_mm
    middle = float(rng.uniform(0.05, 0.95))
    lesion = _draw_lesion(rng, anatomy, middle, rng.uniform(*lesion_mm) / 2 / unit)
    step = min(float(rng.uniform(5, 9)) / unit, lesion.radius / max(slices - 1, 1))
    levels = tuple(middle + step * (index - (slices - 1) / 2) for index in range(slices))
    wavelength = rng.uniform(0.18, 1.1, (4, 9))
    direction = rng.normal(size=(4, 9, 3))
    direction *= (2 * np.pi / wavelength / np.linalg.norm(direction, axis=2))[..., None]
    phase = rng.uniform(0, 2 * np.pi, (4, 9))
    waves = np.concatenate([direction, phase[..., None], wavelength[..., None] ** 1.2], axis=2)
    tree = np.concatenate([_grow_tree(rng, anatomy, side, middle) for side in (-1, 1)])
    return Patient(anatomy, waves, tree, lesion, levels, int(rng.integers(2**31)))


def _draw_lesion(rng: np.random.Generator, anatomy: Anatomy, z: float, radius: float) -> Lesion:
    x, y = np.meshgrid(np.linspace(-0.8, 0.8, 81), np.linspace(-0.55, 0.55, 56))
    wall, centre = _cavity(anatomy, x, y, z), -_mediastinum(anatomy, x, y, z)
    room = np.minimum(wall / 0.8, centre / 1.15)
    fits = np.flatnonzero(room.ravel() >= min(radius, float(room.max()) * 0.98))
    place = int(rng.choice(fits))
    kind = rng.uniform()
    solid = 1.0 if kind < 0.78 else float(rng.uniform(0.6, 0.85)) if kind < 0.97 else 0.0
    count = int(rng.integers(6, 18))
    lobes = np.stack(
        [np.arange(2, 9), rng.uniform(0.1, 1, 7) * 0.36 / np.arange(2, 9), rng.uniform(0, 6.28, 7)],
        axis=1,
    )
    spicules = np.stack(
        [
            (np.arange(count) + rng.uniform(-0.4, 0.4, count)) * 2 * np.pi / count,
            rng.uniform(0.15, 0.6, count) * rng.uniform(0.5, 1.2),
            rng.uniform(0.003, 0.007, count),
            rng.uniform(-0.25, 0.25, count),
        ],
        axis=1,
    )
    position = (
        float(x.ravel()[place]),
        float(y.ravel()[place]),
        z + float(rng.uniform(-0.2, 0.2)) * radius,
    )
    glass_hu, solid_hu = (float(hu) for hu in rng.uniform((-480, 15), (-300, 75)))
    return Lesion(
        position, min(radius, float(room.max())), solid, glass_hu, solid_hu, lobes, spicules
    )


def _grow_tree(rng: np.random.Generator, anatomy: Anatomy, side: int, middle: float) -> np.ndarray:
    """Join random points of a lung to a tree that starts at the hilum and stays short from there to every point."""
    points = rng.uniform((0.1, -0.5, middle - 0.22), (0.85, 0.5, middle + 0.22), (3600, 3)) * (
        side,
        1,
        1,
    )
    depth = np.minimum(
        _cavity(anatomy, points[:, 0], points[:, 1], points[:, 2]),
        -_mediastinum(anatomy, points[:, 0], points[:, 1], points[:, 2]),
    )
    points = points[depth > 0.025][: int(1700 * anatomy.vessel_share)]
    roots = np.array(
        [(side * 0.17, 0.03, 0.36), (side * 0.16, 0.10, 0.46), (side * 0.15, -0.03, 0.42)]
    )
    roots[:, 2] = np.clip(roots[:, 2], middle - 0.2, middle + 0.2)
    order = np.argsort(np.linalg.norm(points - roots[0], axis=1))
    nodes = np.concatenate([roots, points[order]])
    parent = np.zeros(len(nodes), dtype=int)
    path = np.zeros(len(nodes))
    for index in range(len(roots), len(nodes)):
        gap = nodes[:index] - nodes[index]
        distance = np.sqrt(np.einsum("ij,ij->i", gap, gap))
        parent[index] = np.argmin(distance + 0.55 * path[:index])
        path[index] = path[parent[index]] + distance[parent[index]]
    load = np.ones(len(nodes))
    for index in range(len(nodes) - 1, len(roots) - 1, -1):
        load[parent[index]] += load[index]
    child = np.arange(len(roots), len(nodes))
    radius = np.minimum(0.0024 * anatomy.vessels * load**0.42, 0.034)
    thick = np.minimum(radius[parent[child]], radius[child] * 1.5)
    airway = (radius[child] > 0.009) & (rng.uniform(size=len(child)) < 0.8)
    return np.column_stack([nodes[parent[child]], nodes[child], thick, radius[child], airway])


def _ramp(value: Any, start: float, end: float) -> Any:
    """Rise smoothly from 0 at `start` to 1 at `end`."""
    share = (value - start) / (end - start)
    share = (
        np.clip(share, 0, 1) if isinstance(share, np.ndarray) else min(max(float(share), 0.0), 1.0)
    )
    return share * share * (3 - 2 * share)


def _blob(
    x: Any, y: Any, sides: tuple[Any, Any, Any, Any], power: float = 2.0, turn: float = 0.0
) -> Any:
    """Return how far inside an egg about (0, 0) each point lies; `sides` reach to -x, +x, -y and +y."""
    if turn:
        cos, sin = math.cos(turn), math.sin(turn)
        x, y = x * cos + y * sin, y * cos - x * sin
    left, right, front, back = (np.asarray(side, dtype=np.float32) for side in sides)
    u = np.abs(x) / np.where(x < 0, left, right)
    v = np.abs(y) / np.where(y < 0, front, back)
    share = np.sqrt(u * u + v * v) if power == 2.0 else (u**power + v**power) ** (1 / power)
    return np.hypot(x, y) * (1 / np.maximum(share, 1e-3) - 1)


def _round_max(first: Any, second: Any, width: float) -> Any:
    """Return the larger of both, with a rounded crease."""
    share = np.clip(0.5 + (first - second) / (2 * width), 0, 1)
    return second + (first - second) * share + width * share * (1 - share)


def _cavity(anatomy: Anatomy, x: Any, y: Any, z: Any) -> Any:
    """Return how far inside the ribs each point lies."""
    reach = (1 - anatomy.wall_side) * (0.84 + 0.16 * _ramp(z, -0.3, 0.45))
    front = anatomy.front * (0.86 + 0.14 * _ramp(z, -0.3, 0.5))
    return _blob(x, y, (reach, reach, front, anatomy.back), anatomy.squareness)


def _heart(anatomy: Anatomy, x: Any, y: Any, z: Any) -> Any:
    grown = _ramp(z, 0.12, 0.62) * anatomy.heart
    sides = (0.21 * grown + 0.02, 0.36 * grown + 0.02, 0.23 * grown + 0.02, 0.21 * grown + 0.02)
    return _blob(x - 0.07, y + 0.35 * anatomy.front, sides, 2.2, anatomy.heart_turn)


def _spine_y(anatomy: Anatomy) -> float:
    return anatomy.back - 0.15


def _aorta_at(anatomy: Anatomy) -> tuple[float, float]:
    return 0.135, _spine_y(anatomy) - 0.06


def _mediastinum(anatomy: Anatomy, x: Any, y: Any, z: Any) -> Any:
    """Return how far inside heart, great vessels and spine each point lies."""
    front, spine = anatomy.front, _spine_y(anatomy)
    narrow = anatomy.mediastinum * (1 - 0.25 * _ramp(z, 0.3, 0.7))
    width = 0.015 + (narrow - 0.015) * _ramp(y, -front * 1.02, -front * 0.45)
    band = width - np.abs(x - 0.02)
    inside = _round_max(band, _heart(anatomy, x, y, z), 0.05)
    hilum = np.exp(-(((z - 0.42) / 0.18) ** 2)) * 0.075 + 1e-3
    for side in (-1, 1):
        inside = _round_max(
            inside, _blob(x - side * 0.18, y - 0.05, (hilum, hilum, hilum, hilum)), 0.05
        )
    aorta_x, aorta_y = _aorta_at(anatomy)
    size = anatomy.aorta + 0.008
    inside = _round_max(inside, _blob(x - aorta_x, y - aorta_y, (size, size, size, size)), 0.03)
    return _round_max(inside, _blob(x, y - spine - 0.05, (0.15, 0.15, 0.16, 0.3)), 0.05)


class _Slice:
    """One slice that is being painted, with the coordinates of its pixels."""

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
        """Turn distances inside an outline into the covered share of each pixel."""
        return np.clip(inside / (self.pixel * softness) + 0.5, 0, 1)

    def paint(self, inside: Any, hu: Any, softness: float = 1.0) -> None:
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

    def paint_egg(
        self, at: tuple[float, float], radii: tuple[float, float], hu: Any, turn: float = 0.0
    ) -> None:
        box = self.box([at], max(radii))
        inside = _blob(
            self.x[box] - at[0],
            self.y[box] - at[1],
            (radii[0], radii[0], radii[1], radii[1]),
            2.0,
            turn,
        )
        self._paint_in(box, inside, hu)

    def _paint_in(self, box: tuple[slice, slice], inside: Any, hu: Any) -> None:
        value = hu[box] if isinstance(hu, np.ndarray) else hu
        self.hu[box] += self.cover(inside) * (value - self.hu[box])

    def rod(self, ends: _Ends, radii: tuple[float, float]) -> tuple[tuple[slice, slice], Any]:
        """Return a box and how far inside a tapering rod between two `ends` its points lie."""
        box = self.box(ends, max(radii))
        (start_x, start_y), (end_x, end_y) = ends
        along_x, along_y = end_x - start_x, end_y - start_y
        x, y = self.x[box] - start_x, self.y[box] - start_y
        share = np.clip((x * along_x + y * along_y) / max(along_x**2 + along_y**2, 1e-9), 0, 1)
        gap = np.hypot(x - share * along_x, y - share * along_y)
        return box, radii[0] + share * (radii[1] - radii[0]) - gap

    def paint_rod(self, ends: _Ends, radii: tuple[float, float], hu: Any) -> None:
        box, inside = self.rod(ends, radii)
        self._paint_in(box, inside, hu)


def measure(
    patient: Patient, index: int, size: int, noise: float = 1.0, lesion: bool = True
) -> np.ndarray:
    """Scan one slice.

    Args:
        patient: from `draw_patient`.
        index: of the slice, from 0.
        size: pixels of the square slice's side.
        noise: how grainy it is, as a multiple of what is usual.
        lesion: whether the lesion is there; nothing else depends on it.

    Returns:
        float32, (size, size), HU; where the scanner's round field ends, far below air.
    """
    canvas = _Slice(patient, patient.levels[index], size)
    rng = np.random.default_rng([patient.seed, index])
    anatomy = patient.anatomy
    cavity = _cavity(anatomy, canvas.x, canvas.y, canvas.z)
    body = _paint_table_and_body(canvas, cavity, rng)
    _paint_wall(canvas, cavity, body, rng)
    lung = _paint_chest(canvas, cavity, rng)
    _paint_spine(canvas, body, rng)
    _paint_lungs(canvas, lung, cavity, rng)
    if lesion:
        _paint_lesion(canvas, lung, np.random.default_rng([patient.seed, index, 1]))
    _paint_fluid(canvas, lung, cavity)
    return _scan(canvas, body, noise, rng)


def _grain(rng: np.random.Generator, size: int, *sigma: float) -> np.ndarray:
    """Return noise of mean 0 and standard deviation 1 whose grains are `sigma` pixels wide (rows, columns)."""
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


def _paint_table_and_body(canvas: _Slice, cavity: Any, rng: np.random.Generator) -> Any:
    """Paint the table, skin and fat; return how far inside the skin each point lies."""
    anatomy, size = canvas.anatomy, len(canvas.hu)
    x, y = canvas.x, canvas.y
    body = _blob(
        x,
        y,
        (1.0, 1.0, anatomy.front + anatomy.wall_front, anatomy.back + anatomy.wall_back),
        anatomy.squareness,
    )
    groove = 0.035 * np.exp(-((x / 0.12) ** 2)) * (y > 0)
    body = body - groove + 0.008 * canvas.wave[2]
    breast = (
        max(anatomy.breast, 0) * _ramp(canvas.z, -0.1, 0.2) * (1 - 0.5 * _ramp(canvas.z, 0.55, 0.8))
    )
    for side in (-1, 1):
        if breast:
            sides = (0.40, 0.36, 0.1 + breast, 0.3)
            lump = _blob(
                x - side * 0.45,
                y + (anatomy.front + anatomy.wall_front) * 0.86,
                sides,
                2.0,
                side * 0.45,
            )
            body = _round_max(body, lump, 0.05)
    top = (
        anatomy.back
        + anatomy.wall_back
        + anatomy.shift_y
        - 0.03
        + anatomy.table_mm / anatomy.half_width_mm
    )
    below = canvas.plane_y - (top - anatomy.table_curve * canvas.plane_x**2)
    half = 1.18 - np.abs(canvas.plane_x)
    canvas.paint(np.minimum(np.minimum(below, 0.10 - below), half), -930)
    for line, hu in ((0.035, -350), (0.115, -250)):
        canvas.paint(np.minimum(0.007 - np.abs(below - line), half), hu)
    canvas.paint(body, 10)
    canvas.paint(body - 0.010, FAT + 9 * _grain(rng, size, 3) + 4 * canvas.wave[3])
    if breast:
        gland = anatomy.gland * (canvas.wave[3] + 0.9 * _grain(rng, size, 4)) - 0.9
        front = (
            _ramp(-y, anatomy.front * 0.9, anatomy.front * 1.2)
            * _ramp(body, 0.03, 0.1)
            * (cavity < -0.1)
        )
        canvas.hu += front * np.clip(gland, 0, 1) * 110
    return body


def _paint_wall(canvas: _Slice, cavity: Any, body: Any, rng: np.random.Generator) -> None:
    """Paint muscles with fat between them, shoulder blades, ribs and breastbone."""
    anatomy, size, x, y, z = canvas.anatomy, len(canvas.hu), canvas.x, canvas.y, canvas.z
    wave = canvas.wave
    fibre = _grain(rng, size, 1.2)
    muscle = (
        anatomy.muscle_hu
        + 9 * fibre
        + 6 * wave[3]
        - 45 * np.clip(_grain(rng, size, 2.5) - 1.4, 0, 1)
    )
    fat = anatomy.fat * (1 + 0.5 * _ramp(-y, 0.0, 0.5) + 0.25 * wave[2])
    outward = -cavity
    plane = body - fat
    # The front of the chest carries a thin sheet only; what is further out there is breast or fat.
    sheet = (
        0.085 + 0.30 * _ramp(np.abs(x), 0.25, 0.8) * _ramp(y, -0.62, 0.1) + 0.2 * _ramp(y, 0.0, 0.4)
    )
    canvas.paint(np.minimum(plane, sheet - outward + 0.02 * wave[3]), muscle)
    share = outward / np.maximum(outward + plane, 0.02)
    thick = anatomy.fat_planes * np.clip(0.9 + 1.1 * wave[3], 0.05, 2.5)
    for centre, part in ((0.36, 1.0), (0.70, 0.75)):
        gap = thick * part - np.abs(share - centre - 0.13 * wave[2])
        width = np.maximum(outward + plane, 0.02)
        canvas.paint(np.minimum(gap * width, plane) * (outward > 0.045), FAT + 8 * fibre)
    armpit = (
        _blob(np.abs(x) - 0.86, y + 0.12 + 0.1 * z, (0.10, 0.08, 0.16, 0.13), 2.0, 0.3)
        + 0.02 * wave[3]
    )
    canvas.paint(np.minimum(armpit, plane), FAT + 12 * fibre)

    angle = np.arctan2(y, np.abs(x))
    radius = np.hypot(x, y)
    phase = anatomy.rib_phase + z * 1.9 + np.where(x > 0, 0.35, 0.0)
    spacing = 0.52
    number = np.floor(angle / spacing + phase)
    along = ((angle / spacing + phase) - number - 0.5) * spacing * radius
    shape = np.sin(number * 12.9898 + np.where(x > 0, 4.1, 0.0) + anatomy.rib_phase * 50)
    tall, length = 0.021 + 0.004 * shape, 0.125 + 0.045 * shape
    across = outward - 0.031 - (0.10 + 0.12 * shape) * along * np.where(y > 0, 1, -1)
    rib = np.minimum(
        tall * np.sqrt(np.clip(1 - (along / length) ** 2, 0, 1)) - np.abs(across),
        length - np.abs(along),
    )
    rib = np.where(np.abs(x) < 0.13, -0.1, rib)
    cartilage = _ramp(-angle, 0.62, 0.85)
    cortex = CORTEX * anatomy.bone * (1 - cartilage) + 110 * cartilage
    marrow = 230 * anatomy.bone * (1 - cartilage) + 75 * cartilage + 40 * fibre
    canvas.paint(rib, cortex)
    canvas.paint(rib - 0.010, marrow)

    reach = 0.21 * (1 - _ramp(z, 0.15, 0.75))
    if reach > 0.03:
        centre = 0.55 + 0.12 * wave[2].mean() + 0.05 * np.sin(anatomy.rib_phase * 9)
        along = (angle - centre) * radius
        across = outward - 0.105 - 0.22 * along - 1.4 * along**2
        knob = 0.012 + 0.016 * _ramp(-along, 0.3 * reach, reach)
        blade = np.minimum(knob - np.abs(across), reach - np.abs(along))
        canvas.paint(blade, CORTEX * anatomy.bone * 0.9)
        canvas.paint(blade - 0.010, 250 * anatomy.bone + 50 * fibre)

    front = -anatomy.front - 0.045
    sternum = _blob(x + 0.01, y - front, (0.125, 0.125, 0.04, 0.04), 2.8) + 0.006 * wave[3]
    canvas.paint(sternum, CORTEX * 0.8 * anatomy.bone)
    canvas.paint(sternum - 0.013, 160 * anatomy.bone + 40 * fibre)


def _paint_chest(canvas: _Slice, cavity: Any, rng: np.random.Generator) -> Any:
    """Paint heart, great vessels and gullet; return how far inside a lung each point lies."""
    anatomy, size, x, y, z = canvas.anatomy, len(canvas.hu), canvas.x, canvas.y, canvas.z
    grain = _grain(rng, size, 1.5)
    blood = 42 + max(anatomy.contrast, 0) + 5 * grain
    canvas.paint(cavity + 0.012, -85 + 10 * grain + 25 * np.clip(canvas.wave[3], 0, 1))
    spine = _spine_y(anatomy)
    size_aorta = anatomy.aorta
    if z < 0.10:
        canvas.paint_egg((0.07, -0.01), (size_aorta * 1.05, 0.20), blood, -0.35)
        canvas.paint_egg((-0.11, -0.12), (0.05, 0.058), blood)
    else:
        lift = -0.26 * anatomy.front
        heart = _heart(anatomy, x, y, z)
        canvas.paint(heart - 0.006, 65 + 0.35 * max(anatomy.contrast, 0) + 8 * grain)
        wall = 0.03 + 0.012 * canvas.wave[2]
        septum = 0.015 - np.abs((x - 0.12) * 0.7 + (y + 0.12) * 0.7 + 0.05 * canvas.wave[3])
        canvas.paint(np.minimum(heart - wall, -septum), blood, 2.5)
        groove = np.minimum(
            0.006 - np.abs(x + 0.04 + 0.5 * (y + 0.1) + 0.05 * canvas.wave[2]), 0.05 + heart
        )
        canvas.paint(np.minimum(groove, heart), -40 + 20 * grain)
        root = 1 - _ramp(z, 0.55, 0.7)
        if root > 0.3:
            canvas.paint_egg((-0.045, lift), (size_aorta * 1.08, size_aorta * 1.08), blood)
            canvas.paint_egg((-0.135, lift + 0.04), (0.045, 0.055), blood)
        trunk = np.exp(-(((z - 0.36) / 0.15) ** 2))
        if trunk > 0.35:
            canvas.paint_egg((0.085, lift - 0.01), (0.085 * trunk, 0.1 * trunk), blood, -0.4)
            canvas.paint_rod(
                ((0.07, lift + 0.06), (-0.17, 0.02)), (0.05 * trunk, 0.055 * trunk), blood
            )
            canvas.paint_rod(
                ((0.1, lift + 0.04), (0.18, 0.04)), (0.05 * trunk, 0.045 * trunk), blood
            )
        atrium = _ramp(z, 0.42, 0.55) * (1 - 0.6 * _ramp(z, 0.7, 0.9))
        if atrium > 0.1:
            canvas.paint_egg((0.01, spine - 0.22), (0.19 * atrium, 0.085 * atrium), blood)
    canvas.paint_egg(_aorta_at(anatomy), (size_aorta, size_aorta), blood)
    gullet = (0.035, spine - 0.12)
    canvas.paint_egg(gullet, (0.042, 0.03), 40 + 5 * grain[0, 0])
    if anatomy.gland > 0.5:
        canvas.paint_egg(gullet, (0.012, 0.008), -700)
    canvas.paint_egg((-0.07, spine - 0.08), (0.02, 0.02), blood[0, 0])
    lung = -_round_max(-cavity, _mediastinum(anatomy, x, y, z), 0.03) + 0.006 * canvas.wave[2]
    return lung


def _paint_spine(canvas: _Slice, body_depth: Any, rng: np.random.Generator) -> None:
    anatomy = canvas.anatomy
    spine = _spine_y(anatomy)
    grain = _grain(rng, len(canvas.hu), 1.3)
    hard, soft = CORTEX * anatomy.bone, 190 * anatomy.bone + 45 * grain
    for side in (-1, 1):
        muscle = _blob(
            canvas.x - side * 0.15,
            canvas.y - spine - 0.27,
            (0.14, 0.14, 0.09, 0.09),
            2.0,
            side * 0.25,
        )
        muscle = np.minimum(muscle + 0.01 * canvas.wave[3], body_depth - anatomy.fat)
        canvas.paint(muscle, anatomy.muscle_hu + 8 * grain)
        arm = (
            (side * 0.06, spine + 0.12),
            (side * 0.20, spine + 0.165 + 0.02 * math.sin(canvas.z * 30)),
        )
        canvas.paint_rod(arm, (0.03, 0.02), hard * 0.85)
        canvas.paint_rod(arm, (0.018, 0.010), soft)
    tip = spine + 0.24 + 0.06 * math.sin(canvas.z * 23 + anatomy.rib_phase * 6)
    canvas.paint_rod(((0.0, spine + 0.17), (0.005, tip)), (0.024, 0.016), hard * 0.9)
    canvas.paint_rod(((0.0, spine + 0.17), (0.005, tip)), (0.012, 0.005), 220)
    canvas.paint_egg((0.0, spine + 0.125), (0.098, 0.075), hard * 0.85)
    body = (
        _blob(canvas.x, canvas.y - spine, (0.112, 0.112, 0.095, 0.085), 2.3)
        + 0.006 * canvas.wave[3]
    )
    canvas.paint(body, hard * 0.75)
    canvas.paint(body - 0.013, soft)
    canvas.paint_egg((0.0, spine + 0.125), (0.060, 0.050), -30)
    canvas.paint_egg((0.0, spine + 0.125), (0.042, 0.034), 35)


def _paint_lungs(canvas: _Slice, lung: Any, cavity: Any, rng: np.random.Generator) -> None:
    """Paint parenchyma, vessels, airways, fissures and a calcified granuloma."""
    anatomy, size, y = canvas.anatomy, len(canvas.hu), canvas.y
    fine, coarse = _grain(rng, size, 0.9), _grain(rng, size, 5)
    tissue = (
        anatomy.lung_hu
        + anatomy.dependent * _ramp(y, -0.45, 0.5)
        + 14 * canvas.wave[3]
        + 13 * fine
        + 9 * coarse
    )
    if anatomy.emphysema > 0:
        holes = np.clip(_grain(rng, size, 2.2) + 0.5 * coarse - 1.6 + 0.6 * anatomy.emphysema, 0, 1)
        tissue = tissue - 75 * holes
    haze = max(anatomy.atelectasis, 0) * (1 + 0.5 * canvas.wave[2])
    near = np.exp(-np.maximum(lung, 0) / np.maximum(0.35 * haze, 1e-3)) * _ramp(y, 0.05, 0.35)
    tissue = tissue + near * (330 + 60 * coarse)
    canvas.paint(lung, tissue)

    opaque, dark = np.zeros_like(canvas.hu), np.zeros_like(canvas.hu)
    _add_vessels(canvas, opaque, dark)
    inside = canvas.cover(lung)
    canvas.hu += inside * opaque * (40 - canvas.hu)
    canvas.hu += inside * dark * (-900 - canvas.hu)
    _paint_airways(canvas)
    if anatomy.fissure > 0:
        for side, tilt in ((-1, 0.35), (1, -0.3)):
            line = y - anatomy.fissure + 0.25 - 0.55 * canvas.z + tilt * (canvas.x - side * 0.45)
            thin = np.clip(
                1 - np.abs(line + 0.03 * canvas.wave[2]) / (1.3 * canvas.pixel), 0, 1
            ) * (canvas.x * side > 0)
            canvas.hu += inside * thin * 90 * _ramp(cavity, 0.0, 0.1)
    if anatomy.granuloma > 0:
        spot = canvas.patient.tree[int(anatomy.granuloma * 1e6) % len(canvas.patient.tree), 3:5]
        canvas.paint_egg(
            (float(spot[0]), float(spot[1])), (anatomy.granuloma, anatomy.granuloma), 600
        )


def _add_vessels(canvas: _Slice, opaque: np.ndarray, dark: np.ndarray) -> None:
    """Add what of each vessel and airway lies in the slab that the slice is the mean of."""
    slab = canvas.anatomy.thickness_mm / canvas.anatomy.half_width_mm
    tree = canvas.patient.tree
    start, end, radius = tree[:, :3], tree[:, 3:6], tree[:, 6]
    reach = slab / 2 + radius
    tree = tree[
        (np.minimum(start[:, 2], end[:, 2]) < canvas.z + reach)
        & (np.maximum(start[:, 2], end[:, 2]) > canvas.z - reach)
    ]
    start, end, radius = tree[:, :3], tree[:, 3:6], tree[:, 6]
    rise = end[:, 2] - start[:, 2]
    rise = np.where(np.abs(rise) < 1e-6, 1e-6, rise)
    cuts = canvas.z - start[:, 2] + np.array([[-1], [1]]) * (slab / 2 + radius)
    first, last = (np.clip(cut / rise, 0, 1)[:, None] for cut in cuts)
    steep = np.abs(rise) / np.maximum(np.linalg.norm(end - start, axis=1), 1e-6)
    shares = np.minimum(1, 2 * radius / np.maximum(steep, 1e-3) / slab)
    across = (end - start)[:, :2]
    cut = np.concatenate(
        [start[:, :2] + first * across, start[:, :2] + last * across, tree[:, 6:], shares[:, None]],
        axis=1,
    )
    for x, y, end_x, end_y, thick, thin, airway, share in cut.tolist():
        box, inside = canvas.rod(((x, y), (end_x, end_y)), (thick, thin))
        np.maximum(opaque[box], share * canvas.cover(inside, 1.2), out=opaque[box])
        if airway:
            beside_x, beside_y = 1.15 * thick, 1.5 * thick
            ends = ((x + beside_x, y + beside_y), (end_x + beside_x, end_y + beside_y))
            box, inside = canvas.rod(ends, (thick, thin))
            np.maximum(opaque[box], share * 0.45 * canvas.cover(inside, 1.2), out=opaque[box])
            np.maximum(dark[box], share * canvas.cover(inside - 0.007, 1.2), out=dark[box])


def _paint_airways(canvas: _Slice) -> None:
    """Paint the windpipe, or the main bronchi below its end."""
    z, y = canvas.z, _spine_y(canvas.anatomy) - 0.23
    if z > 0.52:
        return
    apart = 0.26 * max(z - 0.22, 0)
    size = 0.052 if z < 0.22 else 0.052 - 0.05 * (z - 0.22)
    for side in (-1, 1):
        lean = side * (0.5 if z > 0.26 else 0.0)
        for grow, hu in ((0.009, 20.0), (0.0, -985.0)):
            radii = (size * (1.25 if z > 0.26 else 0.9) + grow, size * 0.95 + grow)
            canvas.paint_egg((-0.015 + side * apart * 1.6, y + 0.1 * apart), radii, hu, lean)


def _paint_lesion(canvas: _Slice, lung: Any, rng: np.random.Generator) -> None:
    lesion, size = canvas.patient.lesion, len(canvas.hu)
    above = (canvas.z - lesion.centre[2]) / lesion.radius
    radius = lesion.radius * float(np.sqrt(max(1 - above * above, 0.05)))
    x, y = canvas.x - lesion.centre[0], canvas.y - lesion.centre[1]
    angle, distance = np.arctan2(y, x), np.hypot(x, y)
    outline = np.ones_like(x)
    for lobe, height, phase in lesion.lobes.tolist():
        outline += height * np.cos(lobe * angle + phase + 0.4 * above)
    ragged = 0.04 * _grain(rng, size, 3) + 0.03 * _grain(rng, size, 1.2)
    inside = radius * (outline + ragged) - distance
    glass = canvas.cover(inside, 1.5)
    core = canvas.cover(inside - radius * (1 - lesion.solid), 1.0 if lesion.solid == 1 else 4.0) * (
        lesion.solid > 0
    )
    halo = 0.15 * np.exp(np.minimum(inside, 0) / (0.10 * radius))
    rays = np.zeros_like(x)
    for direction, length, thickness, bend in lesion.spicules.tolist():
        cos, sin = math.cos(direction), math.sin(direction)
        first, middle, last = (
            (lesion.centre[0] + out * cos - aside * sin, lesion.centre[1] + out * sin + aside * cos)
            for out, aside in (
                (radius * 0.75, 0.0),
                (radius * (1 + length / 2), 0.0),
                (radius * (1 + length), radius * length * bend),
            )
        )
        for ends, widths in (((first, middle), (2.2, 1.0)), ((middle, last), (1.0, 0.35))):
            box, ray = canvas.rod(ends, (thickness * widths[0], thickness * widths[1]))
            np.maximum(rays[box], canvas.cover(ray, 1.3), out=rays[box])
    texture = _grain(rng, size, 1.6)
    tissue = lesion.solid_hu + 10 * texture + 0.25 * max(canvas.anatomy.contrast, 0)
    cloudy = np.maximum(lesion.glass_hu + 45 * texture, canvas.hu)
    lungs = canvas.cover(lung)
    canvas.hu += lungs * np.maximum(glass, halo) * (cloudy - canvas.hu)
    solid = np.maximum(core, rays * (0.75 if lesion.solid > 0 else 0.25))
    canvas.hu += lungs * solid * (tissue - canvas.hu)


def _paint_fluid(canvas: _Slice, lung: Any, cavity: Any) -> None:
    """Paint a pleural effusion along the back of one side."""
    anatomy = canvas.anatomy
    if anatomy.effusion <= 0:
        return
    side = canvas.x * np.sign(anatomy.effusion_side) > 0.02
    depth = anatomy.effusion * 1.3 * _ramp(canvas.y, 0.0, 0.42) * (1 + 0.2 * canvas.wave[2])
    canvas.paint(np.where(side, np.minimum(depth - cavity, lung + canvas.pixel), -1.0), 12, 1.5)


def _scan(canvas: _Slice, body: Any, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Blur as the kernel, the patient's motion and the slab do, and add noise as the dose and the body give it."""
    anatomy, size, hu = canvas.anatomy, len(canvas.hu), canvas.hu
    pixel_mm = canvas.pixel * anatomy.half_width_mm
    if anatomy.motion > 0:
        steps = max(int(anatomy.motion / canvas.pixel), 1)
        hu = 0.6 * hu + 0.4 * np.roll(hu, (steps, steps // 2), (0, 1))
    hu = ndimage.gaussian_filter(hu, anatomy.blur_mm / pixel_mm)
    if anatomy.sharpening > 0:
        hu = hu + anatomy.sharpening * (hu - ndimage.gaussian_filter(hu, 1.6 / pixel_mm))
    grain = _grain(rng, size, 0.65) + 0.35 * _grain(rng, size, 0.6, 5)
    shield = ndimage.gaussian_filter(
        np.clip(body, 0, None).astype(np.float32), 20 * size / 256 / 1.4
    )
    hu = hu + noise * anatomy.grain_hu * grain * (0.55 + 1.3 * shield)
    circle = np.hypot(canvas.plane_x, canvas.plane_y) < anatomy.fov_mm / 2 / anatomy.half_width_mm
    return np.where(circle, hu, OUTSIDE_SCAN).astype(np.float32)
