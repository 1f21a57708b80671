import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cnnClassifier.entity.config_entity import FitConfig
from cnnClassifier.network.architecture import add_heads
from cnnClassifier.network.backend import Share
from cnnClassifier.network.feature_cache import Features, split_at
from cnnClassifier.network.training import fit, make_batches, padded_sizes, predict, snapshot
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
CONFIG = FitConfig(
    epochs=20, patience=20, batch_size=16, learning_rate=0.05, class_weights="balanced", seed=1
)


class ArrayFeatures(Features):
    """Features in memory instead of in files; the averages are those of the maps."""

    def __init__(self, maps):
        super().__init__(maps, maps.shape[1:], maps.shape[-1], files=None, network="")

    def __getitem__(self, items):
        return ArrayFeatures(self._names[items])

    def digest(self):
        return hashlib.sha256(self._names.tobytes()).hexdigest()

    def take(self, items):
        return self._names[items]

    def averages(self):
        return self._names.mean((1, 2))


def toy(count, seed, share=0.5):
    """Maps of 2x2 with 3 channels; the first channel tells the class."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < share).astype(np.int64)
    maps = rng.normal(size=(count, 2, 2, 3))
    maps[..., 0] += 4 * labels[:, None, None] - 2
    return ArrayFeatures(maps.astype(np.float16)), labels


@pytest.fixture
def tail(keras):
    return build_tail(keras, heads=3)


def build_tail(keras, heads, kind="conv_max", dropout=0.0):
    image = keras.Input((2, 2, 3))
    maps = keras.layers.ReLU(negative_slope=1, name="maps")(image)
    model = add_heads(keras.Model(image, maps), ["maps"], "maps", kind, heads, dropout, 2, 0)
    return split_at(model, "maps", heads)[1]


def held_out(count, heads):
    return np.arange(count)[:, None] % heads == np.arange(heads)


def weights_of(tail):
    return np.concatenate([values.ravel() for values in tail.get_weights()])


@pytest.mark.parametrize("patience", [20, 3])
@pytest.mark.parametrize("kind", ["conv_max", "average", "flatten"])
def test_each_head_learns_and_keeps_the_weights_of_its_best_epoch(keras, kind, patience):
    """With patience 3, wrong labels of what the second head is held out from end its progress."""
    tail = build_tail(keras, 3, kind)
    features, labels = toy(60, 0)
    held = held_out(60, 3)
    if patience == 3:
        labels = np.where(held[:, 1], 1 - labels, labels)
    config = CONFIG.model_copy(update={"patience": patience, "learning_rate": 0.01})
    fitted = fit(tail, features, labels, held, config, verbose=0)
    assert set(fitted.history) == {"loss", "val_loss", "val_accuracy"}
    assert fitted.probabilities.shape == (60, 3, 2)
    # Each head has the weights of the epoch whose predictions were returned.
    assert np.allclose(predict(tail, features), fitted.probabilities, atol=1e-5)
    if patience == 20:
        correct = fitted.probabilities.argmax(2) == labels[:, None]
        assert correct[held].mean() > 0.8
        assert len(fitted.history["loss"]) == 20
    else:
        assert fitted.best_epochs[1] < fitted.best_epochs[0]


def test_smoothed_labels_lower_the_confidence(keras):
    """With a share s of two classes, the lowest loss has 1 - s/2 for the correct class."""
    features, labels = toy(60, 0)
    confidence = {}
    for share in (0, 0.4):
        tail = build_tail(keras, 1)
        config = CONFIG.model_copy(update={"label_smoothing": share})
        fitted = fit(tail, features, labels, np.zeros((60, 1), bool), config, verbose=0)
        confidence[share] = predict(tail, features).max(2).mean()
        assert len(fitted.history["loss"]) == CONFIG.epochs
    assert confidence[0] > 0.9
    assert abs(confidence[0.4] - 0.8) < 0.05


def test_a_head_learns_nothing_from_what_is_held_out_from_it(tail):
    """Changing what the first head doesn't see changes the other heads alone."""
    features, labels = toy(60, 0)
    held, restore = held_out(60, 3), snapshot(tail)
    config = CONFIG.model_copy(update={"epochs": 1})
    before = fit(tail, features, labels, held, config, verbose=0).probabilities
    restore()
    changed = np.where(held[:, 0], 1 - labels, labels)
    after = fit(tail, features, changed, held, config, verbose=0).probabilities
    different = np.abs(before - after).max((0, 2)) > 1e-4
    assert different.tolist() == [False, True, True]


def test_without_held_out_images_all_epochs_run(keras):
    tail = build_tail(keras, 1)
    features, labels = toy(60, 0)
    config = CONFIG.model_copy(update={"epochs": 4, "patience": 1})
    fitted = fit(tail, features, labels, np.zeros((60, 1), bool), config, verbose=0)
    assert (len(fitted.history["loss"]), fitted.best_epochs.tolist()) == (4, [4])


