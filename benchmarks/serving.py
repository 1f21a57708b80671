"""Compare app.py with a typical app (usual_app.py): latency, throughput, memory, start-up.

app.py runs twice, in float32 and in int8 (whatever evaluation decided). Its latency is compared
with the machine's limit: the forward pass at the speed of a large float32 matrix product.

    python benchmarks/serving.py [bundle folder, default artifacts/training]

Half of the requests are sent one after the other, then half with eight at once. The servers run
one after the other, so that neither slows the other down.
"""

import argparse
import base64
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from cnnClassifier.entity.bundle import INT8_AGREEMENT_FILE, ModelBundle
from cnnClassifier.utils.common import save_json

ROOT = Path(__file__).resolve().parents[1]
CONCURRENCY = 8
OURS_REQUESTS, USUAL_REQUESTS = 200, 33
# os.wait4 counts in kB on Linux and in bytes on macOS.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", nargs="?", type=Path, default=Path("artifacts/training"))
    parser.add_argument(
        "--image", type=Path, help="image to send; default: a generated 512x512 PNG"
    )
    chosen = parser.parse_args()
    bundle = chosen.bundle.resolve()
    if not (bundle / "model.keras").is_file():
        parser.error(f"{bundle / 'model.keras'} is missing: train a model or name another folder")
    image = chosen.image.read_bytes() if chosen.image else generated()
    with tempfile.TemporaryDirectory() as folder:
        forms = {}
        for form, int8 in (("app.py", False), ("int8", True)):
            if int8 and not ModelBundle.read(bundle).int8_sha256:
                continue
            config = write_config(Path(folder), bundle, int8)
            port = str(free_port())
            command = [
                ROOT / "app.py",
                "--config",
                config,
                "--params",
                ROOT / "params.yaml",
                "--port",
                port,
            ]
            forms[form] = measure(command, port, "readyz", OURS_REQUESTS, image, folder)
        port = str(free_port())
        command = [ROOT / "benchmarks/usual_app.py", bundle / "model.keras", port]
        usual = measure(command, port, "", USUAL_REQUESTS, image, folder)
    rows = [
        ("median latency, ms", "median", 1000),
        ("95th percentile of latency, ms", "p95", 1000),
        (f"requests/s, {CONCURRENCY} at once", "rate", 1),
        (f"peak memory, MB, after {OURS_REQUESTS} / {USUAL_REQUESTS} requests", "rss", 1e-6),
        ("time until ready, s", "ready", 1),
    ]
    columns = [cell for form in forms for cell in (form, "ratio")]
    print(f"{'':48}{'usual':>10}{''.join(f'{name:>10}' for name in columns)}")
    for title, key, scale in rows:
        cells = "".join(
            f"{ours[key] * scale:10.1f}{ours[key] / usual[key]:10.2f}" for ours in forms.values()
        )
        print(f"{title:48}{usual[key] * scale:10.1f}{cells}")
    print_limit(bundle, {form: ours["median"] for form, ours in forms.items()})


def print_limit(bundle, medians):
    """Print how long the forward pass would take at the speed of a float32 matrix product."""
    work, rate = operations(bundle), matrix_rate()
    limit = work / rate
    print(
        f"forward pass: {work / 1e9:.1f} GFLOP; "
        f"float32 matrix product: {rate / 1e9:.0f} GFLOP/s; limit {limit:.3f} s"
    )
    for form, median in medians.items():
        print(f"a request to {form} takes {median / limit:.2f} times that")


def operations(bundle):
    """Count the multiplications and additions of convolutions and dense layers for one image."""
    os.environ["KERAS_BACKEND"] = "openvino"
    import keras

    total = 0
    for layer in keras.models.load_model(bundle / "model.keras", compile=False).layers:
        if hasattr(layer, "kernel"):  # each weight is used once for each position of the output
            total += 2 * int(np.prod(layer.kernel.shape)) * int(np.prod(layer.output.shape[1:-1]))
    return total


def matrix_rate():
    """Return the operations per second of a 2048x2048 float32 matrix product, best of ten."""
    size = 2048
    left, right = (np.random.default_rng(seed).random((size, size), np.float32) for seed in (0, 1))
    spent = []
    for _ in range(10):
        begun = time.perf_counter()
        left @ right
        spent.append(time.perf_counter() - begun)
    return 2 * size**3 / min(spent)


def generated():
    pixels = np.random.default_rng(0).normal(110, 40, (64, 64)).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((512, 512), Image.Resampling.BICUBIC).convert("RGB").save(
        buffer, "PNG"
    )
    return buffer.getvalue()


def write_config(folder, bundle, int8):
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    config["training"]["bundle_dir"] = str(bundle)
    config["evaluation"]["root_dir"] = str(folder)
    config["serving"] |= {"int8": int8, "rate_limit": None}
    if int8:
        card = ModelBundle.read(bundle)
        record = {
            "model_sha256": card.model_sha256,
            "int8_sha256": card.int8_sha256,
            "accepted": True,
        }
        save_json(folder / INT8_AGREEMENT_FILE, record)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def measure(command, port, ready_path, count, image, folder):
    environment = {**os.environ, "HOST": "127.0.0.1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    started = time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(f"{url}/{ready_path}", server)
        ready = time.perf_counter() - started
        body = json.dumps({"image": base64.b64encode(image).decode()}).encode()

        def ask(_):
            begun = time.perf_counter()
            request = urllib.request.Request(
                f"{url}/predict", body, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=300) as answer:
                assert json.load(answer)[0]["image"]
            return time.perf_counter() - begun

        alone = count // 2
        spent = [ask(None) for _ in range(alone)]
        begun = time.perf_counter()
        with ThreadPoolExecutor(CONCURRENCY) as pool:
            list(pool.map(ask, range(count - alone)))
        rate = (count - alone) / (time.perf_counter() - begun)
    finally:
        server.send_signal(signal.SIGTERM)
        _, _, usage = os.wait4(server.pid, 0)
    p95 = statistics.quantiles(spent, n=20, method="inclusive")[-1]
    return {
        "median": statistics.median(spent),
        "p95": p95,
        "rate": rate,
        "rss": usage.ru_maxrss * RSS_UNIT,
        "ready": ready,
    }


def wait_until_ready(url, server):
    while server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=10).close()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
    sys.exit(f"{server.args[1]} ended before it was ready")


if __name__ == "__main__":
    main()
