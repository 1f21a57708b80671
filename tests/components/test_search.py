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
from cnnClassifier.components.trial_evaluator import Judge, prepared_as
from cnnClassifier.config.configuration import ConfigurationManager
from cnnClassifier.entity.config_entity import Choice
from cnnClassifier.entity.manifest import Manifest
from cnnClassifier.imaging.augment import views_of
from cnnClassifier.pipeline import s1_data_ingestion, s1_data_validation, s2_prepare_base_model
from cnnClassifier.tracking.runs import Run
from cnnClassifier.utils.errors import ConfigError
from tests.waiting import PATIENCE_S, reserved_port

ROOT = Path(__file__).resolve().parents[2]
PARAMS = {"FEATURE_LAYER": "block3_pool", "WEIGHTS": "null", "IMAGE_SIZE": "[64, 64, 3]"}
SPACE = {
    "LEARNING_RATE": {"low": 0.0003, "high": 0.01, "log": True},
    "HEAD": ["conv_max", "average"],
    "VIEWS": [1, 2],
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(keras, tmp_path_factory):
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
        for key, value in (
            PARAMS | {"EPOCHS": 2, "VIEWS": 2, "FOLDS": 4, "PRECISION": "float32"}
        ).items():
            text, count = re.subn(
                rf"^({key}:) \S+( \S+ \S+\])?", rf"\1 {value}", text, flags=re.MULTILINE
            )
            assert count == 1, key
        Path("params.yaml").write_text(text, encoding="utf-8")
        wanted = yaml.safe_load((ROOT / "config/search.yaml").read_text(encoding="utf-8"))
        wanted |= {"trials": 6, "space": dict.fromkeys(wanted["space"]) | SPACE}
        Path("config/search.yaml").write_text(yaml.safe_dump(wanted), encoding="utf-8")
        for stage in (s1_data_ingestion, s1_data_validation, s2_prepare_base_model):
            stage.main(ConfigurationManager())
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def place(made, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "SEARCH_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(made)
    return made


def test_a_trial_judges_what_training_fits_whatever_was_judged_before(place):
    manager = ConfigurationManager()
    config = manager.search()
    manifest = Manifest.read(config.crossvalidation.training.manifest_path)
    judge = Judge(config, manifest)
    as_it_is = {"LEARNING_RATE": 0.001, "HEAD": "conv_max", "VIEWS": 2}
    first = list(judge.folds(as_it_is))
    other = list(judge.folds({"LEARNING_RATE": 0.01, "HEAD": "conv_max", "VIEWS": 1}))
    average = list(judge.folds({"LEARNING_RATE": 0.001, "HEAD": "average", "VIEWS": 2}))
    assert list(judge.folds(as_it_is)) == first
    assert len({fold["loss"] for result in (first, other, average) for fold in result}) == 9

    # The same folds by hand, with the model that training takes.
    training = manager.training()
    entries = [entry for entry in manifest.entries if entry.split in ("train", "validation")]
    labels, groups = manifest.labels(entries), np.array([entry.group for entry in entries])
    _, tail, _, cache = load_network(training)
    items = [(entry, views_of(entry.sha256, training.augmentation)) for entry in entries]
    runner = FoldRunner(
        config.crossvalidation, tail, image_features(cache, items, training), labels, groups, 0
    )
    for fold, parts in zip(
        first, grouped_folds(labels, groups, 4, training.fit.seed), strict=False
    ):
        outcome = runner.run(*parts, Run())
        own = np.take_along_axis(outcome.probabilities, labels[parts[2]][:, None], 1)
        assert fold["loss"] == pytest.approx(float(-np.log(own).mean()), abs=1e-5)


def test_backbones_and_blocks_each_have_features_of_their_own(place):
    config = ConfigurationManager().search()
    manifest = Manifest.read(config.crossvalidation.training.manifest_path)
    blocks = config.model_copy(
        update={"folds": 1, "space": {"FINE_TUNE_FROM": Choice((None, "block3"))}}
    )
    judge = Judge(blocks, manifest)
    values = [
        next(judge.folds({"FINE_TUNE_FROM": block}))["loss"] for block in (None, "block3", None)
    ]
    assert values[0] == values[2] != values[1]
    backbones = config.model_copy(
        update={"folds": 1, "space": {"BACKBONE": Choice(("VGG16", "MobileNetV2"))}}
    )
    judge = Judge(backbones, manifest)
    assert next(judge.folds({"BACKBONE": "MobileNetV2"}))["loss"] != values[0]
    assert next(judge.folds({"BACKBONE": "VGG16"}))["loss"] == values[0]
    assert prepared_as(backbones, "MobileNetV2").feature_layer == "auto"
    wrong = config.model_copy(update={"space": {"FINE_TUNE_FROM": Choice((None, "block9"))}})
    with pytest.raises(
        ConfigError, match=r"search\.yaml: space, with block9 and VGG16: .* from block2, block3"
    ):
        Judge(wrong, manifest)


def test_other_data_or_settings_are_another_study_and_what_is_searched_is_not(place):
    config = ConfigurationManager().search()
    name = study_name(config)
    assert (
        study_name(
            config.model_copy(
                update={"params": config.params | {"LEARNING_RATE": 1, "FOLD_SEEDS": [1]}}
            )
        )
        == name
    )
    others = [
        config.model_copy(update={"params": config.params | {"DROPOUT": 0.5}}),
        config.model_copy(update={"metric": "roc_auc"}),
        config.model_copy(update={"folds": 2}),
        config.model_copy(update={"space": config.space | {"HEAD": Choice(("flatten",))}}),
    ]
    assert len({name, *map(study_name, others)}) == 5


@pytest.fixture
def nobodys_port():
    with reserved_port() as port:
        yield port


def start(folder, *words, **environment):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), "search", *words],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def search(folder, *words, **environment):
    process = start(folder, *words, **environment)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    return said


