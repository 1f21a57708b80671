"""Run app.py for ten minutes with 16 clients, one request in ten hostile, and three model swaps.

Needs a trained bundle (`make pipeline`). Hostile are bodies that are no images, and images made to
take much memory. Each prediction is compared with the one that its model makes in a process of its
own; memory at the end is compared with memory after 100 requests.

    python -m benchmarks.endurance [--minutes 10] [--clients 16]
"""

import argparse
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml

from benchmarks.hostile_uploads import uploads
from benchmarks.serving import ROOT, free_port, wait_until_ready
from cnnClassifier.entity.bundle import MODEL_FILE, ModelBundle
from cnnClassifier.network.architecture import heads_of
from cnnClassifier.utils.common import atomic_write, sha256_of
from image_patterns import parse_patterns, write_patterns

WARM_UP_REQUESTS = 100
# Those of each format that take most, see `benchmarks.hostile_uploads`.
HOSTILE = ("PNG: RGBA*", "JPEG: CMYK*", "TIFF: RGBA*", "TIFF: strips", "GIF: trans*", "WebP: *")
NO_IMAGES = [
    b"",
    b"not an image",
    b"\x89PNG\r\n\x1a\n" + bytes(64),
    b"GIF89a" + b"\xff" * 200,
    bytes(100_000),
]
TOLERANCE = 1e-3
SWAPS = 3
MAX_MEMORY_GROWTH = 0.1
# Predicts each image of a folder, in a process of its own.
PREDICT = """
import json, sys
from pathlib import Path
from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.serving.predictor import Predictor

predictor = Predictor(ModelBundle.read(Path(sys.argv[1])), 10**8)
results = []
for path in sorted(Path(sys.argv[2]).rglob("*.png")):
    results.append(predictor.predict(path.read_bytes()).probabilities)
print(json.dumps(results))
"""


def main() -> None:
    """Run, print the counts, and exit with 1 if something was wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--bundle", type=Path, default=Path("artifacts/training"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        sys.exit(run(Path(name), args.bundle.resolve(), args.minutes * 60, args.clients))


def run(folder: Path, bundle_dir: Path, seconds: float, clients: int) -> int:
    """Serve, send requests, swap and measure; return the exit code."""
    models = [folder / "a", folder / "b"]
    shutil.copytree(bundle_dir, models[0])
    write_shifted_model(models[0], models[1])
    images = write_images(folder / "images")
    expected = {}
    for model in models:
        expected[ModelBundle.read(model).model_sha256] = predict(model, folder / "images")
    served_dir = folder / "served"
    shutil.copytree(models[0], served_dir)
    port = free_port()
    config_path = write_config(folder, served_dir)
    command = [sys.executable, ROOT / "app.py", "--port", str(port), "--config", config_path]
    server = subprocess.Popen(
        [*map(str, command), "--params", str(ROOT / "params.yaml")],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    counts: Counter[str] = Counter()
    hostile = [data for pattern in HOSTILE for _, _, data in uploads(pattern)]
    send = partial(send_requests, port, images, hostile, expected)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/readyz", server)
        with ThreadPoolExecutor(clients) as pool:
            for _ in range(WARM_UP_REQUESTS):
                pool.submit(send_image, port, images[0])
        early = resident_megabytes(server.pid)
        end = time.monotonic() + seconds
        with ThreadPoolExecutor(clients) as pool:
            done = [pool.submit(send, counts, end, seed) for seed in range(clients)]
            for number in range(1, SWAPS + 1):
                time.sleep(max(0, end - time.monotonic() - seconds * (0.75 - 0.1 * number)))
                swap(models[number % 2], served_dir)
            for client in done:
                client.result()
        late = resident_megabytes(server.pid)
    finally:
        server.send_signal(signal.SIGTERM)
        exit_code = server.wait(30)
    return report(counts, early, late, exit_code)


def write_shifted_model(source: Path, target: Path) -> None:
    """Write a model of the same kind with other predictions: the heads' biases are shifted."""
    os.environ["KERAS_BACKEND"] = "openvino"
    import keras

    shutil.copytree(source, target)
    bundle = ModelBundle.read(source)
    model = keras.models.load_model(source / MODEL_FILE, compile=False)
    for kind in bundle.heads:
        for head in heads_of(model, kind):
            kernel, bias = head.get_weights()
            head.set_weights([kernel, bias + np.linspace(-0.7, 0.7, len(bias))])
    model.save(target / MODEL_FILE)
    changes = {"model_sha256": sha256_of(target / MODEL_FILE), "int8_sha256": None}
    bundle.model_copy(update=changes).write(target)


