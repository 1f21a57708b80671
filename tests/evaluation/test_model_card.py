import html
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.evaluation.gallery import Case
from cnnClassifier.evaluation.model_card import CardContent, write_card
from cnnClassifier.evaluation.plots import write_tables
from tests.outcomes import classes, full_scores, outcome

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
SPLITS = {
    split: {
        "images": {"adenocarcinoma": 11, "normal": 12},
        "groups": {"adenocarcinoma": 5, "normal": 6},
    }
    for split in ("train", "validation", "test")
}
REPORT = {
    "files": 75,
    "used": 69,
    "left_out": {"copies": 4, "other": 2},
    "groups": {"adenocarcinoma": 15, "normal": 18},
    "splits": SPLITS,
}
AUDITED = REPORT | {
    "near_duplicates": {"sets": 3, "files": 7},
    "warnings": ["Grey alone tells the classes apart <b>."],
    "shortcuts": {"file_facts": {"auc": 0.512, "low": 0.4, "high": 0.6}},
}


def bundle(count=2, synthetic=True):
    return ModelBundle(
        classes=classes(count),
        positive_class="adenocarcinoma",
        image_size=(64, 96, 3),
        temperature=1.31,
        threshold=0.4,
        operating_points={"default": 0.4},
        validation={"n": 33, "loss": 0.51, "loss_calibrated": 0.47},
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


def cards(folder, count=2, report=AUDITED, cases=(), synthetic=True, **scores):
    folder.mkdir(exist_ok=True)
    write_tables(folder, outcome(count), classes(count), [])
    found = full_scores(count, synthetic=synthetic, warnings=report.get("warnings", ()), **scores)
    params = {
        "WEIGHTS": "imagenet",
        "FINE_TUNE_FROM": None,
        "HEAD": "conv_max",
        "SEED": 42,
        "EPOCHS": 7,
    }
    write_card(folder, CardContent(bundle(count, synthetic), found, report, params, 100, cases))
    return [(folder / f"MODEL_CARD.{kind}").read_text(encoding="utf-8") for kind in ("md", "html")]


def words(page):
    """The text of a page, without markup."""
    page = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


@pytest.mark.parametrize("count", [2, 3])
def test_both_cards_say_what_the_run_found(tmp_path, count):
    image = np.full((64, 96, 3), 90, np.uint8)
    case = Case("normal/x|y_1.png", "normal", "adenocarcinoma", 0.987, image, image)
    unmet = {"name": "max_ece", "met": False, "sentence": "ECE is 0.3; at most 0.2 is asked for."}
    markdown, page = cards(tmp_path, count, cases=[case, case], gates=[unmet])
    found = full_scores(count)
    low, high = found["intervals"]["roc_auc"]
    for text in (" ".join(markdown.replace("`", "").split()), words(page)):
        for said in (
            "Not a medical device",
            "synthetic pictures (the phantom)",
            "1 of 1 gates in config.yaml is not met: max_ece",
            f"{found['roc_auc']:.3f}",
            f"{low:.3f} to {high:.3f}",
            "temperature of 1.31",
            "from 0.5100 to 0.4700",
            "validation split (33 images)",
            "100 resamples of the 40 groups",
            "75 files were found and 69 are used",
            "copies 4, other 2",
            "7 images are near-duplicates",
            "file facts",
            "0.400 to 0.600",
            "sensitivity>=0.95",
            "Of 3 pictures that are no CT 66.7% are found",
            "a1" * 32,
            "keras 3.1, numpy 2.4",
            "dvc repro",
            "EPOCHS",
            "96×64",
        ):
            assert said in text, said
        assert ("large.cell_carcinoma" in text) is (count == 3)
        assert ("Each class against the rest" in text) is (count == 3)
    assert re.findall(r"^## (.*)$", markdown, flags=re.MULTILINE)[:9] == MITCHELL
    assert re.findall(r"<h2>(.*?)</h2>", page)[:9] == MITCHELL
    assert "normal/x\\|y_1.png" in markdown
    assert "Grey alone tells the classes apart &lt;b&gt;." in page
    for name in re.findall(r"!\[.*?\]\((.*?)\)", markdown):
        assert name in {"roc.png", "pr.png", "calibration.png", "unfamiliar.png", "errors.png"}
    assert cards(tmp_path / "again", count, cases=[case, case], gates=[unmet]) == [markdown, page]


def test_real_data_the_old_report_and_no_gallery(tmp_path):
    markdown, page = cards(tmp_path, report=REPORT | {"near_copy_pairs": 2}, synthetic=False)
    for text in (markdown, words(page)):
        assert "ynthetic" not in text
        assert "https://example.org/<data>.zip" in text
        assert "2 pairs of near-copies" in text
        assert "Shortcuts were not measured" in text
        assert "No warnings." in text
        assert "Where it errs" not in text
        assert "it shows no image" in text


def test_the_page_is_well_formed_and_needs_nothing_else(tmp_path):
    image = np.zeros((64, 96, 3), np.uint8)
    _, page = cards(
        tmp_path,
        cases=[Case('"><script>alert(1)</script>.png', "normal", "normal", 0.5, image, image)],
    )
    assert "<script" not in page

    class Checked(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open, self.sources = [], []

        def handle_starttag(self, tag, attributes):
            if tag not in {"meta", "link", "img", "br"}:
                self.open.append(tag)
            self.sources += [value for name, value in attributes if name in {"src", "href"}]

        def handle_startendtag(self, tag, attributes):
            pass

        def handle_endtag(self, tag):
            assert self.open.pop() == tag, f"{tag} closed at {self.getpos()}"

    parser = Checked()
    parser.feed(page)
    assert parser.open == []
    assert all(source.startswith("data:") for source in parser.sources)
    assert len(parser.sources) == 3