@pytest.mark.parametrize(
    "storage", ["sqlite:///artifacts/search/study.db", "journal:///artifacts/search/study.log"]
)
def test_two_processes_one_killed_then_apply(place, nobodys_port, storage):
    text = (place / "params.yaml").read_text(encoding="utf-8")
    doomed = start(
        place, SEARCH_STORAGE=storage, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{nobodys_port}"
    )
    other = start(
        place, "--n-trials", "5", SEARCH_STORAGE=storage
    )  # however fast it is, it leaves one
    try:
        assert any(re.match(r"trial \d+, \d of 6 done", line) for line in doomed.stderr)
        doomed.send_signal(signal.SIGKILL)
        _, said = other.communicate(timeout=PATIENCE_S)
        assert other.returncode == 0, said
    finally:
        doomed.kill()
        doomed.communicate()
        other.kill()
    search(place, SEARCH_STORAGE=storage)
    page = (place / "artifacts/search/report.html").read_text(encoding="utf-8")
    rows = re.findall(r'<tr class="\w*"><td>(\d+)</td>(.*?)</tr>', page, flags=re.DOTALL)
    assert len(rows) == 6
    assert len({re.sub(r"\s+", " ", row).split("</td> <td>")[-1] for _, row in rows}) == 6

    said = search(place, "--apply", SEARCH_STORAGE=storage)
    assert "has 6 of 6 trials" in said
    assert "trial 6" not in said.replace("best: trial 6", "")
    assert "MLflow" not in said
    applied = (place / "params.yaml").read_text(encoding="utf-8")
    assert [line.partition("#")[2] for line in applied.splitlines()] == [
        line.partition("#")[2] for line in text.splitlines()
    ]
    best = dict(
        re.findall(
            r"^\+(\w+): (\S+)",
            (place / "artifacts/search/best.diff").read_text(),
            flags=re.MULTILINE,
        )
    )
    assert yaml.safe_load(applied) == yaml.safe_load(text) | {
        key: yaml.safe_load(v) for key, v in best.items()
    }
    search(place, "--apply", SEARCH_STORAGE=storage)
    assert (place / "params.yaml").read_text(encoding="utf-8") == applied
    assert (place / "artifacts/search/best.diff").read_text(encoding="utf-8") == ""
    (place / "params.yaml").write_text(text, encoding="utf-8")


def test_each_trial_is_a_child_run_and_a_longer_search_goes_on(place):
    from mlflow import MlflowClient

    storage = "sqlite:///artifacts/search/tracked.db"
    search(
        place, "--n-trials", "2", SEARCH_STORAGE=storage, MLFLOW_TRACKING_URI="sqlite:///tracked.db"
    )
    search(
        place,
        "--timeout",
        "0.001",
        SEARCH_STORAGE=storage,
        MLFLOW_TRACKING_URI="sqlite:///tracked.db",
    )
    said = search(
        place, "--n-trials", "3", SEARCH_STORAGE=storage, MLFLOW_TRACKING_URI="sqlite:///tracked.db"
    )
    assert "has 2 of 3 trials" in said
    client = MlflowClient("sqlite:///tracked.db")
    (experiment,) = (
        e.experiment_id for e in client.search_experiments(filter_string="name = 'chest-ct'")
    )
    runs = client.search_runs([experiment])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run not in parents]
    assert len(parents) == 1
    assert len(children) == 3
    for run in children:
        assert run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
        assert {"LEARNING_RATE", "HEAD", "VIEWS"} == run.data.params.keys()
        assert {"loss", "fold_loss", "roc_auc"} <= run.data.metrics.keys()
        assert run.info.status == "FINISHED"
    names = {path.path for path in client.list_artifacts(parents[0].info.run_id, "search")}
    assert names == {"search/report.html", "search/best.diff"}
