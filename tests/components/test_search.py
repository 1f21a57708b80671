"""The search on a small phantom: in this process, and as people run it."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from cnnClassifier.components.crossvalidation import FoldRunner, grouped_folds
from cnnClassifier.components.search import study_name
from cnnClassifier.components.training import image_features, load_network
from cnnClassifier.components.trial_evaluator import TrialEvaluator, backbone_config
from cnnClassifier.config.configuration import ConfigurationManager
from cnnClassifier.entity.config_entity import Choice
from cnnClassifier.entity.manifest import Manifest
from cnnClassifier.evaluation.metrics import compute_metrics
from cnnClassifier.imaging.augment import views_of
from cnnClassifier.pipeline import s1_data_ingestion, s1_data_validation, s2_prepare_base_model
from cnnClassifier.tracking.runs import Run
from cnnClassifier.tuning.report import with_values
from cnnClassifier.utils.errors import ConfigError
from tests.waiting import PATIENCE_S, reserved_port

ROOT = Path(__file__).resolve().parents[2]
PARAMS = {
    "FEATURE_LAYER": "block3_pool",
    "WEIGHTS": None,
    "IMAGE_SIZE": [64, 64, 3],
    "EPOCHS": 2,
    "VIEWS": 2,
    "FOLDS": 4,
    "PRECISION": "float32",
}
SPACE = {
    "LEARNING_RATE": {"low": 0.0003, "high": 0.01, "log": True},
    "HEAD": ["conv_max", "average"],
    "VIEWS": [1, 2],
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(keras, tmp_path_factory):
    """Make data, manifest and model of a small phantom."""
    folder = tmp_path_factory.mktemp("search")
    (folder / "config").mkdir()
    before = Path.cwd()
    os.chdir(folder)
    try:
        config = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
        config["data_ingestion"]["source_URL"] = "phantom:patients=24,slices=1,size=64,seed=3"
        config["search"]["stale_after_s"] = 3
        Path("config/config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        text = (ROOT / "params.yaml").read_text(encoding="utf-8")
        Path("params.yaml").write_text(with_values(text, PARAMS), encoding="utf-8")
        search = yaml.safe_load((ROOT / "config/search.yaml").read_text(encoding="utf-8"))
        search |= {"trials": 6, "space": dict.fromkeys(search["space"]) | SPACE}
        Path("config/search.yaml").write_text(yaml.safe_dump(search), encoding="utf-8")
        for stage in (s1_data_ingestion, s1_data_validation, s2_prepare_base_model):
            stage.main(ConfigurationManager())
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def folder(project, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "SEARCH_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(project)
    return project


def test_a_trial_trains_as_training_does_whatever_ran_before(folder):
    manager = ConfigurationManager()
    config, training = manager.search(), manager.training()
    manifest = Manifest.read(training.manifest_path)
    evaluator = TrialEvaluator(config, manifest)
    params = {"LEARNING_RATE": 0.001, "HEAD": "conv_max", "VIEWS": 2}
    first = list(evaluator.folds(params))
    other = list(evaluator.folds({"LEARNING_RATE": 0.01, "HEAD": "conv_max", "VIEWS": 1}))
    average = list(evaluator.folds(params | {"HEAD": "average"}))
    assert list(evaluator.folds(params)) == first
    assert len({fold["loss"] for fold in first + other + average}) == 9

    # The same folds with the model that training takes.
    entries = [entry for entry in manifest.entries if entry.split in ("train", "validation")]
    labels, groups = manifest.labels(entries), np.array([entry.group for entry in entries])
    network = load_network(training)
    items = [(entry, views_of(entry.sha256, training.augmentation)) for entry in entries]
    features = image_features(network.cache, items, training)
    runner = FoldRunner(config.crossvalidation, network.tail, features, labels, groups, 0)
    folds = grouped_folds(labels, groups, 4, training.fit.seed)
    for fold, parts in zip(first, folds, strict=False):
        predictions = runner.run(*parts, Run())
        assert fold["loss"] == pytest.approx(compute_metrics(predictions)["loss"], abs=1e-5)


def test_each_backbone_and_block_has_its_own_features(folder):
    config = ConfigurationManager().search()
    manifest = Manifest.read(config.crossvalidation.training.manifest_path)

    def losses(key, *values):
        changes = {"folds": 1, "space": {key: Choice(tuple(dict.fromkeys(values)))}}
        evaluator = TrialEvaluator(config.model_copy(update=changes), manifest)
        return [next(evaluator.folds({key: value}))["loss"] for value in values]

    frozen, block, again = losses("FINE_TUNE_FROM", None, "block3", None)
    assert frozen == again != block
    other, same = losses("BACKBONE", "MobileNetV2", "VGG16")
    assert same == frozen != other
    assert backbone_config(config, "MobileNetV2").feature_layer == "auto"
    with pytest.raises(ConfigError, match=r"search\.yaml: space, with block9 and VGG16: .* block3"):
        losses("FINE_TUNE_FROM", "block9")


def test_other_data_or_settings_are_another_study(folder):
    config = ConfigurationManager().search()

    def name(**changes):
        return study_name(config.model_copy(update=changes))

    assert name(params=config.params | {"LEARNING_RATE": 1, "FOLD_SEEDS": [1]}) == name()
    others = {
        name(),
        name(params=config.params | {"DROPOUT": 0.5}),
        name(metric="roc_auc"),
        name(folds=2),
        name(space=config.space | {"HEAD": Choice(("flatten",))}),
    }
    assert len(others) == 5


def start(folder, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), "search", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def search(folder, *arguments, **environment):
    process = start(folder, *arguments, **environment)
    _, messages = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, messages
    return messages


@pytest.mark.parametrize("scheme", ["sqlite", "journal"])
def test_two_processes_one_is_killed_then_apply(folder, scheme):
    storage = {"SEARCH_STORAGE": f"{scheme}:///artifacts/search/study.{scheme}"}
    params = folder / "params.yaml"
    text = params.read_text(encoding="utf-8")
    with reserved_port() as port:
        uri = f"http://127.0.0.1:{port}"
        killed = start(folder, MLFLOW_TRACKING_URI=uri, **storage)
        other = start(folder, "--n-trials", "5", **storage)  # at least one trial remains
        try:
            assert any(re.match(r"trial \d+, \d of 6 done", line) for line in killed.stderr)
            killed.send_signal(signal.SIGKILL)
            _, messages = other.communicate(timeout=PATIENCE_S)
            assert other.returncode == 0, messages
        finally:
            killed.kill()
            killed.communicate()
            other.kill()
    search(folder, **storage)
    page = (folder / "artifacts/search/report.html").read_text(encoding="utf-8")
    rows = re.findall(r'<tr class="\w*"><td>\d+</td>(.*?)</tr>', page, flags=re.DOTALL)
    assert len({" ".join(row.split()).split("</td> <td>")[-1] for row in rows}) == len(rows) == 6

    messages = search(folder, "--apply", **storage)
    assert "has 6 of 6 trials" in messages
    assert "MLflow" not in messages
    applied = params.read_text(encoding="utf-8")
    patch = (folder / "artifacts/search/best.diff").read_text(encoding="utf-8")
    best = "\n".join(re.findall(r"^\+(\w+: .*)", patch, flags=re.MULTILINE))
    assert yaml.safe_load(applied) == yaml.safe_load(text) | (yaml.safe_load(best) or {})
    assert re.findall("#.*", applied) == re.findall("#.*", text)
    search(folder, "--apply", **storage)
    assert params.read_text(encoding="utf-8") == applied
    assert (folder / "artifacts/search/best.diff").read_text(encoding="utf-8") == ""
    params.write_text(text, encoding="utf-8")


def test_each_trial_is_a_child_run_and_a_longer_search_continues(folder):
    from mlflow import MlflowClient

    uri = "sqlite:///tracked.db"
    environment = {
        "SEARCH_STORAGE": "sqlite:///artifacts/search/tracked.db",
        "MLFLOW_TRACKING_URI": uri,
    }
    search(folder, "--n-trials", "2", **environment)
    search(folder, "--timeout", "0.001", **environment)
    assert "has 2 of 3 trials" in search(folder, "--n-trials", "3", **environment)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("chest-ct").experiment_id
    runs = client.search_runs([experiment])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    (parent,) = (run for run in runs if run not in children)
    assert len(children) == 3
    for run in children:
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert {"LEARNING_RATE", "HEAD", "VIEWS"} == run.data.params.keys()
        assert {"loss", "fold_loss", "roc_auc"} <= run.data.metrics.keys()
        assert run.info.status == "FINISHED"
    names = {path.path for path in client.list_artifacts(parent.info.run_id, "search")}
    assert names == {"search/report.html", "search/best.diff"}
