"""How time and memory of validation, features and scoring grow, and what Dask costs.

Run it in a project with a trained bundle (`make pipeline`); its backbone is measured.

    python -m benchmarks.scale --sizes 1000 10000 50000
    python -m benchmarks.scale --dask --sizes 1000

Makes synthetic images once (outlines with detail, twenty per group, each twentieth file a
near-duplicate), then takes the first 1,000, 10,000, … of them, each step in a process of its own.
With --dask, threads of one process and two Dask workers, pinned to a core each, take turns on the
same files.
"""

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.measure import table
from benchmarks.serving import free_port
from cnnClassifier.components.data_validation import DataValidation
from cnnClassifier.components.scoring import Scoring
from cnnClassifier.components.training import image_features, load_network
from cnnClassifier.config.configuration import ConfigurationManager
from cnnClassifier.dataset.layout import image_files
from cnnClassifier.entity.config_entity import ParallelConfig
from cnnClassifier.entity.manifest import Entry
from cnnClassifier.imaging.augment import View

PER_GROUP = 20
ROUNDS = 5
CORES = (0, 1)
STEPS = ("validation", "features", "scoring")


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 50_000])
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--side", type=int, default=512, help="of the images, in pixels")
    parser.add_argument("--dask", action="store_true", help="compare with two Dask workers")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--scheduler", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        step, *folders = arguments.child
        engine = "dask" if arguments.scheduler else "local"
        parallel = ParallelConfig(engine=engine, scheduler=arguments.scheduler)
        before = time.process_time()
        values = {"seconds": RUN[step](*map(Path, folders), parallel)}
        values["processor"] = time.process_time() - before
        values["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(values))
        return
    sizes = sorted(arguments.sizes)
    with tempfile.TemporaryDirectory() as name:
        folders = make_folders(Path(name), sizes, arguments.side)
        print_table = print_overhead if arguments.dask else print_growth
        print_table(folders, arguments.steps)


def print_growth(folders: dict[int, Path], steps: list[str]) -> None:
    """Print time and memory of each step by number of files, and the exponents of the growth.

    Those of time are of the processor's, which other programs change less.
    """
    rows = []
    for step in steps:
        previous: dict[str, float] = {}
        for size, folder in folders.items():
            values = {"files": size, **measure(step, folder)}
            exponents = dict.fromkeys(("processor", "memory"), "")
            if previous:
                ratio = math.log(size / previous["files"])
                for key in exponents:
                    exponents[key] = f"{math.log(values[key] / previous[key]) / ratio:.2f}"
            milliseconds = 1000 * values["processor"] / size
            row = [step, f"{size:,}", f"{values['seconds']:.0f}", f"{values['processor']:.0f}"]
            row += [f"{milliseconds:.1f}", exponents["processor"], f"{values['memory']:.0f}"]
            row += [f"{1000 * values['memory'] / size:.0f}", exponents["memory"]]
            rows.append(row)
            print(row, flush=True)
            previous = values
    header = ["step", "files", "s", "processor s", "ms/file", "exponent"]
    header += ["peak MB", "kB/file", "exponent"]
    print(table(header, rows))


def print_overhead(folders: dict[int, Path], steps: list[str]) -> None:
    """Print the times of one process and of two Dask workers on the same two cores."""
    rows = []
    with dask_workers() as scheduler:
        for step in steps:
            for size, folder in folders.items():
                seconds: dict[str, list[float]] = {"local": [], "dask": []}
                for _ in range(ROUNDS):
                    seconds["local"].append(measure(step, folder)["seconds"])
                    seconds["dask"].append(measure(step, folder, scheduler)["seconds"])
                local, dask = (statistics.median(seconds[engine]) for engine in seconds)
                ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
                row = [step, f"{size:,}", f"{local:.1f}", f"{dask:.1f}"]
                row.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")
                rows.append(row)
                print(row, flush=True)
    print(table(["step", "files", "threads, s", "two Dask workers, s", "ratio"], rows))


@contextmanager
def dask_workers() -> Iterator[str]:
    """Start a scheduler and a worker on each of two cores; yield the scheduler's address."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:

        def start(module: str, *options: str, core: int | None = None) -> None:
            pin = [] if core is None else ["taskset", "--cpu-list", str(core)]
            command = [*pin, sys.executable, "-m", f"distributed.cli.{module}", *options]
            process = stack.enter_context(subprocess.Popen(command, **quiet))
            stack.callback(process.terminate)

        start("dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
        for core in CORES:
            options = ("--nthreads", "1", "--no-dashboard", "--local-directory", folder)
            start("dask_worker", address, *options, "--memory-limit", "0", core=core)
        yield address


def measure(step: str, folder: Path, scheduler: str | None = None) -> dict[str, float]:
    """Run a step in a new process on two cores; return seconds and the peak memory in MB."""
    pin = ["taskset", "--cpu-list", ",".join(map(str, CORES))]
    with tempfile.TemporaryDirectory() as out_dir:
        command = [*pin, sys.executable, "-m", "benchmarks.scale", "--child", step]
        command += [str(folder), out_dir, *(["--scheduler", scheduler] if scheduler else [])]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_validation(data_dir: Path, out_dir: Path, parallel: ParallelConfig) -> float:
    """Run the stage data_validation."""
    config = ConfigurationManager().data_validation()
    changes = {
        "data_dir": data_dir,
        "manifest_path": out_dir / "manifest.csv",
        "report_path": out_dir / "data_report.json",
        "conflicts": "leave_out",
        "parallel": parallel,
    }
    component = DataValidation(config.model_copy(update=changes))
    return seconds_of(component.run)


def run_features(data_dir: Path, out_dir: Path, parallel: ParallelConfig) -> float:
    """Fill the cache of the frozen layers, one view for each file."""
    config = ConfigurationManager().training()
    changes = {"data_dir": data_dir, "cache_dir": out_dir, "parallel": parallel}
    config = config.model_copy(update=changes)
    network = load_network(config, config.folds)
    images = []
    for path, label in image_files(data_dir):
        images.append((Entry(path, label, sha256=path), [View()]))
    return seconds_of(lambda: image_features(network.cache, images, config))


def run_scoring(data_dir: Path, out_dir: Path, parallel: ParallelConfig) -> float:
    """Score all files into Parquet files."""
    manager = ConfigurationManager()
    component = Scoring(manager.serving(), manager.data_ingestion(), 1000, parallel)
    return seconds_of(lambda: component.run(str(data_dir), out_dir / "scored"))


RUN: dict[str, Callable[[Path, Path, ParallelConfig], float]] = {
    "validation": run_validation,
    "features": run_features,
    "scoring": run_scoring,
}


def seconds_of(function: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def make_folders(folder: Path, sizes: list[int], side: int) -> dict[int, Path]:
    """Make the images; return for each size a folder with the first of them."""
    files = make_images(folder / "all", sizes[-1], side)
    folders = {}
    for size in sizes:
        folders[size] = folder / str(size)
        for path in files[:size]:
            target = folders[size] / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
    return folders


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


if __name__ == "__main__":
    main()
