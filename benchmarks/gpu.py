"""Measure what limits the frozen part on a GPU: decoding, the network, or what joins them.

    KERAS_BACKEND=jax python -m benchmarks.gpu --images 6000

No pipeline has to run before, and nothing is downloaded but the weights of EfficientNetLite0; VGG16
has random weights here, which take as long. The images are synthetic, 448 pixels wide.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import joblib
import numpy as np
from PIL import Image
from sklearn.metrics import roc_auc_score

from benchmarks.measure import table
from cnnClassifier.components.cross_fitting import TrainingImages, fit_heads
from cnnClassifier.entity.config_entity import AugmentationConfig, FitConfig
from cnnClassifier.entity.dicom_options import DEFAULT_DICOM_OPTIONS
from cnnClassifier.imaging.augment import View, views_of
from cnnClassifier.imaging.view_loader import ViewLoader
from cnnClassifier.network import backend, feature_cache
from cnnClassifier.network.architecture import add_heads, averaged_layers, build_backbone
from cnnClassifier.network.cross_fitting import assign_folds
from cnnClassifier.network.feature_cache import FeatureCache, choose_precision, forward, split_at
from cnnClassifier.network.weights import load_pretrained
from ct_phantom import parse_phantom, write_phantom

SIZE = (224, 224, 3)
LARGE = "phantom:patients=60,slices=4,size=448"  # to decode
SMALL = "phantom:"  # to train on
TINY = "phantom:patients=24,slices=1,size=256"
AUGMENTATION = AugmentationConfig(
    views=2, rotation=40, shift=0.2, shear=0.2, zoom=0.2, horizontal_flip=True, seed=1
)
FIT = FitConfig(
    epochs=24, patience=6, batch_size=16, learning_rate=0.002, class_weights="balanced", seed=1
)
CORES = joblib.cpu_count()
# Not `-m benchmarks.gpu`, which each process that decodes would import in turn.
PROGRAM = "from benchmarks.gpu import main; main()"


def main() -> None:
    """Run the steps; each step that needs a fresh process gets one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", nargs="?", choices=STEPS)
    parser.add_argument("folder", nargs="?", type=Path, help="of the images and the cache")
    parser.add_argument("--images", type=int, default=16000, metavar="N")
    options = parser.parse_args()
    if options.step:
        STEPS[options.step](options.folder, options.images)
        return
    with tempfile.TemporaryDirectory() as folder:
        arguments = sys.argv[1:]
        for step in (*STEPS, "train"):  # cold, then cached
            command = [sys.executable, "-c", PROGRAM, step, folder, *arguments]
            subprocess.run(command, check=True)


def is_tiny(count: int) -> bool:
    """Return whether this is a test of this program, on a CPU."""
    return count <= 100


def write_images(folder: Path, count: int) -> None:
    """Write the synthetic images: those to decode as RGBA, as many files of the web are."""
    start = time.perf_counter()
    small, large = (TINY, TINY) if is_tiny(count) else (SMALL, LARGE)
    written = write_phantom(folder / "small", parse_phantom(small))
    written += write_phantom(folder / "large", parse_phantom(large))
    for path in (folder / "large").glob("*/*.png"):
        Image.open(path).convert("RGBA").save(path)
    print(f"{written} images on {CORES} cores: {time.perf_counter() - start:.1f} s", flush=True)


def decode(folder: Path, count: int) -> None:
    """Compare decoders: images/s of whole pools that keep no result."""
    files = image_files(folder, count)
    rows = []
    for name, read in {
        "prepare": partial(discard, loader(folder)),
        "Pillow alone": partial(pillow, folder / "large"),
        "OpenCV alone": partial(opencv, folder / "large"),
    }.items():
        for kind, pool in pools().items():
            for views in (1, 2):
                if views == 2 and name != "prepare":
                    continue
                jobs = [(path, all_views[:views]) for path, all_views in files]
                rows.append([name, kind, views, f"{rate(pool(), read, jobs):.0f}"])
    print(table(["decoder", "pool", "views", "images/s"], rows), flush=True)


