"""Paint the body around the lungs: table, skin, fat, muscles, bones, heart and vessels."""

import math
from typing import Any

import numpy as np

from ct_phantom.anatomy import (
    aorta_center,
    ellipse_depth,
    heart_depth,
    mediastinum_depth,
    smooth_max,
    smoothstep,
    spine_y,
)
from ct_phantom.canvas import SliceCanvas, noise_texture

FAT, CORTEX = -100.0, 750.0


def paint_body(canvas: SliceCanvas, cavity: Any, rng: np.random.Generator) -> Any:
    """Paint the table, skin and fat; return the depth below the skin."""
    anatomy, size = canvas.anatomy, len(canvas.hu)
    x, y = canvas.x, canvas.y
    body = ellipse_depth(
        x,
        y,
        (1.0, 1.0, anatomy.front + anatomy.wall_front, anatomy.back + anatomy.wall_back),
        anatomy.squareness,
    )
    groove = 0.035 * np.exp(-((x / 0.12) ** 2)) * (y > 0)
    body = body - groove + 0.008 * canvas.wave[2]
    breast = (
        max(anatomy.breast, 0)
        * smoothstep(canvas.z, -0.1, 0.2)
        * (1 - 0.5 * smoothstep(canvas.z, 0.55, 0.8))
    )
    for side in (-1, 1):
        if breast:
            sides = (0.40, 0.36, 0.1 + breast, 0.3)
            lump = ellipse_depth(
                x - side * 0.45,
                y + (anatomy.front + anatomy.wall_front) * 0.86,
                sides,
                2.0,
                side * 0.45,
            )
            body = smooth_max(body, lump, 0.05)
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
    canvas.paint(body - 0.010, FAT + 9 * noise_texture(rng, size, 3) + 4 * canvas.wave[3])
    if breast:
        gland = anatomy.gland * (canvas.wave[3] + 0.9 * noise_texture(rng, size, 4)) - 0.9
        front = (
            smoothstep(-y, anatomy.front * 0.9, anatomy.front * 1.2)
            * smoothstep(body, 0.03, 0.1)
            * (cavity < -0.1)
        )
        canvas.hu += front * np.clip(gland, 0, 1) * 110
    return body


def paint_wall(canvas: SliceCanvas, cavity: Any, body: Any, rng: np.random.Generator) -> None:
    """Paint the chest wall: muscles, ribs, shoulder blades and breastbone."""
    anatomy = canvas.anatomy
    fiber = noise_texture(rng, len(canvas.hu), 1.2)
    _paint_muscles(canvas, cavity, body, fiber, rng)
    _paint_ribs(canvas, -cavity, fiber)
    _paint_shoulder_blades(canvas, -cavity, fiber)
    front = -anatomy.front - 0.045
    sternum = ellipse_depth(canvas.x + 0.01, canvas.y - front, (0.125, 0.125, 0.04, 0.04), 2.8)
    sternum = sternum + 0.006 * canvas.wave[3]
    canvas.paint(sternum, CORTEX * 0.8 * anatomy.bone)
    canvas.paint(sternum - 0.013, 160 * anatomy.bone + 40 * fiber)


def _paint_muscles(
    canvas: SliceCanvas, cavity: Any, body: Any, fiber: np.ndarray, rng: np.random.Generator
) -> None:
    """Paint the muscles of the chest wall, with fat between them."""
    anatomy, size, x, y, z = canvas.anatomy, len(canvas.hu), canvas.x, canvas.y, canvas.z
    wave = canvas.wave
    muscle = (
        anatomy.muscle_hu
        + 9 * fiber
        + 6 * wave[3]
        - 45 * np.clip(noise_texture(rng, size, 2.5) - 1.4, 0, 1)
    )
    fat = anatomy.fat * (1 + 0.5 * smoothstep(-y, 0.0, 0.5) + 0.25 * wave[2])
    outward = -cavity
    plane = body - fat
    # The front of the chest carries a thin sheet only; everything outside it is breast or fat.
    sheet = (
        0.085
        + 0.30 * smoothstep(np.abs(x), 0.25, 0.8) * smoothstep(y, -0.62, 0.1)
        + 0.2 * smoothstep(y, 0.0, 0.4)
    )
    canvas.paint(np.minimum(plane, sheet - outward + 0.02 * wave[3]), muscle)
    layer = outward / np.maximum(outward + plane, 0.02)
    thick = anatomy.fat_planes * np.clip(0.9 + 1.1 * wave[3], 0.05, 2.5)
    for center, part in ((0.36, 1.0), (0.70, 0.75)):
        gap = thick * part - np.abs(layer - center - 0.13 * wave[2])
        width = np.maximum(outward + plane, 0.02)
        canvas.paint(np.minimum(gap * width, plane) * (outward > 0.045), FAT + 8 * fiber)
    armpit = (
        ellipse_depth(np.abs(x) - 0.86, y + 0.12 + 0.1 * z, (0.10, 0.08, 0.16, 0.13), 2.0, 0.3)
        + 0.02 * wave[3]
    )
    canvas.paint(np.minimum(armpit, plane), FAT + 12 * fiber)


def _paint_ribs(canvas: SliceCanvas, outward: Any, fiber: np.ndarray) -> None:
    anatomy, x, y, z = canvas.anatomy, canvas.x, canvas.y, canvas.z
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
    cartilage = smoothstep(-angle, 0.62, 0.85)
    cortex = CORTEX * anatomy.bone * (1 - cartilage) + 110 * cartilage
    marrow = 230 * anatomy.bone * (1 - cartilage) + 75 * cartilage + 40 * fiber
    canvas.paint(rib, cortex)
    canvas.paint(rib - 0.010, marrow)


