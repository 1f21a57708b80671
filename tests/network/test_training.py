import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cnnClassifier.entity.config_entity import FitConfig
from cnnClassifier.network.feature_cache import Features
from cnnClassifier.network.training import fit, snapshot
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
CONFIG = FitConfig(
    epochs=20, patience=20, batch_size=16, learning_rate=0.1, class_weights="balanced", seed=1
)


class ArrayFeatures(Features):
    """Features in memory instead of in files."""

    def __init__(self, maps):
        super().__init__(maps, maps.shape[1:])

    def __getitem__(self, items):
        return ArrayFeatures(self._paths[items])

    def take(self, items):
        return self._paths[items]


def toy(count, seed, share=0.5):
    """Maps of 2x2 with 3 channels; the first channel tells the class."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < share).astype(np.int64)
    maps = rng.normal(size=(count, 2, 2, 3))
    maps[..., 0] += 4 * labels[:, None, None] - 2
    return ArrayFeatures(maps.astype(np.float16)), labels


@pytest.fixture
def tail(keras):
    keras.utils.set_random_seed(0)
    image = keras.Input((2, 2, 3))
    x = keras.layers.GlobalAveragePooling2D()(image)
    return keras.Model(image, keras.layers.Dense(2, activation="softmax")(x))


def loss(tail, features, labels):
    shown = np.asarray(tail(features.take(np.arange(len(features)))))
    return -np.log(shown[np.arange(len(labels)), labels]).mean()


@pytest.mark.parametrize("patience", [20, 3])
def test_it_learns_and_keeps_the_best_epochs_weights(tail, patience):
    """With patience 3, wrong labels for validation end the fit early."""
    features, labels = toy(30, 1)
    labels = labels if patience == 20 else 1 - labels
    config = CONFIG.model_copy(update={"patience": patience})
    history = fit(tail, *toy(60, 0), features, labels, config, verbose=0)
    best = int(np.argmin(history["val_loss"]))
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert len(history["val_loss"]) == min(best + 1 + patience, 20)
    assert loss(tail, features, labels) == pytest.approx(history["val_loss"][best], rel=1e-4)
    assert (history["val_accuracy"][-1] == 1) == (patience == 20)


def test_balanced_weights_and_seed_reach_the_fit_and_equal_fits_are_equal(tail):
    restore = snapshot(tail)
    found = {}
    for name, config in {
        "first": CONFIG,
        "unweighted": CONFIG.model_copy(update={"class_weights": None}),
        "seed": CONFIG.model_copy(update={"seed": 2}),
        "again": CONFIG,
    }.items():
        restore()
        fit(
            tail,
            *toy(60, 0, share=0.1),
            *toy(30, 1),
            config.model_copy(update={"epochs": 2}),
            verbose=0,
        )
        found[name] = np.concatenate([values.ravel() for values in tail.get_weights()])
    assert np.array_equal(found["first"], found["again"])
    assert not np.allclose(found["first"], found["unweighted"])
    assert not np.allclose(found["first"], found["seed"], atol=1e-7)


TWICE = """
import hashlib, sys
from pathlib import Path
import numpy as np
from tests.network.test_training import CONFIG, toy
from cnnClassifier.network.architecture import build_backbone
from cnnClassifier.network.feature_cache import split_at, trunk_id
from cnnClassifier.network.serialization import save_model
from cnnClassifier.utils.common import sha256_of
from cnnClassifier.network.training import fit, make_deterministic
from cnnClassifier.network.architecture import add_head
import keras
make_deterministic(5)
backbone = build_backbone("VGG16", (32, 32, 3), 5)
trunk, _ = split_at(add_head(backbone, "block1_pool", "conv_max", 0.3, 2, 5), "block1_pool")
print(trunk_id(trunk, "float32"))
save_model(backbone, Path(sys.argv[1]))
print(sha256_of(sys.argv[1]))
image = keras.Input((2, 2, 3))
feature = keras.layers.ReLU(name="feature")(image)
tail = add_head(keras.Model(image, feature), "feature", "conv_max", 0.5, 2, 5)
history = fit(tail, *toy(60, 0), *toy(30, 1), CONFIG, verbose=0)
print(hashlib.sha256(b"".join(values.tobytes() for values in tail.get_weights())).hexdigest())
print(history["loss"])
"""


@pytest.mark.slow
def test_equal_runs_give_equal_weights(tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", TWICE, tmp_path / name],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for name in ("a.keras", "b.keras")
    ]
    (first, error), (second, _) = (run.communicate(timeout=PATIENCE_S) for run in runs)
    assert len(first.splitlines()) == 4, error.decode()[-2000:]
    assert first == second