def pools() -> dict[str, Callable[[], Executor]]:
    """Return pools of workers by name."""
    return {
        "1 thread": lambda: ThreadPoolExecutor(1),
        "4 threads": lambda: ThreadPoolExecutor(4),
        f"{CORES} threads": lambda: ThreadPoolExecutor(CORES),
        f"{CORES} processes": processes,
    }


def processes() -> Executor:
    """Return a pool of one process for each core."""
    return ProcessPoolExecutor(CORES, get_context("spawn"))


def rate(pool: Executor, read: Callable[[Any], int], jobs: Sequence[Any]) -> float:
    """Return the jobs per second once the workers have started."""
    size = 8
    with pool:
        warm_up = [jobs[number % len(jobs) :][:size] for number in range(4 * CORES)]
        list(pool.map(partial(each, read), warm_up))
        if getattr(pool, "_max_workers", 0) == 1:
            jobs = jobs[: len(jobs) // 10]
        start = time.perf_counter()
        tasks = [jobs[first : first + size] for first in range(0, len(jobs), size)]
        list(pool.map(partial(each, read), tasks))
        return len(jobs) / (time.perf_counter() - start)


def each(read: Callable[[Any], int], jobs: Sequence[Any]) -> int:
    """Call a function for each job."""
    return sum(map(read, jobs))


def discard(load: ViewLoader, job: tuple[str, Sequence[View]]) -> int:
    """Load all views of an image as training does."""
    return len(load(job, range(len(job[1]))))


def pillow(folder: Path, job: tuple[str, Sequence[View]]) -> int:
    """Decode and scale an image with Pillow alone."""
    image = Image.open(folder / job[0]).convert("RGB")
    return len(np.asarray(image.resize(SIZE[:2], Image.Resampling.BILINEAR)))


def opencv(folder: Path, job: tuple[str, Sequence[View]]) -> int:
    """Decode and scale an image with OpenCV alone; it doesn't give the same pixels."""
    cv2.setNumThreads(1)
    data = np.fromfile(folder / job[0], np.uint8)
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    return len(cv2.resize(pixels, SIZE[:2], interpolation=cv2.INTER_AREA))


def network(folder: Path, count: int) -> None:
    """Measure the frozen part alone, then with decoding and the cache's files."""
    backend.start()
    backend.make_deterministic(1)
    precision = choose_precision("auto")
    if is_tiny(count):  # the paths of a GPU
        backend.has_gpu = lambda: True
        feature_cache._MAX_THREADS = 1
    files = image_files(folder, count)
    decoded = rate(processes(), partial(discard, loader(folder)), files[: count // 4])
    rng = np.random.default_rng(0)
    rows = []
    for backbone in ("VGG16", "EfficientNetLite0"):
        model, boundary = build(backbone, None)
        trunk, _ = split_at(model, boundary, 5)
        for size in (32, 128, 256) if not is_tiny(count) else (4,):
            pixels = rng.integers(0, 256, (size, *SIZE), np.uint8)
            start = time.perf_counter()
            run = forward(trunk, precision)
            run(pixels)
            first = time.perf_counter() - start
            start, batches = time.perf_counter(), max(1, count // size // 4)
            for _ in range(batches):
                run(pixels)
            alone = batches * size / (time.perf_counter() - start)
            rows.append([f"{backbone}, {size} at once", f"{alone:.0f}", f"{first:.1f} s", ""])
        for kind, limit in (("processes", 2), ("threads", 10**9)):
            feature_cache._MIN_IMAGES_FOR_PROCESSES = limit
            some = files if kind == "processes" else files[: len(files) // 5]
            seconds = fill_cache(folder / "cache-large", trunk, precision, folder, some)
            images = len(some) / seconds
            rows.append(
                [f"{backbone}, cache, {kind}", f"{2 * images:.0f}", "", f"{images / decoded:.2f}"]
            )
    print(f"decoding alone: {decoded:.0f} images/s with 2 views each, {2 * decoded:.0f} passes/s")
    header = [f"{backend.name()}, {precision}", "passes/s", "first batch", "of decoding"]
    print(table(header, rows), flush=True)


def fill_cache(
    cache_dir: Path, trunk: Any, precision: str, folder: Path, files: Sequence[Any]
) -> float:
    """Return the seconds that an empty cache takes."""
    shutil.rmtree(cache_dir, ignore_errors=True)
    cache = FeatureCache(cache_dir, trunk, precision)
    keys = [[f"{number}:{view}" for view in range(2)] for number in range(len(files))]
    start = time.perf_counter()
    cache.features(keys, files, loader(folder))
    seconds = time.perf_counter() - start
    shutil.rmtree(cache_dir)
    return seconds


def train(folder: Path, count: int) -> None:
    """Train on the small data set as the pipeline does; the second time it is cached."""
    start = time.perf_counter()
    backend.start()
    backend.make_deterministic(1)
    started = time.perf_counter()
    paths = sorted((folder / "small").glob("*/*.png"))
    names = [path.parent.name for path in paths]
    labels = np.unique(names, return_inverse=True)[1]
    groups = np.array([path.name.split("_")[0] for path in paths])
    folds = assign_folds(labels, groups, 5, 3, 1)
    model, boundary = build("EfficientNetLite0", "imagenet")
    trunk, tail = split_at(model, boundary, 5)
    cache = FeatureCache(folder / "cache-small", trunk, choose_precision("auto"))
    files, keys = [], []
    for path in paths:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        views = views_of(content, AUGMENTATION)
        files.append((str(path.relative_to(folder / "small")), views))
        keys.append([f"{content}:{view}" for view in views])
    built = time.perf_counter()
    features = cache.features(keys, files, loader(folder, "small"))
    computed = time.perf_counter()
    images = TrainingImages([], labels, groups, folds)
    fitted = fit_heads(tail, features, images, "auto", FIT, verbose=0)
    end = time.perf_counter()
    digest = hashlib.sha256(features.averages().tobytes())
    for maps in features.batches():
        digest.update(maps.tobytes())
    result = {
        "backend": backend.name(),
        "start": round(started - start, 1),
        "model": round(built - started, 1),
        "features": round(computed - built, 1),
        "heads": round(end - computed, 1),
        "AUC": round(float(roc_auc_score(labels, fitted.probabilities[:, 1])), 4),
        "sha256 of features": digest.hexdigest()[:12],
        "sha256 of predictions": hashlib.sha256(fitted.probabilities.tobytes()).hexdigest()[:12],
    }
    print(json.dumps(result), flush=True)
    np.save(folder / f"predictions-{backend.name()}.npy", fitted.probabilities)


def build(backbone: str, weights: str | None) -> tuple[Any, str]:
    """Return a network with its heads, and the last frozen layer."""
    base = build_backbone(backbone, SIZE, 1)
    if weights is not None:
        load_pretrained(base, backbone, weights, ("keras", "pypi"), None)
    blocks = averaged_layers(backbone, base)
    return add_heads(base, blocks, blocks[1], "auto", 5, 0.3, 2, 1), blocks[1]


def image_files(folder: Path, count: int) -> list[tuple[str, list[View]]]:
    """Return paths with two views each; the same files are read again and again."""
    large = folder / "large"
    paths = [str(path.relative_to(large)) for path in sorted(large.glob("*/*.png"))]
    files = [(path, views_of(path, AUGMENTATION)) for path in paths]
    return (files * (1 + count // len(files)))[:count]


def loader(folder: Path, name: str = "large") -> ViewLoader:
    """Return what reads the images of a folder."""
    return ViewLoader(folder / name, SIZE, 50_000_000, DEFAULT_DICOM_OPTIONS)


STEPS = {"images": write_images, "decode": decode, "network": network, "train": train}

if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    main()
