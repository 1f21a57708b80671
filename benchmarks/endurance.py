"""Let 16 clients ask app.py for ten minutes, one request in ten rubbish, while the model is swapped three times.

Needs a trained bundle (`make pipeline`). Every answer is compared with what its model says of that picture when it is
asked alone; memory of the last minute is compared with that of the third.

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
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from benchmarks.serving import ROOT, free_port, wait_until_ready
from cnnClassifier.entity.bundle import MODEL_FILE, ModelBundle
from cnnClassifier.utils.common import atomic_write, sha256_of
from ct_phantom import parse_phantom, write_phantom

RUBBISH = [
    b"",
    b"not an image",
    b"\x89PNG\r\n\x1a\n" + bytes(64),
    b"GIF89a" + b"\xff" * 200,
    bytes(100_000),
]
TOLERANCE = 1e-3
SWAPS = 3


def main() -> None:
    """Run, print what was seen, and end with 1 where something was wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--bundle", type=Path, default=Path("artifacts/training"))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        sys.exit(endure(Path(name), chosen.bundle.resolve(), chosen.minutes * 60, chosen.clients))


def endure(folder: Path, bundle: Path, seconds: float, clients: int) -> int:
    """Serve, ask, swap and measure; return the exit code."""
    models = [folder / "a", folder / "b"]
    shutil.copytree(bundle, models[0])
    make_other(models[0], models[1])
    pictures = make_pictures(folder / "pictures")
    expected = {
        ModelBundle.read(model).model_sha256: alone(model, folder / "pictures") for model in models
    }
    served = folder / "served"
    shutil.copytree(models[0], served)
    port = free_port()
    paths = {"--config": config_of(folder, served), "--params": ROOT / "params.yaml"}
    options = [str(part) for option in paths.items() for part in option]
    command = [sys.executable, str(ROOT / "app.py"), "--port", str(port), *options]
    server = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    seen: Counter[str] = Counter()
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/readyz", server)
        end = time.monotonic() + seconds
        asking = [
            threading.Thread(target=ask_until, args=(end, port, pictures, expected, seen, seed))
            for seed in range(clients)
        ]
        for thread in asking:
            thread.start()
        memory = watch(server.pid, end, seconds, lambda number: swap(models[number % 2], served))
        for thread in asking:
            thread.join()
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(30)
    return report(seen, memory, seconds, code)


def make_other(source: Path, target: Path) -> None:
    """Write a model of the same kind that answers otherwise: the last layer's bias is moved."""
    os.environ["KERAS_BACKEND"] = "openvino"
    import keras

    shutil.copytree(source, target)
    model = keras.models.load_model(source / MODEL_FILE, compile=False)
    kernel, bias = model.get_layer("probabilities").get_weights()
    model.get_layer("probabilities").set_weights([kernel, bias + np.linspace(-0.7, 0.7, len(bias))])
    model.save(target / MODEL_FILE)
    card = replace(
        ModelBundle.read(source), model_sha256=sha256_of(target / MODEL_FILE), int8_sha256=None
    )
    card.write(target)


def make_pictures(folder: Path) -> list[bytes]:
    """Return a dozen synthetic slices as PNG."""
    write_phantom(folder, parse_phantom("phantom:patients=12,slices=1,size=256,seed=9"))
    return [path.read_bytes() for path in sorted(folder.rglob("*.png"))]


def alone(model: Path, pictures: Path) -> list[dict[str, float]]:
    """Return what a model says of each picture, asked in a process of its own."""
    code = (
        "import json, sys; from pathlib import Path; from cnnClassifier.serving.predictor import ModelBundle, Predictor\n"
        "p = Predictor(ModelBundle.read(Path(sys.argv[1])), 10**8)\n"
        "print(json.dumps([p.predict(f.read_bytes()).probabilities for f in sorted(Path(sys.argv[2]).rglob('*.png'))]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", code, str(model), str(pictures)]
    found = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(found.stdout.splitlines()[-1])


def config_of(folder: Path, served: Path) -> Path:
    """Write the configuration of the server: the usual one, without a limit for this one busy client."""
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    config["training"]["bundle_dir"] = str(served)
    config["log_file"] = str(folder / "running.log")
    config["serving"] |= {"rate_limit": None, "int8": False}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def swap(model: Path, served: Path) -> None:
    """Put another model in the served one's place, as training does."""
    with atomic_write(served) as staged:
        shutil.copytree(model, staged)


def ask_until(
    end: float, port: int, pictures: list[bytes], expected: dict, seen: Counter, seed: int
) -> None:
    """Ask again and again, and count what came back."""
    rng = random.Random(seed)
    while time.monotonic() < end:
        rubbish = rng.random() < 0.1
        number = rng.randrange(len(pictures))
        body = rng.choice(RUBBISH) if rubbish else pictures[number]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        try:
            connection.request("POST", "/predict", body, {"Content-Type": "image/png"})
            answer = connection.getresponse()
            content = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            seen[f"no answer: {type(error).__name__}"] += 1
            continue
        finally:
            connection.close()
        seen[f"{'rubbish' if rubbish else 'picture'} {answer.status}"] += 1
        if answer.status == 503:
            seen["503 without Retry-After"] += not answer.headers["Retry-After"]
            time.sleep(min(float(answer.headers["Retry-After"] or 1), 5))
        elif answer.status == 200 and not rubbish:
            wanted, found = (
                expected[content[0]["model_sha256"]][number],
                content[0]["probabilities"],
            )
            seen["wrong answer"] += any(
                abs(found[name] - wanted[name]) > TOLERANCE for name in wanted
            )
            seen[f"model {content[0]['model']}"] += 1


def watch(pid: int, end: float, seconds: float, change) -> list[tuple[float, float]]:
    """Note (seconds since the start, resident MB) each second, and change the model three times in the middle."""
    begun, changed, memory = time.monotonic(), 0, []
    while (now := time.monotonic()) < end:
        if changed < SWAPS and now - begun > seconds * (0.35 + 0.1 * changed):
            changed += 1
            change(changed)
        with open(f"/proc/{pid}/statm") as file:
            pages = int(file.read().split()[1])
        memory.append((now - begun, pages * os.sysconf("SC_PAGE_SIZE") / 1e6))
        time.sleep(1)
    return memory


def report(seen: Counter[str], memory: list[tuple[float, float]], seconds: float, code: int) -> int:
    """Print what was seen; return 1 where it isn't what is promised."""
    for name, count in sorted(seen.items()):
        if count:
            print(f"{count:8,}  {name}")
    third, last = (
        float(
            np.mean(
                [used for at, used in memory if start * seconds <= at < (start + 0.1) * seconds]
            )
        )
        for start in (0.2, 0.9)
    )
    grown = last / third - 1
    print(
        f"memory: {third:.0f} MB in the third tenth, {last:.0f} MB in the last ({grown:+.1%}); exit {code}"
    )
    bad = [
        name for name, count in seen.items() if count and name.split()[-1] in ("500", "502", "504")
    ]
    wrong = [
        name
        for name in seen
        if name.startswith(("no answer", "wrong", "503 without")) and seen[name]
    ]
    rubbish = [name for name in seen if name == "rubbish 200"]
    flat = grown <= 0.05
    print(
        "as promised" if not (bad or wrong or rubbish) and flat and code == 0 else "NOT as promised"
    )
    return int(bool(bad or wrong or rubbish) or not flat or code != 0)


if __name__ == "__main__":
    main()
