"""What a CT scanner measures in a synthetic patient, in Hounsfield units (HU)."""

from typing import Any

import numpy as np
from scipy import ndimage

from ct_phantom.anatomy import cavity_depth
from ct_phantom.canvas import SliceCanvas, noise_texture
from ct_phantom.lungs import paint_effusion, paint_lesion, paint_lungs
from ct_phantom.patient import Patient
from ct_phantom.tissue import paint_body, paint_mediastinum, paint_spine, paint_wall

OUTSIDE_SCAN = -3000.0


def scan_slice(
    patient: Patient, index: int, size: int, noise: float = 1.0, lesion: bool = True
) -> np.ndarray:
    """Scan one slice.

    Args:
        patient: from `draw_patient`.
        index: of the slice, from 0.
        size: pixels of the square slice's side.
        noise: amount of noise; 1 is the usual amount.
        lesion: whether the lesion is painted; nothing else depends on it.

    Returns:
        float32, (size, size), HU; far below air outside the scanner's round field.
    """
    canvas = SliceCanvas(patient, patient.levels[index], size)
    rng = np.random.default_rng([patient.seed, index])
    anatomy = patient.anatomy
    cavity = cavity_depth(anatomy, canvas.x, canvas.y, canvas.z)
    body = paint_body(canvas, cavity, rng)
    paint_wall(canvas, cavity, body, rng)
    lung = paint_mediastinum(canvas, cavity, rng)
    paint_spine(canvas, body, rng)
    paint_lungs(canvas, lung, cavity, rng)
    if lesion:
        paint_lesion(canvas, lung, np.random.default_rng([patient.seed, index, 1]))
    paint_effusion(canvas, lung, cavity)
    return _simulate_scanner(canvas, body, noise, rng)


def _simulate_scanner(
    canvas: SliceCanvas, body: Any, noise: float, rng: np.random.Generator
) -> np.ndarray:
    """Add motion, the blur of the reconstruction kernel, and noise by dose and body depth."""
    anatomy, size, hu = canvas.anatomy, len(canvas.hu), canvas.hu
    pixel_mm = canvas.pixel * anatomy.half_width_mm
    if anatomy.motion > 0:
        steps = max(int(anatomy.motion / canvas.pixel), 1)
        hu = 0.6 * hu + 0.4 * np.roll(hu, (steps, steps // 2), (0, 1))
    hu = ndimage.gaussian_filter(hu, anatomy.blur_mm / pixel_mm)
    if anatomy.sharpening > 0:
        hu = hu + anatomy.sharpening * (hu - ndimage.gaussian_filter(hu, 1.6 / pixel_mm))
    grain = noise_texture(rng, size, 0.65) + 0.35 * noise_texture(rng, size, 0.6, 5)
    shield = ndimage.gaussian_filter(
        np.clip(body, 0, None).astype(np.float32), 20 * size / 256 / 1.4
    )
    hu = hu + noise * anatomy.grain_hu * grain * (0.55 + 1.3 * shield)
    circle = np.hypot(canvas.plane_x, canvas.plane_y) < anatomy.fov_mm / 2 / anatomy.half_width_mm
    return np.where(circle, hu, OUTSIDE_SCAN).astype(np.float32)
