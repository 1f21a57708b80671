import html
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.entity.config_entity import EvaluationConfig, ProjectConfig, TrackingConfig
from cnnClassifier.entity.disclaimers import SYNTHETIC
from cnnClassifier.evaluation.metrics import compute_scores
from cnnClassifier.evaluation.model_card import write_card
from cnnClassifier.evaluation.plots import GalleryImage, write_plots, write_tables
from cnnClassifier.evaluation.scores import TOO_FEW_GROUPS
from tests.labeled_predictions import (
    DISTANCES,
    class_names,
    full_scores,
    images_table,
    random_predictions,
)
from tests.texts import LEAVES, check_subject

MITCHELL = [
    "Model details",
    "Intended use",
    "Factors",
    "Metrics",
    "Training data",
    "Evaluation data",
    "Quantitative analyses",
    "Ethical considerations",
    "Caveats and recommendations",
]
COUNTS = {
    "images": {"adenocarcinoma": 11, "normal": 12},
    "groups": {"adenocarcinoma": 5, "normal": 6},
}
REPORT = {
    "files": 75,
    "used": 69,
    "left_out": {"copies": 4, "other": 2},
    "groups": {"adenocarcinoma": 15, "normal": 18},
    "splits": dict.fromkeys(("train", "validation", "test"), COUNTS),
}
FULL_REPORT = REPORT | {
    "near_duplicates": {"sets": 3, "files": 7},
    "feedback": {"used": 5, "corrected": 2},
    "warnings": ["Gray alone separates the classes <b>."],
    "shortcuts": {"file_size": {"auc": 0.512, "low": 0.4, "high": 0.6}},
}
PIXELS = np.full((64, 96, 3), 90, np.uint8)
PARAMS = {"WEIGHTS": "imagenet", "FINE_TUNE_FROM": None, "HEAD": "conv_max", "EPOCHS": 7}
PROJECT = ProjectConfig(
    name="chest-ct", title="Chest CT", image_term="slice", group_term="patient", domain="medical"
)
CONFIG = EvaluationConfig.model_construct(
    project=PROJECT,
    tracking=TrackingConfig.model_construct(params=PARAMS),
    bootstrap_samples=100,
)


def bundle(count=2, synthetic=True):
    return ModelBundle(
        classes=class_names(count),
        positive_class="adenocarcinoma",
        image_size=(64, 96, 3),
        heads={"conv_max": {"weight": 0.6, "temperature": 1.1}},
        temperature=1.31,
        threshold=0.4,
        operating_points={"default": 0.4},
        calibration={"n": 33, "loss": 0.51, "loss_calibrated": 0.47},
        max_disagreement=0.1,
        feature_layer="block4_pool",
        ood_threshold=1.0,
        backbone="VGG16",
        data_source="phantom:" if synthetic else "https://example.org/<data>.zip",
        synthetic=synthetic,
        model_sha256="a1" * 32,
        ood_detector_sha256="b2" * 32,
        manifest_sha256="c3" * 32,
        versions={"keras": "3.1", "numpy": "2.4"},
    )


def cards(
    folder,
    count=2,
    report=FULL_REPORT,
    gallery=(),
    synthetic=True,
    gates=(),
    has_test=True,
    config=CONFIG,
):
    """Write both cards, and return their text."""
    folder.mkdir(exist_ok=True)
    write_tables(folder, random_predictions(count), class_names(count), images_table(), DISTANCES)
    warnings = report.get("warnings", ())
    scores = full_scores(count, gates, warnings, synthetic, has_test)
    write_card(folder, bundle(count, synthetic), scores, report, config, gallery)
    return [(folder / f"MODEL_CARD.{kind}").read_text(encoding="utf-8") for kind in ("md", "html")]


def text_of(page):
    """The text of a page without markup."""
    page = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


@pytest.mark.parametrize("count", [2, 3])
def test_both_cards_are_complete(tmp_path, count):
    path = "normal/x|y_1.png"
    gallery = [GalleryImage(path, "normal", "adenocarcinoma", 0.987, PIXELS, PIXELS)] * 2
    gates = [{"name": "max_ece", "passed": False, "message": "ECE is 0.3; the maximum is 0.2."}]
    markdown, page = cards(tmp_path, count, gallery=gallery, gates=gates)
    scores = full_scores(count)
    low, high = scores["intervals"]["roc_auc"]
    for text in (" ".join(markdown.replace("`", "").split()), text_of(page)):
        for expected in (
            "Not a medical device",
            SYNTHETIC,
            "1 of 1 quality gates failed: max_ece",
            f"{scores['roc_auc']:.3f}",
            f"{low:.3f} to {high:.3f}",
            "temperature of 1.31",
            "from 0.5100 to 0.4700",
            "These predictions (33 images) decided",
            "210 in 70 groups",
            "measured on 40 groups with 120 images",
            f"{scores['series']['metrics']['roc_auc']:.3f}",
            scores["cross_validation"]["note"],
            scores["cross_validation"]["baseline_note"],
            "local (conv_max) 0.6, linear 0.4; 3 heads each",
            "100 samples of the 40 groups",
            "75 files were found and 69 are used",
            "copies 4, other 2",
            "7 images are near-duplicates",
            "5 of the training images are feedback of users",
            "file size",
            "0.400 to 0.600",
            "sensitivity>=0.95",
            "Of 3 images of other kinds 66.7% are detected",
            "a1" * 32,
            "keras 3.1, numpy 2.4",
            "dvc repro",
            "EPOCHS",
            "96×64",
        ):
            assert expected in text, expected
        assert ("large.cell_carcinoma" in text) is (count == 3)
        assert ("Each class against the rest" in text) is (count == 3)
        assert ("macro F1" in text) is (count == 3)
        assert ("specificity (adenocarcinoma)" in text) is (count == 3)
    assert re.findall(r"^## (.*)$", markdown, flags=re.MULTILINE)[:9] == MITCHELL
    assert re.findall(r"<h2>(.*?)</h2>", page)[:9] == MITCHELL
    assert "normal/x\\|y_1.png" in markdown
    assert "Gray alone separates the classes &lt;b&gt;." in page
    plots = {"roc.png", "pr.png", "calibration.png", "out_of_distribution.png", "errors.png"}
    assert set(re.findall(r"!\[.*?\]\((.*?)\)", markdown)) == plots
    for header, rule in re.findall(r"^(\|.*\|)\n(\|[ -|]*\|)$", markdown, flags=re.MULTILINE):
        assert header.count("|") == rule.count("|")
    assert cards(tmp_path / "again", count, gallery=gallery, gates=gates) == [markdown, page]


