"""Paint what is inside the lungs: parenchyma, vessels, airways, fluid and the lesion."""

import math
from typing import Any

import numpy as np

from ct_phantom.anatomy import smoothstep, spine_y
from ct_phantom.canvas import SliceCanvas, noise_texture


def paint_lungs(canvas: SliceCanvas, lung: Any, cavity: Any, rng: np.random.Generator) -> None:
    """Paint parenchyma, vessels, airways, fissures and a calcified granuloma."""
    anatomy, size, y = canvas.anatomy, len(canvas.hu), canvas.y
    fine, coarse = noise_texture(rng, size, 0.9), noise_texture(rng, size, 5)
    tissue = (
        anatomy.lung_hu
        + anatomy.dependent * smoothstep(y, -0.45, 0.5)
        + 14 * canvas.wave[3]
        + 13 * fine
        + 9 * coarse
    )
    if anatomy.emphysema > 0:
        holes = np.clip(
            noise_texture(rng, size, 2.2) + 0.5 * coarse - 1.6 + 0.6 * anatomy.emphysema, 0, 1
        )
        tissue = tissue - 75 * holes
    haze = max(anatomy.atelectasis, 0) * (1 + 0.5 * canvas.wave[2])
    near = np.exp(-np.maximum(lung, 0) / np.maximum(0.35 * haze, 1e-3)) * smoothstep(y, 0.05, 0.35)
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
            canvas.hu += inside * thin * 90 * smoothstep(cavity, 0.0, 0.1)
    if anatomy.granuloma > 0:
        spot = canvas.patient.tree[int(anatomy.granuloma * 1e6) % len(canvas.patient.tree), 3:5]
        canvas.paint_ellipse(
            (float(spot[0]), float(spot[1])), (anatomy.granuloma, anatomy.granuloma), 600
        )


def _add_vessels(canvas: SliceCanvas, opaque: np.ndarray, dark: np.ndarray) -> None:
    """Add the part of each vessel and airway that lies in the slab averaged by the slice."""
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


def _paint_airways(canvas: SliceCanvas) -> None:
    """Paint the windpipe, or the main bronchi below its end."""
    z, y = canvas.z, spine_y(canvas.anatomy) - 0.23
    if z > 0.52:
        return
    apart = 0.26 * max(z - 0.22, 0)
    size = 0.052 if z < 0.22 else 0.052 - 0.05 * (z - 0.22)
    for side in (-1, 1):
        lean = side * (0.5 if z > 0.26 else 0.0)
        for grow, hu in ((0.009, 20.0), (0.0, -985.0)):
            radii = (size * (1.25 if z > 0.26 else 0.9) + grow, size * 0.95 + grow)
            canvas.paint_ellipse((-0.015 + side * apart * 1.6, y + 0.1 * apart), radii, hu, lean)


def paint_lesion(canvas: SliceCanvas, lung: Any, rng: np.random.Generator) -> None:
    """Paint the lesion: a lobed mass with ground glass around it and spicules."""
    lesion, size = canvas.patient.lesion, len(canvas.hu)
    above = (canvas.z - lesion.center[2]) / lesion.radius
    radius = lesion.radius * float(np.sqrt(max(1 - above * above, 0.05)))
    x, y = canvas.x - lesion.center[0], canvas.y - lesion.center[1]
    angle, distance = np.arctan2(y, x), np.hypot(x, y)
    outline = np.ones_like(x)
    for lobe, height, phase in lesion.lobes.tolist():
        outline += height * np.cos(lobe * angle + phase + 0.4 * above)
    ragged = 0.04 * noise_texture(rng, size, 3) + 0.03 * noise_texture(rng, size, 1.2)
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
            (lesion.center[0] + out * cos - aside * sin, lesion.center[1] + out * sin + aside * cos)
            for out, aside in (
                (radius * 0.75, 0.0),
                (radius * (1 + length / 2), 0.0),
                (radius * (1 + length), radius * length * bend),
            )
        )
        for ends, widths in (((first, middle), (2.2, 1.0)), ((middle, last), (1.0, 0.35))):
            box, ray = canvas.rod(ends, (thickness * widths[0], thickness * widths[1]))
            np.maximum(rays[box], canvas.cover(ray, 1.3), out=rays[box])
    texture = noise_texture(rng, size, 1.6)
    tissue = lesion.solid_hu + 10 * texture + 0.25 * max(canvas.anatomy.contrast, 0)
    cloudy = np.maximum(lesion.glass_hu + 45 * texture, canvas.hu)
    lungs = canvas.cover(lung)
    canvas.hu += lungs * np.maximum(glass, halo) * (cloudy - canvas.hu)
    solid = np.maximum(core, rays * (0.75 if lesion.solid > 0 else 0.25))
    canvas.hu += lungs * solid * (tissue - canvas.hu)
    if lesion.cavity:
        air = canvas.cover(radius * lesion.cavity * (outline + 2 * ragged) - distance, 1.5)
        canvas.hu += lungs * air * (-940 - canvas.hu)


def paint_effusion(canvas: SliceCanvas, lung: Any, cavity: Any) -> None:
    """Paint a pleural effusion along the back of one side."""
    anatomy = canvas.anatomy
    if anatomy.effusion <= 0:
        return
    side = canvas.x * np.sign(anatomy.effusion_side) > 0.02
    depth = anatomy.effusion * 1.3 * smoothstep(canvas.y, 0.0, 0.42) * (1 + 0.2 * canvas.wave[2])
    canvas.paint(np.where(side, np.minimum(depth - cavity, lung + canvas.pixel), -1.0), 12, 1.5)
