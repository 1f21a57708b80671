"""Run app.py for ten minutes with 16 clients, one request in ten invalid, and three model swaps.

Needs a trained bundle (`make pipeline`). Each prediction is compared with the one that its model
makes in a process of its own; memory at the end is compared with memory after the warm-up.

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
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import yaml

from benchmarks.serving import ROOT, free_port, wait_until_ready
from cnnClassifier.entity.bundle import MODEL_FILE, ModelBundle
from cnnClassifier.utils.common import atomic_write, sha256_of
from image_patterns import parse_patterns, write_patterns

INVALID_BODIES = [
    b"",
    b"not an image",
    b"\x89PNG\r\n\x1a\n" + bytes(64),
    b"GIF89a" + b"\xff" * 200,
    bytes(100_000),
]
TOLERANCE = 1e-3
SWAPS = 3
MAX_MEMORY_GROWTH = 0.05
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
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/readyz", server)
        end = time.monotonic() + seconds
        threads = []
        for seed in range(clients):
            arguments = (end, port, images, expected, counts, seed)
            threads.append(threading.Thread(target=send_requests, args=arguments))
            threads[-1].start()
        memory = monitor(
            server.pid, end, seconds, lambda number: swap(models[number % 2], served_dir)
        )
        for thread in threads:
            thread.join()
    finally:
        server.send_signal(signal.SIGTERM)
        exit_code = server.wait(30)
    return report(counts, memory, seconds, exit_code)


def write_shifted_model(source: Path, target: Path) -> None:
    """Write a model of the same kind with other predictions: the last layer's bias is shifted."""
    os.environ["KERAS_BACKEND"] = "openvino"
    import keras

    shutil.copytree(source, target)
    model = keras.models.load_model(source / MODEL_FILE, compile=False)
    kernel, bias = model.get_layer("probabilities").get_weights()
    model.get_layer("probabilities").set_weights([kernel, bias + np.linspace(-0.7, 0.7, len(bias))])
    model.save(target / MODEL_FILE)
    changes = {"model_sha256": sha256_of(target / MODEL_FILE), "int8_sha256": None}
    ModelBundle.read(source).model_copy(update=changes).write(target)


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


def send_requests(
    end: float, port: int, images: list[bytes], expected: dict, counts: Counter, seed: int
) -> None:
    """Send request after request, and count the responses."""
    rng = random.Random(seed)
    while time.monotonic() < end:
        is_valid = rng.random() >= 0.1
        index = rng.randrange(len(images))
        body = images[index] if is_valid else rng.choice(INVALID_BODIES)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        try:
            connection.request("POST", "/predict", body, {"Content-Type": "image/png"})
            response = connection.getresponse()
            content = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            counts[f"no response: {type(error).__name__}"] += 1
            continue
        finally:
            connection.close()
        counts[f"{'image' if is_valid else 'invalid'} {response.status}"] += 1
        if response.status == 503:
            counts["503 without Retry-After"] += not response.headers["Retry-After"]
            time.sleep(min(float(response.headers["Retry-After"] or 1), 5))
        elif response.status == 200 and is_valid:
            found, reference = content[0], expected[content[0]["model_sha256"]][index]
            for name, probability in found["probabilities"].items():
                counts["wrong prediction"] += abs(probability - reference[name]) > TOLERANCE
            counts[f"model {found['model']}"] += 1


def monitor(pid: int, end: float, seconds: float, swap_model) -> list[tuple[float, float]]:
    """Swap the model three times; return (seconds since the start, resident MB), once a second."""
    start = time.monotonic()
    swaps, memory = 0, []
    while (now := time.monotonic()) < end:
        if swaps < SWAPS and now - start > seconds * (0.35 + 0.1 * swaps):
            swaps += 1
            swap_model(swaps)
        with open(f"/proc/{pid}/statm") as file:
            pages = int(file.read().split()[1])
        memory.append((now - start, pages * os.sysconf("SC_PAGE_SIZE") / 1e6))
        time.sleep(1)
    return memory


def report(
    counts: Counter[str], memory: list[tuple[float, float]], seconds: float, exit_code: int
) -> int:
    """Print the counts; return 1 if the server didn't meet its guarantees."""
    failures = []
    for name, count in sorted(counts.items()):
        if count:
            print(f"{count:8,}  {name}")
            if name.startswith(("no response", "wrong", "503 without", "invalid 200")):
                failures.append(name)
            if name.endswith((" 500", " 502", " 504")):
                failures.append(name)
    times, used = np.array(memory).T / [[seconds], [1]]
    early = used[(times >= 0.2) & (times < 0.3)].mean()
    late = used[times >= 0.9].mean()
    growth = late / early - 1
    print(f"memory: {early:.0f} MB early, {late:.0f} MB late ({growth:+.1%}); exit {exit_code}")
    passed = not failures and growth <= MAX_MEMORY_GROWTH and exit_code == 0
    print("passed" if passed else f"FAILED {failures}")
    return 0 if passed else 1


if __name__ == "__main__":
    main()