def test_without_a_test_split_every_text_says_so(tmp_path):
    image = GalleryImage("x.png", "normal", "normal", 0.9, PIXELS, PIXELS)
    for text in cards(tmp_path, has_test=False, gallery=[image]):
        assert text.count("There is no test split") == 3
        assert "Test split" not in text
        assert "test images" not in text
        assert "after it has seen the image" in " ".join(text.split())


def test_a_fixed_validation_split_is_named(tmp_path):
    scores = full_scores()
    scores["cross_validation"]["fixed_validation_split"] = True
    write_tables(tmp_path, random_predictions(), class_names(2), images_table(), DISTANCES)
    write_card(tmp_path, bundle(), scores, REPORT, CONFIG, [])
    text = (tmp_path / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "| Validation split | Linear baseline (validation split) |" in text
    assert "out-of-fold" not in text


def test_real_data_without_warnings_shortcuts_and_gallery(tmp_path):
    markdown, page = cards(tmp_path, report=REPORT, synthetic=False)
    for text in (markdown, text_of(page)):
        assert "ynthetic" not in text
        assert "https://example.org/<data>.zip" in text
        assert "near-duplicates of another" not in text
        assert "Shortcuts were not measured" in text
        assert "No warnings." in text
        assert "Worst predictions" not in text
        assert "shows no image" in text


def test_a_single_group_has_no_intervals(tmp_path):
    predictions = replace(random_predictions(), groups=np.zeros(120, int))
    write_tables(tmp_path, predictions, class_names(2), images_table(), DISTANCES)
    scores = full_scores() | {"intervals": {}}
    write_card(tmp_path, bundle(), scores, REPORT, CONFIG, [])
    for kind in ("md", "html"):
        text = (tmp_path / f"MODEL_CARD.{kind}").read_text(encoding="utf-8")
        assert text.count(TOO_FEW_GROUPS) == 1
        assert "nan" not in text


def test_the_page_is_well_formed_and_needs_no_other_file(tmp_path):
    path = '"><script>alert(1)</script>.png'
    image = GalleryImage(path, "normal", "normal", 0.5, PIXELS, PIXELS)
    _, page = cards(tmp_path, gallery=[image])
    assert "<script" not in page
    tags = re.findall(r"<(/?)(\w+)", page)
    for name in ("section", "table", "figure", "svg", "div", "p", "tr", "td"):
        assert tags.count(("", name)) == tags.count(("/", name)), name
    sources = re.findall(r'(?:src|href)="(.*?)"', page)
    assert len(sources) == 3
    assert all(source.startswith("data:") for source in sources)


@pytest.mark.parametrize("has_test", [True, False])
def test_the_card_speaks_of_the_project_s_subject(tmp_path, has_test):
    gallery = [GalleryImage("a/1.png", "normal", "adenocarcinoma", 0.987, PIXELS, PIXELS)]
    config = CONFIG.model_copy(update={"project": LEAVES})
    for card in cards(tmp_path, gallery=gallery, has_test=has_test, config=config):
        text = check_subject(card)
        assert "Leaf identification" in text
        assert "plant" in text


def test_without_a_positive_class_the_curves_are_those_of_each_class(tmp_path):
    predictions = replace(random_predictions(3), positive=None)
    classes = class_names(3)
    write_tables(tmp_path, predictions, classes, images_table(), DISTANCES)
    scores = full_scores(3) | compute_scores(predictions, classes, {}, 100, 0)
    del scores["sensitivity"], scores["specificity"]
    of_bundle = bundle(3).model_copy(update={"positive_class": None, "threshold": None})
    write_card(tmp_path, of_bundle, scores, FULL_REPORT, CONFIG, [])
    page = (tmp_path / "MODEL_CARD.html").read_text(encoding="utf-8")
    assert "None against" not in text_of(page)
    assert "micro-average" in text_of(page)
    for name in classes:
        assert f"<title>{name}</title>" in page
    (tmp_path / "history.csv").write_text("epoch,loss,val_loss\n1,0.5,0.6\n2,0.4,0.5\n")
    write_plots(tmp_path, tmp_path / "history.csv", scores, [], "")
    assert Image.open(tmp_path / "roc.png").size == Image.open(tmp_path / "pr.png").size
