import copy
from pathlib import Path

import pytest
import yaml
from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo

from cnnClassifier.config import reference
from cnnClassifier.config.configuration import RENAMED_KEYS, USERS, ConfigurationManager
from cnnClassifier.config.expectations import expected_value
from cnnClassifier.entity.config_entity import (
    SEARCHABLE,
    Between,
    Choice,
    FitConfig,
    SearchSpaceConfig,
)
from cnnClassifier.utils.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = {
    "config": yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8")),
    "params": yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")),
    "search": yaml.safe_load((ROOT / "config/search.yaml").read_text(encoding="utf-8")),
}


@pytest.fixture(autouse=True)
def no_overrides(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "SEARCH_STORAGE", "HOST", "PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def write(tmp_path):
    """Write the files as shipped, with changes by dotted key; return the paths of two of them."""

    def make(changed_file=None, changes=(), removed=None):
        for name, shipped in SHIPPED.items():
            content = copy.deepcopy(shipped)
            if name == changed_file:
                for key, value in dict(changes).items():
                    section, _, leaf = key.rpartition(".")
                    (content[section] if section else content)[leaf] = value
            if name == changed_file and removed:
                section, _, leaf = removed.rpartition(".")
                del (content[section] if section else content)[leaf]
            path = tmp_path / f"{name}.yaml"
            path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return tmp_path / "config.yaml", tmp_path / "params.yaml"

    return make


def test_settings_have_the_values_of_the_files(write, monkeypatch, tmp_path):
    config = {
        "data_ingestion.classes": {"ill": "ill*"},
        "prepare_base_model.weights_cache": "~/weights",
        "serving.max_concurrent_requests": None,
        "gates.on_failure": "stop",
    }
    manager = ConfigurationManager(*write("config", config))
    assert manager.log_file == Path("logs/running.log")
    ingestion = manager.data_ingestion()
    assert (ingestion.class_patterns, ingestion.class_count) == ({"ill": "ill*"}, 2)
    assert manager.prepare_base_model().weights_cache == Path.home() / "weights"
    assert manager.serving().max_concurrent_requests >= 2
    assert manager.evaluation().gates.stops
    assert manager.tracking().params == SHIPPED["params"]

    params = {"DICOM_WINDOW": [-600, 1500], "AUGMENTATION": False, "LEARNING_RATE": 1}
    manager = ConfigurationManager(*write("params", params))
    training = manager.crossvalidation().training
    assert training == manager.training()
    assert (training.dicom_window, training.image_size) == ("-600,1500", (224, 224, 3))
    assert training.augmentation.views == 1
    assert training.fit == FitConfig(
        epochs=20,
        patience=5,
        batch_size=16,
        learning_rate=1,
        class_weights="balanced",
        seed=42,
    )
    # An experiment that DVC runs in a copy shares caches and downloads with its clone.
    experiment = tmp_path / ".dvc/tmp/exps/tmp1"
    experiment.mkdir(parents=True)
    monkeypatch.chdir(experiment)
    assert manager.training().cache_dir == tmp_path / ".cache/features"
    assert manager.training().bundle_dir == Path("artifacts/training")


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
    monkeypatch.setenv("SEARCH_STORAGE", "study.db")
    with pytest.raises(ConfigError, match="SEARCH_STORAGE: expected sqlite:///PATH, journal:///"):
        manager.search()
    # Only the commands that use a variable stop.
    assert ConfigurationManager(*write()).training().fit.epochs == 20


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
        ("SPLIT", ["0.6", 0.2, 0.2], "three numbers above 0"),
        ("SPLIT", 0.6, "three numbers above 0"),
        ("IMAGE_SIZE", [224, True, 3], "[height, width, 3]"),
        ("gates.on_failure", True, "one of stop, warn, found True"),
        ("serving.cors_origins", "https://example.org", "a list; its items: text"),
        ("serving.cors_origins", [1], "a list; its items: text"),
        ("data_ingestion.classes", {"a": 1}, "names with values, each text, or null"),
        ("data_ingestion.classes", {1: "a"}, "names with values"),
        ("data_ingestion.data_dir", " ", "text"),
        ("evaluation.root_dir", None, "text"),
        ("log_file", {"a": "b"}, "text, found {'a': 'b'}"),
        ("serving", [1], "a section: host, port,"),
        # outside of the limits
        ("SEED", -1, "a whole number"),
        ("CLASSES", 1, "a whole number from 2 to 1000"),
        ("DROPOUT", 0.96, "a number"),
        ("LEARNING_RATE", 0, "a number from 1e-08 to 10"),
        ("LEARNING_RATE", float("nan"), "a number"),
        ("LEARNING_RATE", float("inf"), "a number"),
        ("BACKBONE", "vgg16", "one of VGG16, VGG19"),
        ("HEAD", "dense", "one of conv_max, average, flatten, found 'dense'"),
        ("FOLD_SEEDS", [], "a list; its 1 or more items: a whole number from 0"),
        ("SPLIT", [0.6, 0.4], "three numbers above 0 that sum to 1"),
        ("SPLIT", [0.6, 0.4, 0], "three numbers above 0"),
        ("SPLIT", [0.6, 0.2, 0.1], "three numbers above 0"),
        ("IMAGE_SIZE", [224, 224], "[height, width, 3], sides from 32 to 1024, found [224, 224]"),
        ("IMAGE_SIZE", [224, 224, 1], "[height, width, 3]"),
        ("IMAGE_SIZE", [31, 224, 3], "[height, width, 3]"),
        ("DICOM_WINDOW", "brain", "one of auto, lung, mediastinal, bone, or [centre, width] in HU"),
        ("DICOM_WINDOW", [40, 0], "one of auto, lung"),
        ("DICOM_WINDOW", [40, None], "one of auto, lung"),
        ("gates.min_roc_auc", 1.1, "a number from 0 to 1, or null"),
        ("serving.port", 65536, "a whole number from 0 to 65535"),
        ("serving.rate_limit", "fast", "a rate such as 600/minute, or null"),
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
    changed_file = "params" if key.isupper() else "config"
    paths = write(changed_file, {key: value})
    with pytest.raises(ConfigError) as caught:
        ConfigurationManager(*paths)
    message = str(caught.value)
    assert message.startswith(f"{paths[changed_file == 'params']}: {key}: expected {expected}")
    assert "\n" not in message
    assert len(message) < 600


@pytest.mark.parametrize(
    ("changed_file", "key", "expected"),
    [
        ("params", "SEEDS", "SEEDS: unknown key; expected one of "),
        ("config", "serving.ports", "serving.ports: unknown key; expected one of host, port, "),
        ("config", "services", "services: unknown key; expected one of log_file, data_ingestion, "),
        *((("config", "params")[key.isupper()], key, f"{key} was ") for key in RENAMED_KEYS),
    ],
)
def test_an_unknown_or_renamed_key_is_reported(write, changed_file, key, expected):
    with pytest.raises(ConfigError, match=rf"{changed_file}\.yaml: {expected}"):
        ConfigurationManager(*write(changed_file, {key: 1}))


def test_the_new_names_of_renamed_keys_exist(write):
    manager = ConfigurationManager(*write())
    known = {key for _, entity in USERS for key in entity.fields_by_key()}
    assert manager.params.keys() < known
    for key, hint in RENAMED_KEYS.items():
        assert key not in known
        if hint.startswith("renamed to "):
            section, dot, _ = key.rpartition(".")
            assert f"{section}{dot}{hint.split()[2].rstrip(',')}" in known


@pytest.mark.parametrize(
    ("changed_file", "key", "expected"),
    [
        ("config", "log_file", "text"),
        ("config", "serving.max_images", "a whole number from 1 to 1000"),
        ("config", "evaluation.root_dir", "text"),
        ("params", "INCLUDE_TOP", "False"),
        ("params", "EPOCHS", "a whole number from 1"),
    ],
)
def test_a_missing_key_is_reported(write, changed_file, key, expected):
    paths = write(changed_file, removed=key)
    with pytest.raises(ConfigError) as caught:
        ConfigurationManager(*paths)
    path = paths[changed_file == "params"]
    assert str(caught.value).startswith(f"{path}: {key}: missing; expected {expected}")


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
    config, params = write("search", {"space": space, "trials": 7})
    search = ConfigurationManager(config, params).search()
    assert search.space == {
        "LEARNING_RATE": Between(0.001, 1, True, None, False),
        "BATCH_SIZE": Between(4, 12, False, 4, True),
        "HEAD": Choice(("average",)),
        "VIEWS": Choice((1, 2)),
        "FINE_TUNE_FROM": Choice((None, "block4")),
    }
    assert (search.trials, search.params, search.params_path) == (7, SHIPPED["params"], params)
    assert search.prepare == ConfigurationManager(config, params).prepare_base_model()
    params.write_text(params.read_text().replace("AUGMENTATION: true", "AUGMENTATION: false"))
    assert "VIEWS" not in ConfigurationManager(config, params).search().space  # no effect

    write("search", {"space": dict.fromkeys(SEARCHABLE)})
    with pytest.raises(ConfigError, match="space: expected values to try, but every key is null"):
        ConfigurationManager(config, params).search()


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("trials", 0, "expected a whole number from 1 to 1000000, found 0"),
        ("metric", "f1", "expected one of loss, roc_auc, balanced_accuracy, found 'f1'"),
        ("folds", 6, "expected at most FOLDS: 5 in params.yaml, found 6"),
        ("space.SPLIT", [0.5], "unknown key; expected one of LEARNING_RATE, BATCH_SIZE"),
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
        ("space.HEAD", ["dense"], "each one of conv_max, average, flatten, found ['dense']"),
        ("space.HEAD", {"low": 1, "high": 2}, "a list of different values, each one of conv_max"),
    ],
)
def test_an_invalid_search_space_is_reported(write, tmp_path, key, value, expected):
    manager = ConfigurationManager(*write("search", {key: value}))
    with pytest.raises(ConfigError) as caught:
        manager.search()
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'search.yaml'}: {key}: ")
    assert expected in message


def test_the_reference_is_current_and_describes_every_key():
    page = reference.render_reference(ROOT / "config/config.yaml", ROOT / "params.yaml")
    assert (ROOT / "docs/configuration.md").read_text(encoding="utf-8") == page, (
        "run `make docs-config`"
    )
    for _, entity in (*USERS, ("search", SearchSpaceConfig)):
        for key, field in entity.fields_by_key().items():
            assert field.description, f"{key} has no description"
            assert f"| `{key}` | " in page
