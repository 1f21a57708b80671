"""How time and memory of the stage data_validation grow with the number of files.

    python -m benchmarks.audit_growth --sizes 1000 3000 10000 50000

Makes that many synthetic pictures once (chest-like outlines, twenty slices to a patient, each twentieth file a
re-encoded near-duplicate), then runs the whole stage on the first 1,000, 3,000, … of them, each in a process of its own.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

SLICES = 20
SOURCE = Path(__file__).resolve().parents[1] / "src"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[1000, 3000, 10_000, 50_000], metavar="FILES"
    )
    parser.add_argument(
        "--side",
        type=int,
        default=512,
        help="of the square pictures, in pixels (default: %(default)s)",
    )
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        measure(Path(arguments.child[0]), int(arguments.child[1]))
        return
    sizes = sorted(arguments.sizes)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        make(Path(folder), sizes[-1], arguments.side)
        print(
            f"made {sizes[-1]:,} files of {arguments.side} px in {time.perf_counter() - begun:.0f} s",
            flush=True,
        )
        print(
            f"{'files':>8} {'reading':>10} {'duplicates':>12} {'shortcuts':>10} {'stage':>8} {'memory':>9}  growth"
        )
        last = None
        for size in sizes:
            command = [sys.executable, __file__, "--child", folder, str(size)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            row = json.loads(done.stdout.splitlines()[-1])
            print(line(row, last), flush=True)
            last = row


def make(folder: Path, count: int, side: int) -> None:
    """Write the files as folder/<number // 1000>/<class>/patient…_….jpg, so that the first ones can be taken apart."""
    rng = np.random.default_rng(0)
    image = None
    for number in range(count):
        patient, part = divmod(number, SLICES)
        if part == 0:
            outline, texture = chest(rng), rng.uniform(0, 1, (12, 12))
        path = (
            folder
            / f"{number // 1000:03}"
            / ("ill", "well")[patient % 2]
            / f"patient{patient:05}_{part:02}.jpg"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        if part == SLICES - 1 and image is not None:
            image.save(path, quality=40)
            continue
        texture = texture + rng.normal(0, 0.15, texture.shape)
        coarse = np.asarray(
            Image.fromarray((90 * texture).clip(0, 255).astype(np.uint8)).resize((64, 64)), float
        )
        small = Image.fromarray((outline + coarse).clip(0, 255).astype(np.uint8))
        image = small.resize((side, side), Image.Resampling.BILINEAR)
        image.save(path, quality=75)


def chest(rng: np.random.Generator) -> np.ndarray:
    """Draw a body with two lungs, somewhat different each time: float, (64, 64)."""
    image = Image.new("L", (64, 64), 0)
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = rng.normal([4, 12, 60, 54], 1.5)
    draw.ellipse((left, top, right, bottom), fill=110)
    for x in (21, 43):
        a, b, c, d = rng.normal([x - 9, 20, x + 9, 46], 1.5)
        draw.ellipse((a, b, c, d), fill=20)
    return np.asarray(image, float)


def measure(folder: Path, count: int) -> None:
    """Run the stage on the first files and print its figures as JSON."""
    sys.path.insert(0, str(SOURCE))
    from cnnClassifier.components import data_validation
    from cnnClassifier.entity.config_entity import DataValidationConfig

    times: dict[str, float] = {}

    def timed(name: str) -> None:
        work: Callable[..., Any] = getattr(data_validation, name)

        def run(*args: Any, **options: Any) -> Any:
            begun = time.perf_counter()
            result = work(*args, **options)
            times[name] = time.perf_counter() - begun
            return result

        setattr(data_validation, name, run)

    for name in ("read_file_table", "link_duplicates", "measure_shortcuts"):
        timed(name)
    data_validation.image_files = lambda data_dir: [
        (path.relative_to(data_dir).as_posix(), path.parent.name)
        for path in sorted(data_dir.rglob("*.jpg"), key=lambda path: path.name)[:count]
    ]
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        config = DataValidationConfig(
            source_URL="benchmark",
            data_dir=folder,
            manifest_path=Path(out) / "manifest.csv",
            report_path=Path(out) / "data_report.json",
            group_pattern=r"^(?P<group>patient\d+)_",
            near_duplicate_correlation=0.9,
            conflicts="leave_out",
            split="grouped",
            shortcut_warning_auc=0.75,
            min_side=32,
            max_pixels=50_000_000,
            dicom_window="auto",
            joblib_backend="threading",
            shares=(0.6, 0.2, 0.2),
            seed=42,
        )
        manifest = data_validation.DataValidation(config).run()
    stage = time.perf_counter() - begun
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    used = sum(bool(entry.split) for entry in manifest.entries)
    print(json.dumps({"files": count, **times, "stage": stage, "memory": memory, "used": used}))


def line(row: dict[str, Any], last: dict[str, Any] | None) -> str:
    """Return a row of the table; growth is the power of the number of files that a time or the memory grows by."""
    text = (
        f"{row['files']:>8,} {row['read_file_table']:>8.1f} s {row['link_duplicates']:>10.1f} s "
        f"{row['measure_shortcuts']:>8.1f} s "
        f"{row['stage']:>6.0f} s {row['memory']:>6.0f} MB"
    )
    if last:
        ratio = math.log(row["files"] / last["files"])
        text += "  " + ", ".join(
            f"{name} {math.log(row[key] / last[key]) / ratio:.2f}"
            for name, key in (
                ("reading", "read_file_table"),
                ("duplicates", "link_duplicates"),
                ("memory", "memory"),
            )
        )
    return text


if __name__ == "__main__":
    main()
