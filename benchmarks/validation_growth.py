"""How time and memory of the stage data_validation grow with the number of files.

    python -m benchmarks.validation_growth --sizes 1000 3000 10000 50000

Makes synthetic images once (outlines with detail, twenty per group, each twentieth file a
near-duplicate), then validates the first 1,000, 3,000, … of them, each in processes of its own: one
that runs the whole stage, one that runs only its two slowest steps.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from cnnClassifier.components.data_validation import DataValidation
from cnnClassifier.dataset.file_table import read_file_table
from cnnClassifier.dataset.layout import image_files
from cnnClassifier.dataset.near_duplicates import find_near_duplicates
from cnnClassifier.entity.config_entity import DataValidationConfig

PER_GROUP = 20
MIN_CORRELATION = 0.9
MAX_PIXELS = 25_000_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[1000, 3000, 10_000, 50_000], metavar="FILES"
    )
    parser.add_argument(
        "--side", type=int, default=512, help="of the square images, in pixels (%(default)s)"
    )
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        step, data_dir = arguments.child
        measured = measure_steps(Path(data_dir)) if step == "steps" else run_stage(Path(data_dir))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(measured | {"memory": memory}))
        return
    with tempfile.TemporaryDirectory() as folder:
        print_growth(Path(folder), sorted(arguments.sizes), arguments.side)


def print_growth(folder: Path, sizes: list[int], side: int) -> None:
    """Make the images, validate the first of them and print a line for each size."""
    files = make_images(folder / "all", sizes[-1], side)
    print(
        f"{'files':>8} {'reading':>10} {'near-duplicates':>16} {'stage':>9} {'memory':>9}  growth"
    )
    previous: dict[str, float] = {}
    for size in sizes:
        for path in files[:size]:
            target = folder / str(size) / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
        values: dict[str, float] = {"files": size}
        for step in ("steps", "stage"):
            command = [sys.executable, "-m", "benchmarks.validation_growth", "--child", step]
            done = subprocess.run(
                [*command, str(folder / str(size))], check=True, stdout=subprocess.PIPE, text=True
            )
            values |= json.loads(done.stdout.splitlines()[-1])
        print(format_row(values, previous), flush=True)
        previous = values


def make_images(folder: Path, count: int, side: int) -> list[Path]:
    """Write the files as folder/<class>/patient…_….jpg and return their paths."""
    rng = np.random.default_rng(0)
    paths = []
    image = None
    for number in range(count):
        patient, part = divmod(number, PER_GROUP)
        if part == 0:
            outline, texture = draw_outline(rng), rng.uniform(0, 1, (12, 12))
        path = folder / ("ill", "well")[patient % 2] / f"patient{patient:05}_{part:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        paths.append(path)
        if part == PER_GROUP - 1 and image is not None:
            image.save(path, quality=40)
            continue
        texture = texture + rng.normal(0, 0.15, texture.shape)
        pixels = (90 * texture).clip(0, 255).astype(np.uint8)
        coarse = np.asarray(Image.fromarray(pixels).resize((64, 64)), float)
        small = Image.fromarray((outline + coarse).clip(0, 255).astype(np.uint8))
        image = small.resize((side, side), Image.Resampling.BILINEAR)
        image.save(path, quality=75)
    return paths


def draw_outline(rng: np.random.Generator) -> np.ndarray:
    """Draw a body with two lungs, somewhat different each time: float, (64, 64)."""
    image = Image.new("L", (64, 64), 0)
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = rng.normal([4, 12, 60, 54], 1.5)
    draw.ellipse((left, top, right, bottom), fill=110)
    for x in (21, 43):
        left, top, right, bottom = rng.normal([x - 9, 20, x + 9, 46], 1.5)
        draw.ellipse((left, top, right, bottom), fill=20)
    return np.asarray(image, float)


def measure_steps(data_dir: Path) -> dict[str, float]:
    """Return the seconds that reading the files and finding near-duplicates take."""
    start = time.perf_counter()
    files = read_file_table(data_dir, image_files(data_dir), max_pixels=MAX_PIXELS)
    end_of_reading = time.perf_counter()
    find_near_duplicates(list(files.keypoints), MIN_CORRELATION)
    end = time.perf_counter()
    return {"reading": end_of_reading - start, "near_duplicates": end - end_of_reading}


def run_stage(data_dir: Path) -> dict[str, float]:
    """Return the seconds that the whole stage takes."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as output:
        config = DataValidationConfig(
            source_URL="benchmark",
            data_dir=data_dir,
            manifest_path=Path(output) / "manifest.csv",
            report_path=Path(output) / "data_report.json",
            group_pattern=r"^(?P<group>patient\d+)_",
            near_duplicate_correlation=MIN_CORRELATION,
            conflicts="leave_out",
            split="grouped",
            shortcut_warning_auc=0.75,
            min_side=32,
            max_pixels=MAX_PIXELS,
            dicom_window="auto",
            joblib_backend="threading",
            shares=(0.6, 0.2, 0.2),
            seed=42,
        )
        DataValidation(config).run()
    return {"stage": time.perf_counter() - start}


def format_row(values: dict[str, Any], previous: dict[str, Any]) -> str:
    """Format a line of the table; growth is the exponent of the number of files."""
    row = (
        f"{values['files']:>8,} {values['reading']:>8.1f} s {values['near_duplicates']:>14.1f} s "
        f"{values['stage']:>7.0f} s {values['memory']:>6.0f} MB"
    )
    if previous:
        ratio = math.log(values["files"] / previous["files"])
        for key in ("reading", "near_duplicates", "stage", "memory"):
            exponent = math.log(values[key] / previous[key]) / ratio
            row += f"  {key} {exponent:.2f}"
    return row


if __name__ == "__main__":
    main()