def write_images(folder: Path) -> list[bytes]:
    """Return a dozen synthetic images as PNG."""
    write_patterns(folder, parse_patterns("patterns:groups=6,images=1,size=256,seed=9"))
    return [path.read_bytes() for path in sorted(folder.rglob("*.png"))]


def predict(model: Path, images: Path) -> list[dict[str, float]]:
    """Return a model's probabilities for each image."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", PREDICT, str(model), str(images)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def write_config(folder: Path, served_dir: Path) -> Path:
    """Write the usual configuration without a rate limit: all clients have one address."""
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    config["training"]["bundle_dir"] = str(served_dir)
    config["log_file"] = str(folder / "running.log")
    config["serving"] |= {"rate_limit": None, "int8": False}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def swap(model: Path, served_dir: Path) -> None:
    """Replace the served model, as training does."""
    with atomic_write(served_dir) as temp_path:
        shutil.copytree(model, temp_path)


def send_image(port: int, body: bytes) -> tuple[http.client.HTTPResponse, Any]:
    """Send a request over a new connection; return the response and its content."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", "/predict", body, {"Content-Type": "image/png"})
        response = connection.getresponse()
        return response, json.loads(response.read())
    finally:
        connection.close()


def send_requests(
    port: int,
    images: list[bytes],
    hostile: list[bytes],
    expected: dict[str, list[dict[str, float]]],
    counts: Counter[str],
    end: float,
    seed: int,
) -> None:
    """Send request after request, and count the responses."""
    rng = random.Random(seed)
    while time.monotonic() < end:
        kind = rng.choices(("image", "no image", "hostile"), (90, 9, 1))[0]
        index = rng.randrange(len(images))
        bodies = {"image": [images[index]], "no image": NO_IMAGES, "hostile": hostile}
        try:
            response, content = send_image(port, rng.choice(bodies[kind]))
        except (OSError, http.client.HTTPException, ValueError) as error:
            counts[f"no response: {type(error).__name__}"] += 1
            continue
        counts[f"{kind} {response.status}"] += 1
        if response.status == 503:
            counts["503 without Retry-After"] += not response.headers["Retry-After"]
            time.sleep(min(float(response.headers["Retry-After"] or 1), 5))
        elif response.status == 200 and kind == "image":
            found, reference = content[0], expected[content[0]["model_sha256"]][index]
            for name, probability in found["probabilities"].items():
                counts["wrong prediction"] += abs(probability - reference[name]) > TOLERANCE
            counts[f"model {found['model']}"] += 1


def resident_megabytes(pid: int) -> float:
    """Return the memory of a process."""
    return psutil.Process(pid).memory_info().rss / 1e6


def report(counts: Counter[str], early: float, late: float, exit_code: int) -> int:
    """Print the counts; return 1 if the server didn't meet its guarantees.

    Args:
        counts: of the responses.
        early: memory after the warm-up, MB.
        late: memory at the end, MB.
        exit_code: of the server.
    """
    failures = []
    for name, count in sorted(counts.items()):
        if count:
            print(f"{count:8,}  {name}")
            if name.startswith(("no response", "wrong", "503 without", "no image 200")):
                failures.append(name)
            if name.endswith((" 500", " 502", " 504")):
                failures.append(name)
    growth = late / early - 1
    print(f"memory: {early:.0f} MB after {WARM_UP_REQUESTS} requests, {late:.0f} MB at the end")
    print(f"growth: {growth:+.1%}; exit {exit_code}")
    passed = not failures and growth <= MAX_MEMORY_GROWTH and exit_code == 0
    print("passed" if passed else f"FAILED {failures}")
    return 0 if passed else 1


if __name__ == "__main__":
    main()
