import copy
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from cnnClassifier.config.configuration import ConfigurationManager
from cnnClassifier.config.schema import SEARCHED
from cnnClassifier.entity.config_entity import Between, Choice
from cnnClassifier.utils.errors import ConfigError
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = {
    "config": yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8")),
    "params": yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")),
}
STAGES = (
    "data_ingestion",
    "data_validation",
    "prepare_base_model",
    "training",
    "evaluation",
    "crossvalidation",
    "search",
    "serving",
)

# Another valid value of every key. A new key needs one here, and must show in what a stage is handed.
OTHER = {
    "config": {
        "log_file": "elsewhere.log",
        "data_ingestion.source_URL": "https://example.org/data.zip",
        "data_ingestion.source_sha256": "0123456789abcdefABCDEF" + "0" * 42,
        "data_ingestion.classes": {"ill": "ill*", "well": "well"},
        "data_ingestion.download_dir": "elsewhere",
        "data_ingestion.data_dir": "elsewhere",
        "data_ingestion.max_unpacked_bytes": 1,
        "data_ingestion.connect_timeout_s": 0.5,
        "data_ingestion.read_timeout_s": 1,
        "data_ingestion.retries": 0,
        "data_validation.manifest_path": "elsewhere.csv",
        "data_validation.report_path": "elsewhere.json",
        "data_validation.group_pattern": None,
        "data_validation.near_duplicate_correlation": 1,
        "data_validation.conflicts": "leave_out",
        "data_validation.split": "as_given",
        "data_validation.shortcut_warning_auc": 0.5,
        "data_validation.min_side": 1,
        "data_validation.joblib_backend": "loky",
        "data_validation.max_pixels": 1,
        "prepare_base_model.base_model_path": "elsewhere.keras",
        "prepare_base_model.updated_base_model_path": "elsewhere.keras",
        "prepare_base_model.weights_cache": "elsewhere",
        "prepare_base_model.imagenet_sources": ["weights.onnx"],
        "training.bundle_dir": "elsewhere",
        "training.cache_dir": "elsewhere",
        "training.int8": False,
        "crossvalidation.root_dir": "elsewhere",
        "search.root_dir": "elsewhere",
        "search.storage": "journal:///elsewhere.log",
        "search.stale_after_s": 5,
        "evaluation.root_dir": "elsewhere",
        "evaluation.mlflow_uri": "http://127.0.0.1:5000",
        "evaluation.experiment": "another",
        "evaluation.registered_model": "another",
        "evaluation.bootstrap_samples": 100,
        "evaluation.gallery": 0,
        "gates.min_images_per_class": None,
        "gates.min_groups_per_class": 1,
        "gates.no_leakage": False,
        "gates.min_roc_auc": None,
        "gates.min_roc_auc_lower_bound": 0,
        "gates.max_shortcut_auc": None,
        "gates.max_ece": 1,
        "gates.on_failure": "stop",
        "serving.host": "0.0.0.0",
        "serving.port": 0,
        "serving.int8": False,
        "serving.max_upload_bytes": 1,
        "serving.max_pixels": 1,
        "serving.max_images": 1,
        "serving.max_concurrent_requests": 200,
        "serving.max_queued_requests": 0,
        "serving.request_timeout_s": 1,
        "serving.rate_limit": None,
        "serving.uncertain_margin": 0,
        "serving.trusted_proxy": "127.0.0.1",
        "serving.cors_origins": ["https://example.org"],
        "serving.model_cache": "elsewhere",
        "serving.model_poll_interval_s": 1,
        "serving.show_reports": False,
    },
    "params": {
        "SEED": 0,
        "CLASSES": 3,
        "POSITIVE_CLASS": "normal",
        "MIN_SENSITIVITY": 0.95,
        "OOD_QUANTILE": 0.9,
        "SPLIT": [0.5, 0.25, 0.25],
        "FOLDS": 3,
        "FOLD_SEEDS": [1, 2],
        "BACKBONE": "ResNet50",
        "IMAGE_SIZE": [32, 64, 3],
        "DICOM_WINDOW": [-600, 1500],
        "INCLUDE_TOP": True,
        "WEIGHTS": None,
        "FEATURE_LAYER": "auto",
        "FINE_TUNE_FROM": "block4",
        "HEAD": "average",
        "DROPOUT": 0,
        "EPOCHS": 1,
        "PATIENCE": 1,
        "BATCH_SIZE": 1,
        "LEARNING_RATE": 1,
        "CLASS_WEIGHTS": None,
        "PRECISION": "float32",
        "AUGMENTATION": False,
        "VIEWS": 1,
        "ROTATION_RANGE": 0,
        "SHIFT_RANGE": 0,
        "SHEAR_RANGE": 0,
        "ZOOM_RANGE": 0,
        "HORIZONTAL_FLIP": False,
    },
}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "SEARCH_STORAGE", "HOST", "PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def files(tmp_path):
    """Write both files, with changes by dotted key, and return their paths."""

    def write(which=None, changes=None, removed=None):
        shutil.copy(ROOT / "config/search.yaml", tmp_path)
        paths = {}
        for name, shipped in SHIPPED.items():
            content = copy.deepcopy(shipped)
            for key, value in (changes or {}).items() if name == which else ():
                *above, leaf = key.split(".")
                section = content
                for part in above:
                    section = section[part]
                section[leaf] = value
            if name == which and removed:
                del content[removed]
            paths[name] = tmp_path / f"{name}.yaml"
            paths[name].write_text(yaml.safe_dump(content), encoding="utf-8")
        return paths["config"], paths["params"]

    return write


