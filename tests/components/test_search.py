"""The search on a few small images: in this process, and as people run it."""

import os
import re
import signal
import subprocess
import sys

import numpy as np
import optuna
import pandas as pd
import pytest
import yaml
from PIL import Image

from cnnClassifier.components import prepare_base_model
from cnnClassifier.components.search import Search, study_name
from cnnClassifier.components.training import Training
from cnnClassifier.components.trial_evaluator import TrialEvaluator, backbone_config
from cnnClassifier.config.configuration import ConfigurationManager
from cnnClassifier.entity.config_entity import SEARCHABLE, Choice
from cnnClassifier.entity.manifest import Manifest
from cnnClassifier.pipeline import s2_prepare_base_model
from cnnClassifier.utils.errors import ConfigError
from tests.project import ROOT, write_project
from tests.waiting import PATIENCE_S, reserved_port

CLASSES = ("spot", "without")
PARAMS = {
    "FEATURE_LAYER": "block3_pool",
    "WEIGHTS": None,
    "IMAGE_SIZE": [32, 32, 3],
    "HEAD": "conv_max",
    "REPEATS": 1,
    "FOLDS": 2,
    "EPOCHS": 3,
    "LEARNING_RATE": 0.001,
    "VIEWS": 2,
    "PRECISION": "float32",
}
SPACE = {
    "LEARNING_RATE": {"low": 0.0003, "high": 0.01, "log": True},
    "HEAD": ["auto", "conv_max", "linear"],
    "VIEWS": [1, 2],
}

pytestmark = pytest.mark.slow


def build_thin_vgg(name, image_size, seed):
    """Build a network with the names of VGG's blocks that is saved and loaded in no time."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed + sum(name.encode()))
    inputs = keras.Input(image_size, name="image")
    x = layers.Rescaling(1 / 255)(inputs)
    for number in range(1, 6):
        x = layers.Conv2D(8, 3, padding="same", activation="relu", name=f"block{number}_conv1")(x)
        x = layers.MaxPooling2D(name=f"block{number}_pool")(x)
    return keras.Model(inputs, x, name=name)


def write_images(data_dir):
    """Write noise with and without a bright spot, and return their manifest."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(20):
        label = CLASSES[number % 2]
        pixels = rng.integers(0, 90, (32, 32), np.uint8)
        if label == "spot":
            pixels[8:16, 8:16] = 200
        path = data_dir / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        split = "test" if number >= 16 else "train"
        rows.append((f"{label}/{path.name}", label, str(number), str(number), split))
    table = pd.DataFrame(rows, columns=["path", "label", "sha256", "group", "split"])
    others = {"reason": "", "duplicate_of": "", "format": "PNG", "mode": "L"}
    others |= {"width": 32, "height": 32, "bytes": 1, "mean_intensity": 0}
    return Manifest.from_table(table.assign(**others))


@pytest.fixture(scope="module", autouse=True)
def thin_backbones():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_base_model, "build_backbone", build_thin_vgg)
        yield