def _paint_shoulder_blades(canvas: SliceCanvas, outward: Any, fiber: np.ndarray) -> None:
    anatomy = canvas.anatomy
    reach = 0.21 * (1 - smoothstep(canvas.z, 0.15, 0.75))
    if reach <= 0.03:
        return
    angle = np.arctan2(canvas.y, np.abs(canvas.x))
    radius = np.hypot(canvas.x, canvas.y)
    center = 0.55 + 0.12 * canvas.wave[2].mean() + 0.05 * np.sin(anatomy.rib_phase * 9)
    along = (angle - center) * radius
    across = outward - 0.105 - 0.22 * along - 1.4 * along**2
    knob = 0.012 + 0.016 * smoothstep(-along, 0.3 * reach, reach)
    blade = np.minimum(knob - np.abs(across), reach - np.abs(along))
    canvas.paint(blade, CORTEX * anatomy.bone * 0.9)
    canvas.paint(blade - 0.010, 250 * anatomy.bone + 50 * fiber)


def paint_mediastinum(canvas: SliceCanvas, cavity: Any, rng: np.random.Generator) -> Any:
    """Paint heart, great vessels and esophagus; return the depth inside the lungs."""
    anatomy, size, x, y, z = canvas.anatomy, len(canvas.hu), canvas.x, canvas.y, canvas.z
    grain = noise_texture(rng, size, 1.5)
    blood = 42 + max(anatomy.contrast, 0) + 5 * grain
    canvas.paint(cavity + 0.012, -85 + 10 * grain + 25 * np.clip(canvas.wave[3], 0, 1))
    spine = spine_y(anatomy)
    size_aorta = anatomy.aorta
    if z < 0.10:
        canvas.paint_ellipse((0.07, -0.01), (size_aorta * 1.05, 0.20), blood, -0.35)
        canvas.paint_ellipse((-0.11, -0.12), (0.05, 0.058), blood)
    else:
        lift = -0.26 * anatomy.front
        heart = heart_depth(anatomy, x, y, z)
        canvas.paint(heart - 0.006, 65 + 0.35 * max(anatomy.contrast, 0) + 8 * grain)
        wall = 0.03 + 0.012 * canvas.wave[2]
        septum = 0.015 - np.abs((x - 0.12) * 0.7 + (y + 0.12) * 0.7 + 0.05 * canvas.wave[3])
        canvas.paint(np.minimum(heart - wall, -septum), blood, 2.5)
        groove = np.minimum(
            0.006 - np.abs(x + 0.04 + 0.5 * (y + 0.1) + 0.05 * canvas.wave[2]), 0.05 + heart
        )
        canvas.paint(np.minimum(groove, heart), -40 + 20 * grain)
        root = 1 - smoothstep(z, 0.55, 0.7)
        if root > 0.3:
            canvas.paint_ellipse((-0.045, lift), (size_aorta * 1.08, size_aorta * 1.08), blood)
            canvas.paint_ellipse((-0.135, lift + 0.04), (0.045, 0.055), blood)
        trunk = np.exp(-(((z - 0.36) / 0.15) ** 2))
        if trunk > 0.35:
            canvas.paint_ellipse((0.085, lift - 0.01), (0.085 * trunk, 0.1 * trunk), blood, -0.4)
            canvas.paint_rod(
                ((0.07, lift + 0.06), (-0.17, 0.02)), (0.05 * trunk, 0.055 * trunk), blood
            )
            canvas.paint_rod(
                ((0.1, lift + 0.04), (0.18, 0.04)), (0.05 * trunk, 0.045 * trunk), blood
            )
        atrium = smoothstep(z, 0.42, 0.55) * (1 - 0.6 * smoothstep(z, 0.7, 0.9))
        if atrium > 0.1:
            canvas.paint_ellipse((0.01, spine - 0.22), (0.19 * atrium, 0.085 * atrium), blood)
    canvas.paint_ellipse(aorta_center(anatomy), (size_aorta, size_aorta), blood)
    esophagus = (0.035, spine - 0.12)
    canvas.paint_ellipse(esophagus, (0.042, 0.03), 40 + 5 * grain[0, 0])
    if anatomy.gland > 0.5:
        canvas.paint_ellipse(esophagus, (0.012, 0.008), -700)
    canvas.paint_ellipse((-0.07, spine - 0.08), (0.02, 0.02), blood[0, 0])
    lung = -smooth_max(-cavity, mediastinum_depth(anatomy, x, y, z), 0.03) + 0.006 * canvas.wave[2]
    return lung


def paint_spine(canvas: SliceCanvas, body_depth: Any, rng: np.random.Generator) -> None:
    """Paint the back muscles and a vertebra."""
    anatomy = canvas.anatomy
    spine = spine_y(anatomy)
    grain = noise_texture(rng, len(canvas.hu), 1.3)
    hard, soft = CORTEX * anatomy.bone, 190 * anatomy.bone + 45 * grain
    for side in (-1, 1):
        muscle = ellipse_depth(
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
    canvas.paint_ellipse((0.0, spine + 0.125), (0.098, 0.075), hard * 0.85)
    body = (
        ellipse_depth(canvas.x, canvas.y - spine, (0.112, 0.112, 0.095, 0.085), 2.3)
        + 0.006 * canvas.wave[3]
    )
    canvas.paint(body, hard * 0.75)
    canvas.paint(body - 0.013, soft)
    canvas.paint_ellipse((0.0, spine + 0.125), (0.060, 0.050), -30)
    canvas.paint_ellipse((0.0, spine + 0.125), (0.042, 0.034), 35)