def leaves(content, prefix=""):
    """Every dotted key that a rule of its own belongs to."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def shown(manager):
    """All that the stages are handed, without the copy of params.yaml that is merely logged."""
    entities = {stage: getattr(manager, stage)() for stage in STAGES}
    tracking = replace(entities["evaluation"].tracking, params={})
    entities["evaluation"] = replace(entities["evaluation"], tracking=tracking)
    entities["search"] = replace(entities["search"], params={})
    return {
        "log_file": manager.log_file,
        **{stage: asdict(entity) for stage, entity in entities.items()},
    }


def test_every_key_has_another_value_here():
    assert {name: set(leaves(content)) for name, content in SHIPPED.items()} == {
        name: set(values) for name, values in OTHER.items()
    }


@pytest.mark.parametrize(
    ("which", "key"), [(which, key) for which, values in OTHER.items() for key in values]
)
def test_every_key_changes_something(files, which, key):
    before = shown(ConfigurationManager(*files()))
    paths = files(which, {key: OTHER[which][key]})
    if key == "INCLUDE_TOP":  # its one effect: True is refused with the reason
        with pytest.raises(
            ConfigError, match=r"params\.yaml: INCLUDE_TOP: expected False; .*CLASSES"
        ):
            ConfigurationManager(*paths)
        return
    assert shown(ConfigurationManager(*paths)) != before


def test_the_environment_goes_before_the_file(files, monkeypatch):
    manager = ConfigurationManager(*files())
    assert manager.tracking().params == SHIPPED["params"]
    for name, value in {
        "MLFLOW_TRACKING_URI": "http://there",
        "HOST": "0.0.0.0",
        "PORT": "81",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SEARCH_STORAGE", "postgresql://me:secret@there/studies")
    assert manager.search().storage == "postgresql://me:secret@there/studies"
    monkeypatch.setenv("SEARCH_STORAGE", "study.db")
    with pytest.raises(
        ConfigError, match=r"SEARCH_STORAGE: expected sqlite:///PATH, journal:///PATH or postgresql"
    ):
        manager.search()
    assert (manager.tracking().uri, manager.serving().host, manager.serving().port) == (
        "http://there",
        "0.0.0.0",
        81,
    )
    for wrong in ("http", "-1", "65536", "8.5"):
        monkeypatch.setenv("PORT", wrong)
        with pytest.raises(ConfigError, match="PORT: expected a whole number from 0 to 65535"):
            manager.serving()


@pytest.mark.parametrize(
    ("which", "key", "value", "expected"),
    [
        # a number where a flag, text or list is expected, and the other way round
        ("params", "SEED", "42", "a whole number from 0 to 2147483647, found '42'"),
        ("params", "SEED", 1.0, "a whole number"),
        ("params", "SEED", True, "a whole number"),
        ("params", "DROPOUT", False, "a number from 0 to 0.95, found False"),
        ("params", "DROPOUT", None, "a number from 0 to 0.95, found None"),
        ("params", "AUGMENTATION", 1, "True or False, found 1"),
        ("params", "HORIZONTAL_FLIP", "yes please", "True or False"),
        ("params", "INCLUDE_TOP", 0, "True or False"),
        ("params", "POSITIVE_CLASS", " ", "text"),
        ("params", "WEIGHTS", 5, "text, or null"),
        ("params", "CLASS_WEIGHTS", True, "one of balanced, or null"),
        # out of range
        ("params", "SEED", -1, "a whole number"),
        ("params", "SEED", 2**31, "a whole number"),
        ("params", "CLASSES", 1, "a whole number from 2 to 1000"),
        ("params", "DROPOUT", 0.96, "a number"),
        ("params", "LEARNING_RATE", 0, "a number from 1e-08 to 10"),
        ("params", "LEARNING_RATE", float("nan"), "a number"),
        ("params", "LEARNING_RATE", float("inf"), "a number"),
        ("params", "EPOCHS", 0, "a whole number from 1"),
        ("params", "ZOOM_RANGE", 1, "a number from 0 to 0.9"),
        # one of several, several of one
        ("params", "BACKBONE", "vgg16", "one of VGG16, VGG19"),
        ("params", "BACKBONE", ["VGG16"], "one of VGG16, VGG19"),
        ("params", "HEAD", "dense", "one of conv_max, average, flatten, found 'dense'"),
        ("params", "SPLIT", [0.6, 0.4], "three numbers above 0 that sum to 1"),
        ("params", "SPLIT", [0.6, 0.4, 0], "three numbers above 0"),
        ("params", "SPLIT", [0.6, 0.2, 0.1], "three numbers above 0"),
        ("params", "SPLIT", ["0.6", 0.2, 0.2], "three numbers above 0"),
        ("params", "SPLIT", 0.6, "three numbers above 0"),
        (
            "params",
            "IMAGE_SIZE",
            [224, 224],
            "[height, width, 3], sides from 32 to 1024, found [224, 224]",
        ),
        ("params", "IMAGE_SIZE", [224, 224, 1], "[height, width, 3]"),
        ("params", "IMAGE_SIZE", [31, 224, 3], "[height, width, 3]"),
        (
            "params",
            "DICOM_WINDOW",
            "brain",
            "one of auto, lung, mediastinal, bone, or [centre, width] in HU",
        ),
        ("params", "DICOM_WINDOW", [40, 0], "one of auto, lung"),
        ("params", "IMAGE_SIZE", [224, True, 3], "[height, width, 3]"),
        ("config", "gates.on_failure", True, "one of stop, warn, found True"),
        ("config", "gates.min_roc_auc", 1.1, "a number from 0 to 1, or null"),
        ("config", "serving.port", 65536, "a whole number from 0 to 65535"),
        ("config", "serving.cors_origins", "https://example.org", "a list; its items: text"),
        ("config", "serving.cors_origins", [1], "a list; its items: text"),
        ("config", "prepare_base_model.imagenet_sources", [], "a list; its 1 or more items: text"),
        ("config", "data_ingestion.source_sha256", "abc", "64 hexadecimal digits, or null"),
        ("config", "data_ingestion.classes", {}, "names with values, each text, or null"),
        ("config", "data_ingestion.classes", {"a": 1}, "names with values"),
        ("config", "data_ingestion.classes", {1: "a"}, "names with values"),
        (
            "config",
            "data_validation.group_pattern",
            "patient",
            "a regular expression with a group (?P<group>…)",
        ),
        ("config", "data_validation.group_pattern", "(?P<group>", "a regular expression"),
        ("config", "data_validation.near_duplicate_correlation", 2, "a number from 0 to 1"),
        ("config", "data_validation.max_pixels", 10**9, "a whole number from 1 to 178956970"),
        ("config", "serving", [1], "a section: host, port,"),
        ("config", "log_file", {"a": "b"}, "text, found {'a': 'b'}"),
        # keys that should not be there
        ("params", "SEEDS", 1, "unknown key; expected one of SEED, CLASSES"),
        ("config", "serving.ports", 1, "unknown key; expected one of host, port"),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_what_was_expected(
    files, which, key, value, expected
):
    paths = files(which, {key: value})
    with pytest.raises(ConfigError) as caught:
        ConfigurationManager(*paths)
    message = str(caught.value)
    word = "" if expected.startswith("unknown") else "expected "
    assert message.startswith(f"{paths[which == 'params']}: {key}: {word}{expected}")
    assert "\n" not in message
    assert len(message) < 600


@pytest.mark.parametrize(
    ("which", "key"), [(which, key) for which, content in SHIPPED.items() for key in content]
)
def test_a_missing_key_is_named(files, which, key):
    paths = files(which, removed=key)
    with pytest.raises(ConfigError) as caught:
        ConfigurationManager(*paths)
    assert str(caught.value).startswith(f"{paths[which == 'params']}: {key}: missing; expected ")


def search_file(path, **changes):
    """Write search.yaml with changes by key, those of the space by theirs."""
    content = yaml.safe_load((ROOT / "config/search.yaml").read_text(encoding="utf-8"))
    for key, value in changes.items():
        (content if key in content else content["space"])[key] = value
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def test_a_space_is_lists_and_ranges_and_null_is_not_searched(files, tmp_path):
    manager = ConfigurationManager(*files())
    search_file(
        tmp_path / "search.yaml",
        LEARNING_RATE={"low": 0.001, "high": 1, "log": True},
        BATCH_SIZE={"low": 4, "high": 12, "step": 4},
        FINE_TUNE_FROM=[None, "block4"],
        VIEWS=None,
    )
    space = manager.search().space
    assert space.keys() == {"LEARNING_RATE", "BATCH_SIZE", "HEAD", "DROPOUT", "FINE_TUNE_FROM"}
    assert space["LEARNING_RATE"] == Between(0.001, 1, True, None, False)
    assert space["BATCH_SIZE"] == Between(4, 12, False, 4, True)
    assert space["FINE_TUNE_FROM"] == Choice((None, "block4"))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("trials", 0, "expected a whole number from 1 to 1000000, found 0"),
        ("metric", "f1", "expected one of loss, roc_auc, balanced_accuracy, found 'f1'"),
        ("folds", 6, "expected at most FOLDS: 5 in params.yaml, found 6"),
        ("SPLIT", [0.5], "unknown key; expected one of BACKBONE, FINE_TUNE_FROM"),
        (
            "LEARNING_RATE",
            0.1,
            "null, or a list of different values, or {low, high} with log: true or a step, each a number",
        ),
        ("LEARNING_RATE", {"low": 0.1, "high": 0.1}, "null, or a list"),
        ("LEARNING_RATE", {"low": 0, "high": 0.1}, "null, or a list"),
        ("LEARNING_RATE", {"low": 0.1, "hi": 1}, "null, or a list"),
        ("LEARNING_RATE", {"low": "0.1", "high": 1}, "null, or a list"),
        ("DROPOUT", {"low": 0.0, "high": 0.5, "log": True}, "null, or a list"),
        ("DROPOUT", {"high": 0.5}, "null, or a list"),
        ("DROPOUT", {"low": 0.1, "high": 0.5, "log": True, "step": 0.1}, "null, or a list"),
        ("DROPOUT", {"low": 0.1, "high": 0.5, "step": 1}, "null, or a list"),
        ("DROPOUT", [], "null, or a list of different values"),
        ("DROPOUT", [0.1, 0.1], "null, or a list of different values"),
        ("DROPOUT", [0.1, 1.5], "null, or a list of different values"),
        ("BATCH_SIZE", {"low": 4, "high": 8, "step": 0.5}, "each a whole number from 1 to 4096"),
        (
            "HEAD",
            ["dense"],
            "a list of different values, each one of conv_max, average, flatten, found ['dense']",
        ),
        (
            "HEAD",
            {"low": 1, "high": 2},
            "null, or a list of different values, each one of conv_max",
        ),
    ],
)
def test_a_wrong_space_is_named(files, tmp_path, key, value, expected):
    manager = ConfigurationManager(*files())
    search_file(tmp_path / "search.yaml", **{key: value})
    with pytest.raises(ConfigError) as caught:
        manager.search()
    message = str(caught.value)
    place = key if key.islower() else f"space.{key}"
    assert message.startswith(f"{tmp_path / 'search.yaml'}: {place}: ")
    assert expected in message


def test_a_space_has_what_has_an_effect(files, tmp_path):
    manager = ConfigurationManager(*files("params", {"AUGMENTATION": False}))
    assert "VIEWS" not in manager.search().space
    search_file(tmp_path / "search.yaml", space=dict.fromkeys(SEARCHED))
    with pytest.raises(ConfigError, match="space: expected something to try; every key is null"):
        manager.search()


@pytest.mark.parametrize(
    ("option", "content", "said"),
    [
        ("--params", "INCLUDE_TOP: True", "INCLUDE_TOP: expected False"),
        (
            "--params",
            "BATCH_SIZE: True",
            "BATCH_SIZE: expected a whole number from 1 to 4096, found True",
        ),
        ("--config", "", "found nothing"),
        ("--config", "- a list", "found a list"),
        ("--config", None, "no such file; name another with --config or --params"),
        ("--config", "log_file: blocked/run.log", "blocked/run.log: can't be written"),
    ],
)
def test_the_command_line_ends_in_one_line_and_code_1(files, tmp_path, option, content, said):
    paths = dict(zip(("--config", "--params"), map(str, files()), strict=True))
    (tmp_path / "blocked").touch()
    if content is None:
        paths[option] = "nowhere.yaml"
    elif ": " in content:
        key, value = content.split(": ")
        paths = dict(
            zip(paths, map(str, files(option[2:], {key: yaml.safe_load(value)})), strict=True)
        )
    else:
        Path(paths[option]).write_text(content)
    command = [sys.executable, str(ROOT / "main.py"), "--only", "data_validation"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*command, *(word for pair in paths.items() for word in pair)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "logs").exists()


def test_a_stages_own_error_is_one_line_with_the_traceback_in_the_log(files, tmp_path):
    config, params = files()
    command = [
        sys.executable,
        str(ROOT / "main.py"),
        "--only",
        "data_validation",
        "--config",
        config,
        "--params",
        params,
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 1
    assert done.stderr == (
        "error: data_validation: artifacts/data_ingestion/data: no image inside; run data_ingestion first\n"
    )
    assert "Traceback" in (tmp_path / "logs/running.log").read_text()
