import re
from pathlib import Path

import pytest
import yaml
from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo

from cnnClassifier.config.configuration import (
    RENAMED_KEYS,
    USERS,
    ConfigurationManager,
    expected_value,
)
from cnnClassifier.config.reference import render_reference
from cnnClassifier.entity.config_entity import (
    SEARCHABLE,
    Between,
    Choice,
    DistributedConfig,
    FitConfig,
)
from cnnClassifier.utils.errors import ConfigError
from tests.project import FILES, ROOT, read_settings

PARAMS = read_settings("params")


@pytest.fixture(autouse=True)
def no_overrides(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "SEARCH_STORAGE", "HOST", "PORT", "CNN_PROCESSES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def write(tmp_path):
    """Write the three files, with changes by dotted key; return the paths of two of them."""

    def make(removed="", **changes):
        for name in FILES:
            content = read_settings(name)
            for key, value in (changes.get(name, {}) | {removed: None}).items():
                section, _, leaf = key.rpartition(".")
                part = content.get(section, {}) if section else content
                part[leaf] = value
                if key == removed:
                    del part[leaf]
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        return tmp_path / "config.yaml", tmp_path / "params.yaml"

    return make


def file_of(key):
    return "params" if key.isupper() else "config"


def test_settings_have_the_values_of_the_files(write, monkeypatch, tmp_path):
    config = {
        "log_file": "logs/a.log",
        "data_ingestion.classes": {"ill": "ill*"},
        "prepare_base_model.weights_cache": "~/weights",
        "training.cache_dir": ".cache/a",
        "serving.max_concurrent_requests": None,
        "gates.on_failure": "stop",
    }
    params = {
        **{"DICOM_WINDOW": [-600, 1500], "IMAGE_SIZE": [64, 96, 3], "AUGMENTATION": False},
        **{"LEARNING_RATE": 1, "FINE_TUNE_FROM": "block4"},
    }
    manager = ConfigurationManager(*write(config=config, params=params))
    assert manager.log_file == Path("logs/a.log")
    assert manager.data_ingestion().class_patterns == {"ill": "ill*"}
    assert manager.prepare_base_model().weights_cache == Path.home() / "weights"
    assert manager.serving().max_concurrent_requests >= 2
    assert manager.evaluation().gates.stops
    assert manager.tracking().params == PARAMS | params
    training = manager.training()
    assert manager.search().training == training
    assert (training.dicom_window, training.image_size) == ("-600,1500", (64, 96, 3))
    assert (training.augmentation.views, training.fit.learning_rate) == (1, 1.0)
    # An experiment that DVC runs in a copy shares caches and downloads with its clone.
    experiment = tmp_path / ".dvc/tmp/exps/tmp1"
    experiment.mkdir(parents=True)
    monkeypatch.chdir(experiment)
    assert manager.training() == training.model_copy(update={"cache_dir": tmp_path / ".cache/a"})


def test_settings_are_frozen_and_strict():
    fit = FitConfig(
        epochs=1, patience=1, batch_size=1, learning_rate=0.1, class_weights=None, seed=0
    )
    assert fit.model_copy(update={"epochs": 2}).epochs == 2
    with pytest.raises(ValidationError, match="frozen"):
        fit.epochs = 2
    for wrong in ({"epochs": True}, {"epochs": "1"}, {"epochs": 1.0}, {"eopchs": 1}):
        with pytest.raises(ValidationError):
            FitConfig(**fit.model_dump() | wrong)


def test_environment_variables_override_the_files(write, monkeypatch):
    manager = ConfigurationManager(*write())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there")
    monkeypatch.setenv("HOST", "0.0.0.0")
    monkeypatch.setenv("PORT", "81")
    monkeypatch.setenv("SEARCH_STORAGE", "postgresql://me:secret@there/studies")
    serving = manager.serving()
    assert (manager.tracking().uri, serving.host, serving.port) == ("http://there", "0.0.0.0", 81)
    assert manager.evaluation().tracking.uri == "http://there"
    assert manager.search().storage == "postgresql://me:secret@there/studies"
    for wrong in ("http", "-1", "65536", "8.5"):
        monkeypatch.setenv("PORT", wrong)
        with pytest.raises(
            ConfigError, match=r"^environment: PORT: expected a whole number from 0 to 65535, found"
        ):
            manager.serving()
    monkeypatch.setenv("CNN_PROCESSES", "2")
    with pytest.raises(ConfigError, match=r"distributed\.coordinator: expected HOST:PORT"):
        manager.training()
    monkeypatch.setenv("CNN_COORDINATOR", "there:8476")
    monkeypatch.setenv("CNN_PROCESS", "2")
    with pytest.raises(ConfigError, match="CNN_PROCESS: expected a whole number from 0, and below"):
        manager.training()
    monkeypatch.setenv("CNN_PROCESS", "1")
    assert manager.training().distributed == DistributedConfig(
        processes=2, process=1, coordinator="there:8476"
    )
    monkeypatch.setenv("SEARCH_STORAGE", "postgres://me:secret@there/studies")
    with pytest.raises(ConfigError, match=r"found 'postgres://there/studies'$"):
        manager.search()
    monkeypatch.setenv("SEARCH_STORAGE", "study.db")
    with pytest.raises(ConfigError, match="SEARCH_STORAGE: expected sqlite:///PATH, journal:///"):
        manager.search()
    # Only the commands that use a variable stop.
    ConfigurationManager(*write()).training()


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        # another type
        ("SEED", "42", "a whole number from 0 to 2147483647, found '42'"),
        ("SEED", 1.0, "a whole number"),
        ("SEED", True, "a whole number"),
        ("DROPOUT", False, "a number from 0 to 0.95, found False"),
        ("DROPOUT", None, "a number from 0 to 0.95, found None"),
        ("AUGMENTATION", 1, "True or False, found 1"),
        ("HORIZONTAL_FLIP", "yes please", "True or False"),
        ("INCLUDE_TOP", True, "False; True would keep the 1000 classes of ImageNet"),
        ("POSITIVE_CLASS", " ", "text"),
        ("WEIGHTS", 5, "text, or null"),
        ("CLASS_WEIGHTS", True, "one of balanced, or null"),
        ("BACKBONE", ["VGG16"], "one of VGG16, VGG19"),
        ("SPLIT", ["0.6", 0.2, 0.2], "two numbers that sum to 1: train and test, or three"),
        ("SPLIT", 0.6, "two numbers that sum to 1"),
        ("IMAGE_SIZE", [224, True, 3], "[height, width, 3]"),
        ("gates.on_failure", True, "one of stop, warn, found True"),
        ("serving.cors_origins", "https://example.org", "a list; its items: text"),
        ("serving.cors_origins", [1], "a list; its items: text"),
        ("data_ingestion.classes", {"a": 1}, "names with values, each text, or null"),
        ("data_ingestion.classes", {1: "a"}, "names with values"),
        ("data_ingestion.data_dir", " ", "text"),
        ("evaluation.root_dir", None, "text"),
        ("log_file", {"a": "b"}, "text, found {'a': 'b'}"),
        ("serving", [1], "a section with keys, found [1]"),
        # outside of the limits
        ("SEED", -1, "a whole number"),
        ("CLASSES", 1, "auto, or a whole number from 2 to 1000"),
        ("DROPOUT", 0.96, "a number"),
        ("LEARNING_RATE", 0, "a number from 1e-08 to 10"),
        ("LEARNING_RATE", float("nan"), "a number"),
        ("LEARNING_RATE", float("inf"), "a number"),
        ("BACKBONE", "vgg16", "one of VGG16, VGG19"),
        ("HEAD", "dense", "one of auto, conv_max, linear, average, flatten, found 'dense'"),
        ("SPLIT", [0.6, 0.3], "two numbers that sum to 1"),
        ("SPLIT", [0.0, 1.0], "two numbers that sum to 1"),
        ("SPLIT", [0.6, 0.4, 0], "two numbers that sum to 1"),
        ("SPLIT", [0.6, 0.2, 0.1], "two numbers that sum to 1"),
        ("IMAGE_SIZE", [224, 224], "[height, width, 3], sides from 32 to 1024, found [224, 224]"),
        ("IMAGE_SIZE", [224, 224, 1], "[height, width, 3]"),
        ("IMAGE_SIZE", [31, 224, 3], "[height, width, 3]"),
        ("DICOM_WINDOW", "brain", "one of auto, lung, mediastinal, bone, or [centre, width] in HU"),
        ("DICOM_WINDOW", [40, 0], "one of auto, lung"),
        ("DICOM_WINDOW", [40, None], "one of auto, lung"),
        ("gates.min_roc_auc", 1.1, "a number from 0 to 1, or null"),
        ("serving.port", 65536, "a whole number from 0 to 65535"),
        ("serving.rate_limit", "fast", "a rate such as 600/minute, or null"),
        ("serving.frame_ancestors", ["https://a.org; x"], "a list of origins, such as https://"),
        ("prepare_base_model.imagenet_sources", [], "a list; its 1 or more items: text"),
        ("data_ingestion.source_sha256", "abc", "64 hexadecimal digits, or null"),
        ("data_ingestion.classes", {}, "names with values, each text, or null"),
        ("data_validation.group_pattern", "patient", "a regular expression with a group (?P<g"),
        ("data_validation.group_pattern", "(?P<group>", "a regular expression"),
        ("data_validation.max_pixels", 10**9, "a whole number from 1 to 178956970"),
        ("search.storage", "study.db", "sqlite:///PATH, journal:///PATH or postgresql://…"),
    ],
)
def test_an_invalid_value_is_reported_with_file_key_and_expected_value(write, key, value, expected):
    paths = write(**{file_of(key): {key: value}})
    with pytest.raises(ConfigError, match=r"(?s)^.{,599}$") as caught:
        ConfigurationManager(*paths)
    message = str(caught.value)
    assert message.startswith(f"{paths[key.isupper()]}: {key}: expected {expected}")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("SEEDS", ": unknown key; the most similar are SEED, "),
        ("serving.ports", ": unknown key; the most similar are serving.port, "),
        ("services", ": unknown key; the most similar are serving"),
        *((key, f" was {hint}") for key, hint in RENAMED_KEYS.items()),
    ],
)
def test_an_unknown_or_renamed_key_is_reported(write, key, expected):
    file = "search" if key == "folds" else file_of(key)
    with pytest.raises(ConfigError, match=rf"{file}\.yaml: {key}{expected}"):
        ConfigurationManager(*write(**{file: {key: 1}})).search()


