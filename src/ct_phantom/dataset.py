"""Render patients and write data sets of slices with and without a carcinoma."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ct_phantom.options import PhantomOptions
from ct_phantom.patient import Patient, draw_patient, replace_lesion
from ct_phantom.scanner import scan_slice

NORMAL, SQUAMOUS, LARGE_CELL = "normal", "squamous.cell.carcinoma", "large.cell.carcinoma"
CLASSES = (NORMAL, "adenocarcinoma", LARGE_CELL, SQUAMOUS)


def make_patient(options: PhantomOptions, number: int, name: str = CLASSES[1]) -> Patient:
    """Draw a patient, independently of the number of patients.

    Args:
        options: seed, slices and size of the lesion.
        number: of the patient, from 1.
        name: class; nothing but the lesion depends on it.
    """
    rng = np.random.default_rng(np.random.SeedSequence(options.seed, spawn_key=(number,)))
    lesion_mm = (options.lesion_mm_min, options.lesion_mm_max)
    patient = draw_patient(rng, options.slices, lesion_mm)
    if name in (SQUAMOUS, LARGE_CELL):
        patient = replace_lesion(patient, rng, central=name == SQUAMOUS)
    return patient


def render_slice(options: PhantomOptions, patient: Patient, index: int, lesion: bool) -> np.ndarray:
    """Scan a slice of a patient and apply a display window.

    Args:
        options: size, noise and windows.
        patient: from `make_patient`.
        index: of the slice, from 0.
        lesion: whether the lesion is painted; nothing else depends on it.

    Returns:
        uint8, (size, size).
    """
    hu = scan_slice(patient, index, options.size, options.noise, lesion)
    center, width = _display_window(patient.seed, options.window_jitter)
    return (np.clip((hu - center) / width + 0.5, 0, 1) * 255).round().astype(np.uint8)


def patient_classes(options: PhantomOptions) -> list[str]:
    """Return the class of each patient, drawn so that the classes are equally large."""
    rng = np.random.default_rng(np.random.SeedSequence(options.seed, spawn_key=(0,)))
    names = [""] * options.patients
    for rank, patient in enumerate(reversed(rng.permutation(options.patients).tolist())):
        names[patient] = CLASSES[rank * options.classes // options.patients]
    return names


def write_phantom(
    folder: Path,
    options: PhantomOptions,
    workers: int = -1,
    on_patient: Callable[[], object] = lambda: None,
) -> int:
    """Write a data set as 8-bit grey PNG files: `<class>/patient0001_slice01.png`.

    Args:
        folder: gets a folder for each class.
        options: of the data set; the same options give the same bytes.
        workers: number of processes; -1 means one per core.
        on_patient: called after each patient.

    Returns:
        The number of images.
    """
    from joblib import Parallel, delayed

    folder = Path(folder).absolute()  # a reused worker may have another working directory
    for name in CLASSES[: options.classes]:
        (folder / name).mkdir(parents=True, exist_ok=True)
    jobs = []
    for number, name in enumerate(patient_classes(options), start=1):
        jobs.append(delayed(_write_patient)(folder, options, number, name))
    count = 0
    for written in Parallel(n_jobs=workers, return_as="generator_unordered")(jobs):
        count += written
        on_patient()
    return count


def _write_patient(folder: Path, options: PhantomOptions, number: int, name: str) -> int:
    patient = make_patient(options, number, name)
    for index in range(options.slices):
        pixels = render_slice(options, patient, index, lesion=name != NORMAL)
        path = folder / name / f"patient{number:04d}_slice{index + 1:02d}.png"
        Image.fromarray(pixels).save(path, compress_level=6)
    return options.slices


def _display_window(seed: int, jitter: float) -> tuple[float, float]:
    """Draw a display window (center, width; HU) between a lung window and a wide one."""
    wide, shift, stretch = np.random.default_rng([seed, 2**20]).uniform((0, -1, -1), 1)
    center = -550 + jitter * (350 * wide + 120 * shift)
    return center, (1500 + jitter * 900 * wide) * (1 + 0.15 * jitter * stretch)