@pytest.fixture(scope="module")
def project(keras, tmp_path_factory):
    """Write images, manifest and prepared model."""
    folder = tmp_path_factory.mktemp("search")
    write_project(
        folder,
        config={
            "search.stale_after_s": 3,
            "training.int8": False,
            "evaluation.bootstrap_samples": 100,
        },
        params=PARAMS,
        search={"trials": 6, "space": dict.fromkeys(SEARCHABLE) | SPACE},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        manager = ConfigurationManager()
        training = manager.training()
        write_images(training.data_dir).write(training.manifest_path)
        s2_prepare_base_model.main(manager)
    return folder


@pytest.fixture
def folder(project, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "SEARCH_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(project)
    return project


def ignore(metrics, epoch):
    """Take the metrics of an epoch."""


def prune(metrics, epoch):
    raise optuna.TrialPruned


def test_a_trial_trains_as_training_does_whatever_ran_before(folder):
    manager = ConfigurationManager()
    evaluator = TrialEvaluator(manager.search(), Manifest.read(manager.training().manifest_path))
    params = {"LEARNING_RATE": 0.001, "HEAD": "conv_max", "VIEWS": 2}
    first = evaluator.fit(params, ignore).probabilities
    with pytest.raises(optuna.TrialPruned):
        evaluator.fit(params | {"LEARNING_RATE": 0.003}, prune)
    others = [{"LEARNING_RATE": 0.01}, {"VIEWS": 1}, {"HEAD": "auto"}]
    tried = [evaluator.fit(params | change, ignore).probabilities for change in others]
    linear = evaluator.fit(params | {"HEAD": "linear"}, prune)  # it has no epochs
    tried.append(linear.probabilities)
    assert np.array_equal(evaluator.fit(params, ignore).probabilities, first)
    assert all(not np.allclose(first, probabilities, atol=1e-4) for probabilities in tried)
    assert evaluator.metrics(params, ignore).keys() == {"loss", "roc_auc", "balanced_accuracy"}

    bundle = Training(manager.training()).run()
    table = pd.read_csv(bundle.bundle_dir / "out_of_fold.csv")
    columns = [f"conv_max:{name}" for name in CLASSES]
    assert np.allclose(first, table[columns], atol=1e-5)


def test_each_backbone_and_block_has_its_own_features(folder):
    config = ConfigurationManager().search()
    manifest = Manifest.read(config.training.manifest_path)

    def losses(key, *values):
        space = {key: Choice(tuple(dict.fromkeys(values)))}
        changes = {"epochs": 1, "space": space}
        evaluator = TrialEvaluator(config.model_copy(update=changes), manifest)
        return [evaluator.metrics({key: value}, ignore)["loss"] for value in values]

    frozen, block, again = losses("FINE_TUNE_FROM", None, "block3", None)
    assert frozen == again != block
    other, same = losses("BACKBONE", "VGG19", "VGG16")
    assert same == frozen != other
    assert backbone_config(config, "VGG19").feature_layer == "auto"
    with pytest.raises(ConfigError, match=r"search\.yaml: space, with block9 and VGG16: .* block3"):
        losses("FINE_TUNE_FROM", "block9")


def test_trained_blocks_are_not_combined_with_linear_heads(folder):
    """Nor with a fixed validation split, where there is one head of each kind."""
    space = {"FINE_TUNE_FROM": Choice(("block3",))}
    config = ConfigurationManager().search().model_copy(update={"epochs": 1, "space": space})
    table = pd.DataFrame(Manifest.read(config.training.manifest_path).entries)
    table.loc[table.index[:4], "split"] = "validation"
    evaluator = TrialEvaluator(config, Manifest.from_table(table))
    fitted = evaluator.fit({"FINE_TUNE_FROM": "block3", "HEAD": "auto"}, ignore)
    assert fitted.heads.keys() == {"conv_max"}
    assert np.isfinite(fitted.probabilities).all(1).sum() == 4


def test_other_data_or_settings_are_another_study(folder):
    config = ConfigurationManager().search()

    def name(**changes):
        return study_name(config.model_copy(update=changes))

    assert name(params=config.params | {"LEARNING_RATE": 1, "REPEATS": 2}) == name()
    others = {
        name(),
        name(params=config.params | {"DROPOUT": 0.5}),
        name(metric="roc_auc"),
        name(epochs=2),
        name(space=config.space | {"HEAD": Choice(("flatten",))}),
    }
    assert len(others) == 5


def test_each_trial_is_a_child_run_and_a_longer_search_continues(folder, monkeypatch):
    from mlflow import MlflowClient

    uri = f"sqlite:///{folder / 'tracked.db'}"
    monkeypatch.setenv("SEARCH_STORAGE", "sqlite:///artifacts/search/tracked.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    manager = ConfigurationManager()

    def run(**options):
        return Search(manager.search(), manager.tracking()).run(**options)["trials"]

    before = run(trials=2)
    assert run(timeout_s=0.001) == before
    assert run(trials=3)[:2] == before
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("chest-ct").experiment_id
    runs = client.search_runs([experiment])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    (parent,) = (run for run in runs if run not in children)
    assert len(children) == 3
    for run in children:
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert SPACE.keys() == run.data.params.keys()
        assert {"cv_loss", "cv_roc_auc"} <= run.data.metrics.keys()
        assert run.info.status == "FINISHED"
    assert any("val_loss" in run.data.metrics for run in children)
    names = {path.path for path in client.list_artifacts(parent.info.run_id, "search")}
    assert names == {"search/report.html", "search/best.diff"}


class PlannedEvaluator:
    """Takes the place of TrialEvaluator: the trials from the seventh on have high losses."""

    def __init__(self, config, manifest):
        self.trials = 0

    def metrics(self, params, on_epoch):
        self.trials += 1
        loss = 0.5 if self.trials < 7 else 0.7
        for epoch in range(1, 10):
            on_epoch({"loss": 1.0, "val_loss": loss}, epoch)
        return {"loss": loss, "roc_auc": 0.5, "balanced_accuracy": 0.5}


@pytest.mark.parametrize(("metric", "pruned"), [("loss", 2), ("roc_auc", 0)])
def test_a_trial_worse_than_the_median_is_pruned_by_its_loss(folder, monkeypatch, metric, pruned):
    monkeypatch.setattr("cnnClassifier.components.search.TrialEvaluator", PlannedEvaluator)
    monkeypatch.setenv("SEARCH_STORAGE", f"sqlite:///artifacts/search/{metric}.db")
    config = ConfigurationManager().search().model_copy(update={"metric": metric})
    trials = Search(config).run(8)["trials"]
    assert [trial["pruned"] for trial in trials] == [False] * (8 - pruned) + [True] * pruned
    if pruned:
        assert trials[-1]["metrics"] == {"loss": 0.7}


def test_a_diverged_trial_is_pruned(folder, monkeypatch):
    monkeypatch.setenv("SEARCH_STORAGE", "sqlite:///artifacts/search/diverged.db")
    config = ConfigurationManager().search()
    space = {"LEARNING_RATE": Choice((1e30, 0.001))}
    report = Search(config.model_copy(update={"space": space})).run()
    assert [trial["pruned"] for trial in report["trials"]] == [False, True]
    assert report["best"]["params"] == {"LEARNING_RATE": 0.001}


def start(folder, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), "search", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.full
@pytest.mark.parametrize("scheme", ["sqlite", "journal"])
def test_two_processes_one_is_killed_then_apply(folder, monkeypatch, scheme):
    monkeypatch.setenv("SEARCH_STORAGE", f"{scheme}:///artifacts/search/study.{scheme}")
    params = folder / "params.yaml"
    text = params.read_text(encoding="utf-8")
    with reserved_port() as port:
        killed = start(folder, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}")
        other = start(folder, "--n-trials", "5")  # at least one trial remains
        try:
            assert any(re.match(r"trial \d+, \d of 6 done", line) for line in killed.stderr)
            killed.send_signal(signal.SIGKILL)
            _, messages = other.communicate(timeout=PATIENCE_S)
            assert other.returncode == 0, messages
        finally:
            killed.kill()
            killed.communicate()
            other.kill()

    def search(**options):
        manager = ConfigurationManager()
        return Search(manager.search()).run(**options)

    trials = search()["trials"]
    assert len({tuple(trial["params"].items()) for trial in trials}) == len(trials) == 6
    assert search(apply=True)["trials"] == trials
    applied = params.read_text(encoding="utf-8")
    patch = (folder / "artifacts/search/best.diff").read_text(encoding="utf-8")
    best = "\n".join(re.findall(r"^\+(\w+: .*)", patch, flags=re.MULTILINE))
    assert yaml.safe_load(applied) == yaml.safe_load(text) | (yaml.safe_load(best) or {})
    assert re.findall("#.*", applied) == re.findall("#.*", text)
    search(apply=True)
    assert params.read_text(encoding="utf-8") == applied
    assert (folder / "artifacts/search/best.diff").read_text(encoding="utf-8") == ""
    params.write_text(text, encoding="utf-8")