def test_the_new_names_of_renamed_keys_exist():
    known = {key for _, entity in USERS for key in entity.fields_by_key()}
    assert known.isdisjoint(RENAMED_KEYS)
    for key, hint in RENAMED_KEYS.items():
        new_name = re.sub(r"\w+$", hint.split()[2].rstrip(","), key)
        assert new_name in known or hint.split()[-1] in known or hint.startswith("removed: ")


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("log_file", "text"),
        ("serving.max_images", "a whole number from 1 to 1000"),
        ("evaluation.root_dir", "text"),
        ("INCLUDE_TOP", "False"),
        ("EPOCHS", "a whole number from 1"),
    ],
)
def test_a_missing_key_is_reported(write, key, expected):
    message = rf"{file_of(key)}\.yaml: {key}: missing; expected {expected}"
    with pytest.raises(ConfigError, match=message):
        ConfigurationManager(*write(removed=key))


@pytest.mark.parametrize(
    ("annotation", "limits", "expected"),
    [
        (float, {"gt": 0, "lt": 1}, "a number above 0 below 1"),
        (int, {"ge": 1}, "a whole number from 1"),
        (str, {"pattern": "^a+$"}, "text matching ^a+$"),
        (float | None, {"le": 2}, "a number to 2, or null"),
        (list[bool], {}, "a list; its items: True or False"),
    ],
)
def test_limits_are_described_in_words(annotation, limits, expected):
    assert (
        expected_value(FieldInfo.from_annotated_attribute(annotation, Field(**limits))) == expected
    )


