import importlib.util
from pathlib import Path

import pytest
import yaml

from image_patterns import parse_patterns

ROOT = Path(__file__).resolve().parents[2]
CONFIG = {
    "project": {"name": "a-name", "title": "A name"},
    "data_ingestion": {"source_URL": "http://x.org/a.zip", "classes": None, "download_dir": "d"},
    "data_validation": {"group_pattern": "x", "split": "as_given", "min_side": 500},
    "evaluation": {"mlflow_uri": "https://dagshub.com/me/mine.mlflow"},
    "gates": {"on_failure": "stop", "min_images_per_class": 5000},
}
PARAMS = {"CLASSES": 3, "POSITIVE_CLASS": "auto", "EPOCHS": 99, "BACKBONE": "MobileNetV2"}


@pytest.fixture
def module(monkeypatch, tmp_path):
    """scripts/small_config.py, in a project of its own."""
    spec = importlib.util.spec_from_file_location("small_config", ROOT / "scripts/small_config.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.syspath_prepend(str(tmp_path))  # restores sys.path, which the script extends
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path / "here")
    return module


def write_project(folder, classes=None, **params):
    config = CONFIG | {"data_ingestion": CONFIG["data_ingestion"] | {"classes": classes}}
    (folder / "config").mkdir(parents=True)
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS | params, allow_unicode=True))


def small_files(module, code, folder):
    folder.mkdir()
    module.main(code, folder)
    names = ("config.yaml", "params.yaml")
    return [yaml.safe_load((folder / name).read_text(encoding="utf-8")) for name in names]


@pytest.mark.parametrize(
    ("classes", "positive", "names"),
    [
        (None, "auto", ("class01", "class02", "class03")),
        (None, "nevus", ("nevus", "class02", "class03")),
        ({"Größe, 5%": "g*", "a|b": "a*", "狐": "f*"}, "狐", ("Größe, 5%", "a|b", "狐")),
    ],
)
def test_the_small_pipeline_has_the_classes_and_parameters_of_the_project(
    module, tmp_path, classes, positive, names
):
    write_project(tmp_path / "here", classes, POSITIVE_CLASS=positive)
    (tmp_path / "here/src/image_patterns").mkdir(parents=True)
    config, params = small_files(module, tmp_path / "here", tmp_path / "small")
    options = parse_patterns(config["data_ingestion"]["source_URL"])
    assert (options.classes, options.groups) == (names, 20)
    assert config["data_ingestion"]["classes"] is None
    assert config["project"] == {"name": "a-name-small", "title": "A name"}
    assert config["data_ingestion"]["download_dir"] == "d"
    assert "source_sha256" not in config["data_ingestion"]  # not in the file, so not added
    assert config["data_validation"]["split"] == "grouped"
    assert config["evaluation"] == {"mlflow_uri": "sqlite:///mlflow.db"}
    assert config["gates"] == {"on_failure": "warn", "min_images_per_class": 5000}
    assert (params["BACKBONE"], params["EPOCHS"]) == ("MobileNetV2", 8)
    assert (params["CLASSES"], params["POSITIVE_CLASS"]) == (3, positive)


def test_older_code_gets_the_same_images_as_a_folder(module, tmp_path, capsys):
    write_project(tmp_path / "here", CLASSES=2)
    write_project(tmp_path / "base", CLASSES=7, BACKBONE="ResNet50")
    config, params = small_files(module, tmp_path / "base", tmp_path / "small")
    assert capsys.readouterr().out.count("\n") == 1
    images = Path(config["data_ingestion"]["source_URL"])
    assert sorted(path.name for path in images.iterdir()) == ["class01", "class02"]
    assert (params["CLASSES"], params["BACKBONE"]) == (2, "ResNet50")
