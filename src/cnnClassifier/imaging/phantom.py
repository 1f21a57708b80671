"""Synthetic chest CT slices with and without an adenocarcinoma, for trying the pipeline without any patient's data."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnnClassifier.entity.disclaimers import PHANTOM_SCHEME
from cnnClassifier.imaging.thorax import Patient, draw_patient, measure
from cnnClassifier.utils.errors import SourceError

EXAMPLE = "phantom:patients=40,slices=2,size=256,seed=7"
LESION_CLASS, NORMAL_CLASS = "adenocarcinoma", "normal"

_RANGES: dict[str, tuple[float, float]] = {
    "patients": (2, 9999),
    "slices": (1, 20),
    "size": (64, 1024),
    "seed": (0, 2**31 - 1),
    "lesion_mm_min": (10, 100),
    "lesion_mm_max": (10, 100),
    "noise": (0, 10),
    "window_jitter": (0, 1),
}


@dataclass(frozen=True)
class PhantomOptions:
    """What to make; see `_RANGES` for what each may be.

    Attributes:
        patients: how many; half of them have a lesion.
        slices: neighbouring slices of each patient.
        size: pixels of the square images' sides.
        seed: the same options give the same bytes.
        lesion_mm_min: smallest diameter of a lesion, mm.
        lesion_mm_max: largest diameter of a lesion, mm.
        noise: of the scanner, as a multiple of what is usual.
        window_jitter: how much the display windows differ; 0 is one lung window for all.
    """

    patients: int = 200
    slices: int = 2
    size: int = 256
    seed: int = 0
    lesion_mm_min: float = 38
    lesion_mm_max: float = 64
    noise: float = 1.0
    window_jitter: float = 0.4

    def __post_init__(self) -> None:
        for key, (low, high) in _RANGES.items():
            value = getattr(self, key)
            if not low <= value <= high:
                raise _bad(key, value)
        if self.lesion_mm_min > self.lesion_mm_max:
            raise SourceError(
                f"{PHANTOM_SCHEME} lesion_mm_min: expected at most lesion_mm_max, {self.lesion_mm_max:g}, "
                f"found {self.lesion_mm_min:g}; for example {PHANTOM_SCHEME}lesion_mm_min=40,lesion_mm_max=60"
            )


def _kinds() -> dict[str, type]:
    return {item.name: type(item.default) for item in fields(PhantomOptions)}


def _bad(key: str, value: Any) -> SourceError:
    low, high = _RANGES[key]
    kind = "a whole number" if _kinds()[key] is int else "a number"
    return SourceError(
        f"{PHANTOM_SCHEME} {key}: expected {kind} from {low:g} to {high:.10g}, found {value}; for example {EXAMPLE}"
    )


def parse_phantom(url: str) -> PhantomOptions:
    """Read the options in a source such as `phantom:` or `phantom:patients=40,slices=2`.

    Raises:
        SourceError: a key is unknown or given twice, or a value is out of its range.
    """
    if not url.startswith(PHANTOM_SCHEME):
        raise SourceError(
            f"{url}: expected a source that starts with {PHANTOM_SCHEME}, for example {EXAMPLE}"
        )
    kinds, found = _kinds(), {}
    for item in filter(
        None, (part.strip() for part in url.removeprefix(PHANTOM_SCHEME).split(","))
    ):
        key, _, text = (part.strip() for part in item.partition("="))
        if key not in kinds:
            raise SourceError(
                f"{PHANTOM_SCHEME} {key}: unknown key; expected one of {', '.join(kinds)}; for example {EXAMPLE}"
            )
        if key in found:
            raise SourceError(
                f"{PHANTOM_SCHEME} {key}: expected once, found twice; for example {EXAMPLE}"
            )
        try:
            found[key] = kinds[key](text)
        except ValueError:
            raise _bad(key, repr(text)) from None
    return PhantomOptions(**found)


def make_patient(options: PhantomOptions, number: int) -> Patient:
    """Draw patient `number`, counted from 1; it doesn't depend on how many there are, nor on its class."""
    rng = np.random.default_rng(np.random.SeedSequence(options.seed, spawn_key=(number,)))
    return draw_patient(rng, options.slices, (options.lesion_mm_min, options.lesion_mm_max))


def render_slice(options: PhantomOptions, patient: Patient, index: int, lesion: bool) -> np.ndarray:
    """Render a slice of a patient as a reader sees it: scanned, then windowed to grey.

    Args:
        options: size, noise and windows.
        patient: from `make_patient`.
        index: of the slice, from 0.
        lesion: whether the lesion is there; nothing else depends on it.

    Returns:
        uint8, (size, size).
    """
    hu = measure(patient, index, options.size, options.noise, lesion)
    centre, width = _display_window(patient.seed, options.window_jitter)
    return (np.clip((hu - centre) / width + 0.5, 0, 1) * 255).round().astype(np.uint8)


def _display_window(seed: int, jitter: float) -> tuple[float, float]:
    """Draw a display window (centre, width; HU) from a lung window to one that shows bone too."""
    wide, shift, stretch = np.random.default_rng([seed, 2**20]).uniform((0, -1, -1), 1)
    centre = -550 + jitter * (350 * wide + 120 * shift)
    return centre, (1500 + jitter * 900 * wide) * (1 + 0.15 * jitter * stretch)


def lesion_patients(options: PhantomOptions) -> frozenset[int]:
    """Return the numbers of the half of the patients that have a lesion."""
    rng = np.random.default_rng(np.random.SeedSequence(options.seed, spawn_key=(0,)))
    return frozenset(
        int(number) + 1 for number in rng.permutation(options.patients)[: options.patients // 2]
    )


def write_phantom(folder: Path, options: PhantomOptions, workers: int = -1) -> int:
    """Write a data set as 8-bit grey PNG files: `<class>/patient0001_slice01.png`.

    Args:
        folder: gets a folder for each class.
        options: what to make; the same options give the same bytes.
        workers: processes to use; -1 takes one for each core.

    Returns:
        The number of images.
    """
    # Not at the top: the server makes single slices, and has neither package.
    from joblib import Parallel, delayed

    from cnnClassifier.utils.progress import progress

    folder = Path(folder).absolute()  # workers that live on may stand elsewhere
    with_lesion = lesion_patients(options)
    for name in (LESION_CLASS, NORMAL_CLASS):
        (folder / name).mkdir(parents=True, exist_ok=True)
    numbers = range(1, options.patients + 1)
    jobs = (
        delayed(_write_patient)(folder, options, number, number in with_lesion)
        for number in numbers
    )
    written: Iterator[int] = Parallel(n_jobs=workers, return_as="generator_unordered")(jobs)
    return sum(progress(written, total=options.patients, desc="phantom", unit="patient"))


def _write_patient(folder: Path, options: PhantomOptions, number: int, lesion: bool) -> int:
    patient = make_patient(options, number)
    name = LESION_CLASS if lesion else NORMAL_CLASS
    for index in range(options.slices):
        pixels = render_slice(options, patient, index, lesion)
        path = folder / name / f"patient{number:04d}_slice{index + 1:02d}.png"
        Image.fromarray(pixels).save(path, compress_level=6)
    return options.slices