def test_balanced_weights_and_seed_reach_the_fit_and_equal_fits_are_equal(tail):
    restore = snapshot(tail)
    found = {}
    features, labels = toy(60, 0, share=0.1)
    for name, config in {
        "first": CONFIG,
        "unweighted": CONFIG.model_copy(update={"class_weights": None}),
        "seed": CONFIG.model_copy(update={"seed": 2}),
        "again": CONFIG,
    }.items():
        restore()
        short = config.model_copy(update={"epochs": 2})
        fit(tail, features, labels, held_out(60, 3), short, verbose=0)
        found[name] = weights_of(tail)
    assert np.array_equal(found["first"], found["again"])
    assert not np.allclose(found["first"], found["unweighted"])
    assert not np.allclose(found["first"], found["seed"], atol=1e-7)


@pytest.mark.parametrize(
    ("total", "batch_size", "devices", "expected"),
    [
        (61, 8, 1, {8: 8, 5: 5}),
        (61, 8, 2, {8: 8, 6: 5}),
        (63, 8, 2, {8: 8, 10: 7}),  # not 8, which is that of a whole batch
        (48, 7, 4, {8: 7, 12: 6}),
        (48, 16, 2, {16: 16}),
    ],
)
def test_each_batch_is_padded_to_a_number_of_its_own(total, batch_size, devices, expected):
    assert padded_sizes(total, batch_size, devices) == expected


@pytest.mark.parametrize(("processes", "devices"), [(2, 2), (3, 6)])
def test_the_batches_of_all_processes_are_those_of_one(keras, processes, devices):
    features, labels = toy(2 * 61, 0)
    labels, fitted = labels[::2], np.arange(59)
    weights = np.random.default_rng(0).random((61, 3))
    config = CONFIG.model_copy(update={"batch_size": 8})

    def batches(share):
        sizes = padded_sizes(len(fitted), 8, share.devices)
        return make_batches(features, labels, weights, fitted, config, sizes, share)

    whole = batches(Share())
    shares = [batches(Share(process, processes, devices)) for process in range(processes)]
    for _ in range(2):
        for number, expected in enumerate(whole):
            for parts in zip(expected, *(share[number] for share in shares), strict=True):
                joined = np.concatenate(parts[1:])
                assert len(joined) % devices == 0
                assert np.array_equal(joined[: len(parts[0])], parts[0])
        for each in (whole, *shares):
            each.on_epoch_end()


def test_an_interrupted_fit_continues_to_the_same_weights(keras, tmp_path):
    config = CONFIG.model_copy(update={"epochs": 4, "learning_rate": 0.01})
    tail, (features, labels) = build_tail(keras, 3, dropout=0.3), toy(60, 0)
    restore, seen = snapshot(tail), []

    def run(config=config, last_epoch=None):
        def on_epoch(metrics, epoch):
            seen.append(epoch)
            if epoch == last_epoch:
                raise KeyboardInterrupt

        restore()
        seen.clear()
        held = held_out(60, 3)
        fitted = fit(tail, features, labels, held, config, 0, on_epoch, tmp_path)
        return weights_of(tail), fitted

    restore()
    whole = fit(tail, features, labels, held_out(60, 3), config, 0)
    expected = weights_of(tail)
    with pytest.raises(KeyboardInterrupt):
        run(last_epoch=3)
    checkpoints = list(tmp_path.iterdir())
    assert len(checkpoints) == 1
    for _ in range(2):  # the second finds all epochs done
        weights, fitted = run()
        assert np.array_equal(weights, expected)
        assert fitted.history == whole.history
        assert np.array_equal(fitted.probabilities, whole.probabilities)
        assert seen == [1, 2, 3, 4]
    # Another seed never continues from it.
    run(config.model_copy(update={"seed": 2, "epochs": 1}))
    assert len(list(tmp_path.iterdir())) == 2


TWICE = """
import hashlib, sys
from pathlib import Path
import numpy as np
from tests.network.test_training import CONFIG, toy
from cnnClassifier.network.architecture import build_backbone
from cnnClassifier.network.feature_cache import split_at, trunk_id
from cnnClassifier.network.serialization import save_model
from cnnClassifier.utils.common import sha256_of
from cnnClassifier.network.backend import make_deterministic
from cnnClassifier.network.training import fit
from cnnClassifier.network.architecture import add_heads
from tests.network.test_training import build_tail, held_out
import keras
make_deterministic(5)
backbone = build_backbone("VGG16", (32, 32, 3), 5)
model = add_heads(backbone, ["block1_pool"], "block1_pool", "auto", 3, 0.3, 2, 5)
trunk, _ = split_at(model, "block1_pool", 3)
print(trunk_id(trunk, "float32"))
save_model(backbone, Path(sys.argv[1]))
print(sha256_of(sys.argv[1]))
tail = build_tail(keras, 3)
history = fit(tail, *toy(60, 0), held_out(60, 3), CONFIG, verbose=0).history
print(hashlib.sha256(b"".join(values.tobytes() for values in tail.get_weights())).hexdigest())
print(history["loss"])
"""


@pytest.mark.slow
@pytest.mark.full
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
