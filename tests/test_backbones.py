"""Every backbone, from its base model to the server's answer, by changing BACKBONE alone."""

import csv
import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cnnClassifier.entity.backbones import BACKBONES
from cnnClassifier.network.wheel_weights import WHEELS
from cnnClassifier.utils.common import save_json
from tests.pictures import save
from tests.test_pipeline import copy_repository, edit, run, serving

pytestmark = [pytest.mark.slow, pytest.mark.full]
COLORS = {"3.5 µm": (200, 40, 40), "crow": (40, 180, 60), "grey jay": (60, 70, 210)}
IMAGES_PER_CLASS = 12
FINE_TUNED = {
    "VGG16": "block4",
    "MobileNetV3Small": "expanded_conv_3",
    "EfficientNetLite0": "block5",
    "ConvNeXtTiny": "stage_2",
}


def colored_shape(seed, index):
    """The shape of a class in its color, anywhere on a noisy background, 120x110."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(100, 140, (12, 12, 3), np.uint8)
    image = Image.fromarray(coarse).resize((120, 110), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    left, top = rng.integers(5, 55, 2).tolist()
    box = (left, top, left + 50, top + 45)
    shapes = (draw.rectangle, draw.ellipse, lambda box, fill: draw.line(box, fill, width=14))
    shapes[index](box, fill=list(COLORS.values())[index])
    return image


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Clone the repository, and validate three classes of small pictures."""
    folder = copy_repository(tmp_path_factory.mktemp("backbones"))
    images = {}
    for index, name in enumerate(COLORS):
        for number in range(IMAGES_PER_CLASS):
            images[f"{name}/{number}.png"] = colored_shape(100 * index + number, index)
    save(folder / "pictures", images)
    edit(folder / "config/config.yaml", source_URL='"pictures"', bootstrap_samples="100")
    edit(folder / "params.yaml", CLASSES="3", IMAGE_SIZE="[96, 96, 3]", EPOCHS="3", VIEWS="1")
    edit(folder / "params.yaml", FOLDS="3", REPEATS="1")
    run(folder, "python", "main.py", "--only", "data_ingestion")
    run(folder, "python", "main.py", "--only", "data_validation")
    return folder


def train_and_evaluate(folder, name, fine_tune_from="null"):
    """Return the rows of predictions.csv."""
    # The weights of the others are in Keras's storage alone, and tests use no network beyond pip's.
    weights = "imagenet" if name in WHEELS else "null"
    edit(folder / "params.yaml", BACKBONE=name, WEIGHTS=weights, FINE_TUNE_FROM=fine_tune_from)
    # Threads of BLAS that wait for one another take minutes where the cores are busy.
    run(folder, "python", "main.py", "--from", "prepare_base_model", OMP_NUM_THREADS="1")
    with (folder / "artifacts/evaluation/predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_is_trained_evaluated_and_served(project, name):
    rows = train_and_evaluate(project, name)
    evaluation = project / "artifacts/evaluation"
    int8 = json.loads((evaluation / "int8.json").read_text())
    assert int8["n"] == len(rows) > 0
    card = (evaluation / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"`{name}` backbone" in card
    assert "grey jay" in card
    if name in WHEELS:
        scores = json.loads((evaluation / "scores.json").read_text())
        assert scores["cross_validation"]["metrics"]["accuracy"] > 0.7
        assert int8["agreement"] > 0.8

    bundle = json.loads((project / "artifacts/training/model.json").read_text())
    layer = BACKBONES[name].feature_layer
    assert (bundle["backbone"], bundle["feature_layer"]) == (name, layer)
    path = project / "artifacts/data_ingestion/data" / rows[0]["path"]
    for accepted in (False, True):  # on Keras's OpenVINO backend, and the quantized network
        save_json(evaluation / "int8.json", int8 | {"accepted": accepted})
        with serving(project) as ask:
            served = ask(path.read_bytes(), map=True)
        assert served["probabilities"].keys() == COLORS.keys()
        assert np.shape(served["map"]) == (6, 6)
        if not accepted:
            evaluated = [float(rows[0][label]) for label in COLORS]
            shown = [served["probabilities"][label] for label in COLORS]
            assert shown == pytest.approx(evaluated, abs=1e-3)


@pytest.mark.parametrize(("name", "block"), FINE_TUNED.items())
def test_blocks_of_a_backbone_are_trained(project, name, block):
    rows = train_and_evaluate(project, name, fine_tune_from=block)
    bundle = json.loads((project / "artifacts/training/model.json").read_text())
    assert bundle["heads"].keys() == {"conv_max"}
    assert all(np.isfinite([float(row[label]) for label in COLORS]).all() for row in rows)


@pytest.mark.parametrize("names", [("Ñandú", "狐"), ("3.5 µm", "grey jay", "z.b", "狐", "crow")])
def test_any_number_of_classes_with_any_names(project, names):
    source = f"patterns:classes={'|'.join(names)},groups=10,images=2,size=96"
    edit(project / "config/config.yaml", source_URL=f'"{source}"')
    edit(project / "params.yaml", CLASSES="auto")
    for stage in ("data_ingestion", "data_validation"):
        run(project, "python", "main.py", "--only", stage)
    rows = train_and_evaluate(project, "EfficientNetLite0")
    scores = json.loads((project / "artifacts/evaluation/scores.json").read_text())
    assert sorted(scores["classes"]) == sorted(names)
    assert scores["synthetic"]
    assert (scores["positive_class"] is None) == (len(names) > 2)
    assert scores["cross_validation"]["metrics"]["roc_auc"] > 0.8
    path = project / "artifacts/data_ingestion/data" / rows[0]["path"]
    with serving(project) as ask:
        served = ask(path.read_bytes(), map=True)
    assert served["probabilities"].keys() == set(names)
    assert np.shape(served["map"]) == (6, 6)
