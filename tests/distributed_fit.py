"""Fit heads, and trained blocks with batch statistics, as one of several processes on JAX.

Run as a script: FOLDER [EPOCH]; before the checkpoint of that epoch it kills itself.
"""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np

from cnnClassifier.entity.config_entity import DistributedConfig, FitConfig
from cnnClassifier.network import backend


def main(folder, last_epoch=None):
    variables = {"processes": "CNN_PROCESSES", "process": "CNN_PROCESS"}
    values = {name: int(os.environ[key]) for name, key in variables.items() if key in os.environ}
    config = DistributedConfig(coordinator=os.environ.get("CNN_COORDINATOR"), **values)
    backend.start(config)
    backend.make_deterministic(5)
    import keras

    from cnnClassifier.network.architecture import add_heads
    from cnnClassifier.network.feature_cache import Features, split_at
    from cnnClassifier.network.feature_files import LocalFiles
    from cnnClassifier.network.training import fit

    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=61)
    held_out = np.arange(61)[:, None] % 3 == np.arange(3)
    names = []
    cache = folder / str(config.process) / "maps"
    cache.mkdir(parents=True, exist_ok=True)
    for number, label in enumerate(labels):
        values = rng.normal(size=(2, 2, 3))
        values[..., 0] += 2 * label
        names.append(f"{number}.f16")
        values.astype(np.float16).tofile(cache / names[-1])
    features = Features(np.array(names), (2, 2, 3), 0, LocalFiles(cache), "a network")
    image = keras.Input((2, 2, 3))
    maps = keras.layers.ReLU(negative_slope=1, name="maps")(image)
    # A bias before the normalization has a gradient of rounding errors, which Adam scales up.
    block = keras.layers.Conv2D(8, 2, padding="same", use_bias=False, name="conv")(maps)
    block = keras.layers.BatchNormalization(name="norm")(block)
    block = keras.layers.ReLU(name="block")(block)
    results = {}
    for name, layer, heads in (("heads", "maps", 3), ("blocks", "block", 1)):
        backbone = keras.Model(image, keras.Model(image, block).get_layer(layer).output)
        model = add_heads(backbone, [layer], layer, "conv_max", heads, 0.3, 2, 0)
        tail = split_at(model, "maps", heads)[1]

        def on_epoch(metrics, epoch, name=name):
            if name == "blocks" and epoch == last_epoch:
                os.kill(os.getpid(), signal.SIGKILL)

        fitted = fit(
            tail,
            features,
            labels,
            held_out[:, :heads],
            FitConfig(
                epochs=5,
                patience=5,
                batch_size=8,
                learning_rate=0.002,
                class_weights="balanced",
                seed=1,
            ),
            verbose=0,
            on_epoch=on_epoch,
            checkpoint_dir=folder / "checkpoints",
        )
        results[name] = fitted.history
        weights = [values.ravel() for values in tail.get_weights()]
        np.save(folder / f"{name}-{config.process}.npy", np.concatenate(weights))
    (folder / f"history-{config.process}.json").write_text(json.dumps(results))
    backend.broadcast()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
