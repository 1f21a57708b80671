"""Measure the size and speed of every backbone with heads, as the server runs it, on one core.

The weights are random: speed and size don't depend on them. It needs no data.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.measure import table
from cnnClassifier.entity.backbones import BACKBONES
from cnnClassifier.network.architecture import add_heads, averaged_layers, build_backbone
from cnnClassifier.network.openvino_model import (
    compile_network,
    export_openvino,
    quantize,
    save_openvino,
)
from cnnClassifier.network.serialization import save_model

if TYPE_CHECKING:
    import openvino

IMAGE_SIZE = (224, 224, 3)
FOLDS = 5
HEADER = ("backbone", "M parameters", "ms", "ms, int8", "MB", "MB, int8")


def main() -> None:
    """Print a table, a row for each backbone."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(BACKBONES), metavar="BACKBONE")
    rows = []
    for name in parser.parse_args().names:
        rows.append(measure(name))
        print(rows[-1], flush=True)
    print(table(HEADER, rows))


def measure(name: str) -> list[str]:
    """Return the row of a backbone."""
    backbone = build_backbone(name, IMAGE_SIZE, seed=0)
    layer = BACKBONES[name].feature_layer
    layers = averaged_layers(name, backbone)
    model = add_heads(backbone, layers, layer, "auto", FOLDS, 0.3, class_count=2, seed=0)
    images = np.random.default_rng(0).integers(0, 256, (8, *IMAGE_SIZE), np.uint8)
    network = export_openvino(model, layer)
    quantized = quantize(network.clone(), images)
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder, "model.keras"), Path(folder, "model_int8.zip")
        save_model(model, paths[0])
        save_openvino(paths[1], quantized)
        sizes = [f"{path.stat().st_size / 1e6:.1f}" for path in paths]
    times = [f"{core_ms(each, images[0]):.1f}" for each in (network, quantized)]
    return [name, f"{backbone.count_params() / 1e6:.1f}", *times, *sizes]


def core_ms(network: "openvino.Model", image: np.ndarray, count: int = 40) -> float:
    """Return the processor time of an inference on one core, in ms.

    Other processes hardly change it, unlike the time on a clock, and can only make it longer: it is
    the shortest of some inferences.
    """
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": "1"}
    request = compile_network(network, IMAGE_SIZE, options).create_infer_request()
    times = []
    for _ in range(count):
        start = time.process_time()
        request.infer([image[np.newaxis]], share_inputs=True)
        times.append(time.process_time() - start)
    return 1000 * min(times)


if __name__ == "__main__":
    main()
