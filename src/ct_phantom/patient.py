"""A synthetic patient: anatomy, vessel tree and lesion, drawn from random numbers.

Lengths are in half widths of the patient's chest unless a name ends in `_mm`. In a slice x grows to
the patient's left (the image's right) and y to the back; z grows towards the feet, from the aortic
arch on.
"""

from dataclasses import dataclass, fields, replace

import numpy as np

from ct_phantom.anatomy import Anatomy, cavity_depth, mediastinum_depth


@dataclass(frozen=True)
class Lesion:
    """A carcinoma.

    Attributes:
        center: (x, y, z).
        radius: of its opaque part at its widest.
        solid: fraction of the radius that is solid; 0 is a pure ground-glass lesion.
        glass_hu: of the ground-glass part.
        solid_hu: of the solid part.
        lobes: (n, 3): number of lobes, height relative to the radius, phase.
        spicules: (n, 4): angle, length relative to the radius, thickness, bend.
        cavity: radius of the air inside, relative to the radius; 0: none.
    """

    center: tuple[float, float, float]
    radius: float
    solid: float
    glass_hu: float
    solid_hu: float
    lobes: np.ndarray
    spicules: np.ndarray
    cavity: float = 0.0


@dataclass(frozen=True)
class Patient:
    """One chest.

    Attributes:
        anatomy: its measures.
        waves: (4, n, 5): four smooth random fields in space, each a sum of waves (x, y, z, phase,
            height).
        tree: (n, 9): vessel segments: two ends (x, y, z), the radii there, and 1 where an airway
            runs beside it.
        lesion: position and shape of the lesion, painted or not.
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
    """Draw a patient, with the position of a lesion that `scan_slice` shows or leaves out.

    Args:
        rng: source of all randomness.
        slices: number of neighbouring slices.
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
    wall, center = cavity_depth(anatomy, x, y, z), -mediastinum_depth(anatomy, x, y, z)
    room = np.minimum(wall / 0.8, center / 1.15)
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


def replace_lesion(patient: Patient, rng: np.random.Generator, central: bool) -> Patient:
    """Return the same chest with another carcinoma instead of the adenocarcinoma.

    Args:
        patient: from `draw_patient`.
        rng: source of all randomness.
        central: a squamous cell carcinoma: beside the hilum, with a cavity; else a large cell
            carcinoma: larger, smooth, with a wide base on the chest wall.
    """
    anatomy, lesion, z = patient.anatomy, patient.lesion, float(np.mean(patient.levels))
    radius = lesion.radius * (0.95 if central else 1.3)
    x, y = np.meshgrid(np.linspace(-0.9, 0.9, 91), np.linspace(-0.6, 0.6, 61))
    wall, center = cavity_depth(anatomy, x, y, z), -mediastinum_depth(anatomy, x, y, z)
    if central:
        misfit = abs(center / radius - 0.4) + 2 * abs(y - 0.05) + np.maximum(0.8 - wall / radius, 0)
    else:
        misfit = abs(wall / radius - 0.55) + np.maximum(1.1 - center / radius, 0)
    position = int(rng.choice(np.argsort(misfit, axis=None, kind="stable")[:25]))
    lobes = lesion.lobes * (1, 0.7 if central else 0.35, 1)
    return replace(
        patient,
        lesion=replace(
            lesion,
            center=(float(x.ravel()[position]), float(y.ravel()[position]), lesion.center[2]),
            radius=radius,
            solid=1.0,
            lobes=lobes,
            spicules=lesion.spicules[:0],
            cavity=float(rng.uniform(0.35, 0.6)) if central else 0.0,
        ),
    )


def _grow_tree(rng: np.random.Generator, anatomy: Anatomy, side: int, middle: float) -> np.ndarray:
    """Join random points of a lung to a vessel tree with short paths from the hilum."""
    points = rng.uniform((0.1, -0.5, middle - 0.22), (0.85, 0.5, middle + 0.22), (3600, 3)) * (
        side,
        1,
        1,
    )
    depth = np.minimum(
        cavity_depth(anatomy, points[:, 0], points[:, 1], points[:, 2]),
        -mediastinum_depth(anatomy, points[:, 0], points[:, 1], points[:, 2]),
    )
    points = points[depth > 0.025][: int(1700 * anatomy.vessel_fraction)]
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
