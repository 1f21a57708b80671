import io
import shutil

import numpy as np
import pytest
from PIL import Image

from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.serving.app import create_app
from cnnClassifier.serving.examples import example_png
from cnnClassifier.utils.common import load_json, save_json


@pytest.fixture(scope="module")
def config(evaluated):
    return ServingConfig(
        bundle_dir=evaluated / "bundle",
        host="127.0.0.1",
        port=0,
        max_upload_bytes=10**6,
        max_pixels=10**6,
        evaluation_dir=evaluated / "evaluation",
        report_path=evaluated / "data/data_report.json",
        show_reports=True,
    )


@pytest.fixture
def ask(config):
    """Ask a server with a changed configuration; its model is loaded."""

    def make(**changes):
        client = create_app(config.model_copy(update=changes)).test_client()
        client.get("/model")
        return client.get

    return make


def test_the_page_on_the_model_shows_its_evaluation(ask):
    get = ask()
    page = get("/about").get_data(as_text=True)
    for found in (
        "Not a medical device",
        "Trained and tested on synthetic pictures",
        "<td>0.833</td>",  # 5 of 6 are right
        "0.436 to 0.970",  # Wilson
        'class="right t7">2<',
        'class="wrong t3">1<',
        "validation loss at 0.625",
        "0.0,22.0 600.0,110.0",  # the training loss, on a scale to 1.0
        "Gate max_ece not met.",
        "Mind the &lt;gap&gt;.",
        "tiny, trained on synthetic pictures",
        "model.keras as it is",
    ):
        assert found in page, found
    for link, content in (("/about/model-card", "the card"), ("/about/data-report", "the data")):
        assert link in page
        report = get(link)
        assert content in report.get_data(as_text=True)
        policy = report.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
        assert policy.endswith("sandbox")
        assert "script" not in policy


@pytest.mark.parametrize("case", ["another model", "damaged", "alone", "not to be shown"])
def test_nothing_is_shown_of_another_model_or_against_the_owners_will(
    ask, evaluated, tmp_path, case
):
    root = shutil.copytree(evaluated, tmp_path / "root")
    changes = {"evaluation_dir": root / "evaluation", "report_path": root / "data/data_report.json"}
    scores, report = root / "evaluation/scores.json", root / "data/data_report.json"
    if case == "another model":
        save_json(scores, load_json(scores) | {"model_sha256": "0" * 64})
        save_json(report, {"manifest_sha256": "1" * 64})
    elif case == "damaged":
        scores.write_text("[")
        report.write_text("[]")
    elif case == "alone":
        changes = {"evaluation_dir": None, "report_path": None}
    else:
        changes["show_reports"] = False
    get = ask(**changes)
    page = get("/about").get_data(as_text=True)
    assert ("No evaluation of this very model" in page) == (case != "not to be shown")
    assert "Training history" in page
    assert "Version and hashes" in page
    for link in ("/about/model-card", "/about/data-report"):
        assert link not in page
        assert get(link).status_code == 404


def test_without_a_model_the_page_says_so(ask, tmp_path):
    answer = ask(bundle_dir=tmp_path)("/about")
    assert answer.status_code == 200
    assert "No model is being served" in answer.get_data(as_text=True)
    assert "No trained model: " in answer.get_data(as_text=True)
    assert ask(bundle_dir=tmp_path)("/about/model-card").status_code == 503


def test_examples_are_synthetic_slices_and_always_the_same(ask):
    get = ask()
    listed = get("/examples").json
    assert [example["name"] for example in listed] == [
        f"{k}-{n}" for k in ("mass", "clear") for n in (1, 2, 3)
    ]
    pictures = [get(example["url"]) for example in listed]
    assert {(picture.mimetype, picture.headers["Cache-Control"]) for picture in pictures} == {
        ("image/png", "private, max-age=3600")
    }
    pixels = [np.asarray(Image.open(io.BytesIO(picture.data))) for picture in pictures]
    assert {image.shape for image in pixels} == {(320, 320)}
    assert len({image.tobytes() for image in pixels}) == len(pixels)
    example_png.cache_clear()
    assert get(listed[0]["url"]).data == pictures[0].data
    assert get("/examples/mass-9.png").status_code == 404