def test_a_search_space_has_lists_and_ranges(write):
    space = {
        "LEARNING_RATE": {"low": 0.001, "high": 1, "log": True},
        "BATCH_SIZE": {"low": 4, "high": 12, "step": 4},
        "HEAD": ["average"],
        "DROPOUT": None,
        "VIEWS": [1, 2],
        "FINE_TUNE_FROM": [None, "block4"],
        "BACKBONE": None,
    }
    changes = {"space": space, "trials": 7}
    paths = write(search=changes, params={"AUGMENTATION": True})
    manager = ConfigurationManager(*paths)
    search = manager.search()
    assert search.space == {
        "LEARNING_RATE": Between(0.001, 1, True, None, False),
        "BATCH_SIZE": Between(4, 12, False, 4, True),
        "HEAD": Choice(("average",)),
        "VIEWS": Choice((1, 2)),
        "FINE_TUNE_FROM": Choice((None, "block4")),
    }
    assert (search.trials, search.params, search.params_path) == (7, manager.params, paths[1])
    assert search.prepare == manager.prepare_base_model()
    write(search=changes, params={"AUGMENTATION": False})
    assert "VIEWS" not in ConfigurationManager(*paths).search().space  # it has no effect
    write(search={"space": dict.fromkeys(SEARCHABLE)})
    with pytest.raises(ConfigError, match="space: expected values to try, but every key is null"):
        ConfigurationManager(*paths).search()


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("trials", 0, "expected a whole number from 1 to 1000000, found 0"),
        ("metric", "f1", "expected one of loss, roc_auc, balanced_accuracy, found 'f1'"),
        ("space.SPLIT", [0.5], "unknown key; the most similar are space."),
        ("space.LEARNING_RATE", 0.1, "or {low, high} with log: true or a step, each a number"),
        ("space.LEARNING_RATE", {"low": 0.1, "high": 0.1}, "null, or a list"),
        ("space.LEARNING_RATE", {"low": 0, "high": 0.1}, "null, or a list"),
        ("space.LEARNING_RATE", {"low": 0.1, "hi": 1}, "null, or a list"),
        ("space.LEARNING_RATE", {"low": "0.1", "high": 1}, "null, or a list"),
        ("space.DROPOUT", {"low": 0.0, "high": 0.5, "log": True}, "null, or a list"),
        ("space.DROPOUT", {"high": 0.5}, "null, or a list"),
        ("space.DROPOUT", {"low": 0.1, "high": 0.5, "log": True, "step": 0.1}, "null, or a list"),
        ("space.DROPOUT", {"low": 0.1, "high": 0.5, "step": 1}, "null, or a list"),
        ("space.DROPOUT", {"low": 0.1, "high": 0.5, "whole": True}, "null, or a list"),
        ("space.DROPOUT", [], "null, or a list of different values"),
        ("space.DROPOUT", [0.1, 0.1], "null, or a list of different values"),
        ("space.DROPOUT", [0.1, 1.5], "null, or a list of different values"),
        ("space.BATCH_SIZE", {"low": 4, "high": 8, "step": 0.5}, "each a whole number from 1"),
        ("space.HEAD", ["dense"], "each one of auto, conv_max, linear, average, flatten, f"),
        ("space.HEAD", {"low": 1, "high": 2}, "a list of different values, each one of auto"),
    ],
)
def test_an_invalid_search_space_is_reported(write, tmp_path, key, value, expected):
    manager = ConfigurationManager(*write(search={key: value}, params={"FOLDS": 5}))
    message = f"{tmp_path / 'search.yaml'}: {key}: .*{re.escape(expected)}"
    with pytest.raises(ConfigError, match=message):
        manager.search()


def test_the_shipped_files_are_valid():
    config, params = ROOT / FILES["config"], ROOT / FILES["params"]
    assert ConfigurationManager(config, params).search().space


def test_the_reference_is_current_and_describes_every_key():
    stored = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert stored == render_reference(), "run `make docs-config`"
    assert "None" not in stored, "a key has no description"
