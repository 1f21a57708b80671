"""Render patients and write data sets of slices with and without an adenocarcinoma."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ct_phantom.options import PhantomOptions
from ct_phantom.patient import Patient, draw_patient
from ct_phantom.scanner import scan_slice

LESION_CLASS, NORMAL_CLASS = "adenocarcinoma", "normal"


def make_patient(options: PhantomOptions, number: int) -> Patient:
    """Draw a patient, independently of the number of patients and of the patient's class.

    Args:
        options: seed, slices and size of the lesion.
        number: of the patient, from 1.
    """
    rng = np.random.default_rng(np.random.SeedSequence(options.seed, spawn_key=(number,)))
    return draw_patient(rng, options.slices, (options.lesion_mm_min, options.lesion_mm_max))


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


def lesion_patients(options: PhantomOptions) -> frozenset[int]:
    """Return the numbers of the patients with a lesion, half of all."""
    rng = np.random.default_rng(np.random.SeedSequence(options.seed, spawn_key=(0,)))
    selected = rng.permutation(options.patients)[: options.patients // 2] + 1
    return frozenset(selected.tolist())


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
    with_lesion = lesion_patients(options)
    for name in (LESION_CLASS, NORMAL_CLASS):
        (folder / name).mkdir(parents=True, exist_ok=True)
    jobs = []
    for number in range(1, options.patients + 1):
        jobs.append(delayed(_write_patient)(folder, options, number, number in with_lesion))
    count = 0
    for written in Parallel(n_jobs=workers, return_as="generator_unordered")(jobs):
        count += written
        on_patient()
    return count


def _write_patient(folder: Path, options: PhantomOptions, number: int, lesion: bool) -> int:
    patient = make_patient(options, number)
    name = LESION_CLASS if lesion else NORMAL_CLASS
    for index in range(options.slices):
        pixels = render_slice(options, patient, index, lesion)
        path = folder / name / f"patient{number:04d}_slice{index + 1:02d}.png"
        Image.fromarray(pixels).save(path, compress_level=6)
    return options.slices


def _display_window(seed: int, jitter: float) -> tuple[float, float]:
    """Draw a display window (center, width; HU) between a lung window and a wide one."""
    wide, shift, stretch = np.random.default_rng([seed, 2**20]).uniform((0, -1, -1), 1)
    center = -550 + jitter * (350 * wide + 120 * shift)
    return center, (1500 + jitter * 900 * wide) * (1 + 0.15 * jitter * stretch)
