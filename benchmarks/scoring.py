"""Measure `main.py score`: against /predict of the server, and killed three times in between.

    python -m benchmarks.scoring [bundle folder, default artifacts/training] [--files 20000]

First the server, with eight clients at once, and `score` take turns on the same files. Then all
files are scored in runs that are killed; the last one resumes to the end, and every file must have
exactly one row.
"""

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.measure import table
from benchmarks.serving import (
    CONCURRENCY,
    ROOT,
    RSS_UNIT,
    free_port,
    wait_until_ready,
    write_config,
)
from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.utils.progress import progress

ROUNDS = 3
KILL_AT = (0.15, 0.4, 0.7)  # of the files
CORRUPT_EVERY = 100
PARTS = 20


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", nargs="?", type=Path, default=Path("artifacts/training"))
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--per-round", type=int, default=2000, help="files against the server")
    parser.add_argument("--size", type=int, default=256, help="side of the images, in pixels")
    chosen = parser.parse_args()
    bundle = chosen.bundle.resolve()
    int8 = bool(ModelBundle.read(bundle).int8_sha256)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_files(folder / "images", chosen.files, chosen.size)
        config = write_config(folder, bundle, int8)
        print(f"{'int8' if int8 else 'float'}, {chosen.size}x{chosen.size} PNG files")
        compare(config, folder, usable(files)[: chosen.per_round])
        print_kills(config, folder, files)


def write_files(folder, count, size):
    """Write different smooth images; one in a hundred is cut off."""
    folder.mkdir()
    files = []
    for number in progress(range(count), desc="writing files"):
        coarse = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        path = folder / f"{number:06}.png"
        image = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
        image.save(path, compress_level=1)
        if number % CORRUPT_EVERY == 0:
            path.write_bytes(path.read_bytes()[:1000])
        files.append(path)
    return files


def usable(files):
    return [path for number, path in enumerate(files) if number % CORRUPT_EVERY]


def compare(config, folder, files):
    """Print images per second, and per second of processor time, of server and score."""
    list_path = folder / "list.txt"
    list_path.write_text("\n".join(map(str, files)))
    port = free_port()
    command = [ROOT / "app.py", "--config", config, "--params", ROOT / "params.yaml"]
    server = start([*command, "--port", port], folder)
    rows = []
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/readyz", server)
        for number in range(ROUNDS):
            wall, cpu = ask_server(port, server, files)
            scored = finish(start_score(config, folder, list_path, folder / f"out{number}"))
            rows.append([len(files) / spent for spent in (wall, cpu, *scored[:2])])
        memory = psutil.Process(server.pid).memory_info().rss
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    medians = [statistics.median(column) for column in zip(*rows, strict=True)]
    header = ["images/s", "server", "by processor time", "score", "by processor time", "ratio"]
    lines = [
        [name, *(f"{value:.1f}" for value in row), f"{row[3] / row[1]:.2f}"]
        for name, row in [*enumerate(rows, 1), ("median", medians)]
    ]
    print(table(header, lines))
    print(f"memory: server {memory / 1e6:.0f} MB, score {scored[2] / 1e6:.0f} MB (peak)")


def ask_server(port, server, files):
    """Send each file to the server; return wall and its processor time, in seconds."""

    def ask(path):
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/predict", path.read_bytes(), {"Content-Type": "image/png"}
        )
        urllib.request.urlopen(request, timeout=300).read()

    before, begun = psutil.Process(server.pid).cpu_times(), time.perf_counter()
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        list(pool.map(ask, files))
    wall, after = time.perf_counter() - begun, psutil.Process(server.pid).cpu_times()
    return wall, after.user + after.system - before.user - before.system


def print_kills(config, folder, files):
    """Score all files in runs that are killed, then to the end; check and print the result."""
    out = folder / "killed"
    out.mkdir()
    runs = []
    words = ["--resume", "--part-size", max(1, len(files) // PARTS)]
    for share in (*KILL_AT, None):
        process = start_score(config, folder, folder / "images", out, *words)
        if share:
            # Not poll() and kill(): they would take the usage of a process that has ended.
            flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
            while scored_rows(out) < share * len(files):
                assert not os.waitid(os.P_PID, process.pid, flags), "it ended by itself"
                time.sleep(0.1)
            time.sleep(random.random())  # somewhere in a part
            os.kill(process.pid, signal.SIGKILL)
        wall, cpu, memory = finish(process, expect=-signal.SIGKILL if share else 0)
        runs.append([f"{scored_rows(out):,}", *(f"{v:.0f}" for v in (wall, cpu, memory / 1e6))])
    print(table(["files done", "s", "processor time, s", "peak memory, MB"], runs))
    parts = [pq.read_table(path, columns=["path", "error"]) for path in out.glob("part-*.parquet")]
    errors = {
        path: error
        for part in parts
        for path, error in zip(*(part[name].to_pylist() for name in ("path", "error")), strict=True)
    }
    assert sum(map(len, parts)) == len(errors) == len(files)
    assert set(errors) == {path.name for path in files}
    assert sum(error is not None for error in errors.values()) == -(-len(files) // CORRUPT_EVERY)
    print(f"{len(errors):,} files, each with one row, {len(parts)} parts")


def scored_rows(out):
    return sum(pq.read_metadata(path).num_rows for path in out.glob("part-*.parquet"))


def start_score(config, folder, source, out, *words):
    options = ["--config", config, "--params", ROOT / "params.yaml"]
    return start([ROOT / "main.py", "score", source, "--out", out, *words, *options], folder)


def start(command, folder):
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    process.begun = time.perf_counter()
    return process


def finish(process, expect=0):
    """Return wall and processor time in seconds, and the peak memory in bytes."""
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - process.begun
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == expect, process.args
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * RSS_UNIT


if __name__ == "__main__":
    main()
