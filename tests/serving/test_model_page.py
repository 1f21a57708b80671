import io
import shutil
from pathlib import Path

import pytest
from PIL import Image

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.entity.config_entity import ProjectConfig
from cnnClassifier.evaluation.scores import TOO_FEW_GROUPS
from cnnClassifier.serving.app import create_app
from cnnClassifier.utils.common import load_json, save_json
from tests.labeled_predictions import class_names, full_scores
from tests.serving.client import make_config
from tests.texts import LEAVES, check_subject

EXAMPLES = Path(__file__).parents[2] / "templates/static/examples"
REPORTS = {
    "/about/model-card": "content of MODEL_CARD",
    "/about/data-report": "content of data_report",
}


@pytest.fixture
def make_client(evaluated):
    """Make a client of a server whose model is loaded, with a changed configuration."""
    config = make_config(
        evaluated / "bundle",
        evaluation_dir=evaluated / "evaluation",
        report_path=evaluated / "data/data_report.json",
        show_reports=True,
    )

    def make(**changes):
        client = create_app(config.model_copy(update=changes)).test_client()
        client.get("/model")
        return client

    return make


def test_the_page_shows_the_evaluation_and_links_to_the_reports(make_client):
    client = make_client()
    page = client.get("/about").text
    for expected in (
        "Not a medical device",
        "Trained and tested on synthetic",
        "<td>0.833</td>",  # 5 of 6 are correct
        "0.281 to 0.999",  # its interval with 4 groups
        "One is more reliable.",
        "The model is not better.",
        "local (conv_max) 0.9, linear 0.1; 3 heads each",
        "Linear baseline<small>cross-validated</small>",
        "<td>6 in 4 groups</td>",
        TOO_FEW_GROUPS,  # the positive predictions are of one group
        'class="correct t7">2<',
        'class="incorrect t3">1<',
        "of held-out images 0.625",
        "0.0,10.0 100.0,50.0",  # the training loss, on a scale up to 1.0
        "Gate max_ece not met.",
        "Mind the &lt;gap&gt;.",
        "tiny, trained on synthetic images",
        "Decision threshold",
    ):
        assert expected in page, expected
    for path, content in REPORTS.items():
        assert path in page
        report = client.get(path)
        assert content in report.text
        policy = report.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
        assert policy.endswith("sandbox")
        assert "script" not in policy


def test_without_a_test_split_and_with_three_classes_the_page_says_so(
    make_client, write_bundle, tmp_path
):
    scores = full_scores(3, has_test=False)
    bundle_dir = write_bundle(tmp_path / "b", outputs=3, classes=class_names(3), folds=1)
    digest = ModelBundle.read(bundle_dir).model_sha256
    save_json(tmp_path / "scores.json", scores | {"model_sha256": digest})
    client = make_client(bundle_dir=bundle_dir, evaluation_dir=tmp_path)
    page = " ".join(client.get("/about").text.split())
    assert "Measured on out-of-fold predictions of the training images (there is no" in page
    assert "Test split" not in page
    assert "test images" not in page
    series = scores["series"]
    assert f": {series['n']} images in {series['n_groups']} groups" in page
    assert f"<td>{series['metrics']['loss']:.3f}<small>" in page
    assert f"<td>{series['single_image']['loss']:.3f}</td>" in page
    assert page.index("Accuracy") < page.index("Macro ROC AUC") < page.index("Log loss")
    assert "Sensitivity (adenocarcinoma)" in page
    assert "Decision threshold" not in page
    assert "Disagreement limit" not in page
    assert client.get("/model").json["metrics_of"] == "out_of_fold"


@pytest.mark.parametrize("case", ["another model", "damaged", "missing", "hidden"])
def test_nothing_of_another_model_or_hidden_by_the_configuration_is_shown(
    make_client, evaluated, tmp_path, case
):
    root = shutil.copytree(evaluated, tmp_path / "root")
    scores, report = root / "evaluation/scores.json", root / "data/data_report.json"
    changes = {"evaluation_dir": scores.parent, "report_path": report}
    if case == "another model":
        save_json(scores, load_json(scores) | {"model_sha256": "0" * 64})
        save_json(report, {"manifest_sha256": "1" * 64})
    elif case == "damaged":
        scores.write_text("[")
        report.write_text("[]")
    elif case == "missing":
        changes = {"evaluation_dir": None, "report_path": None}
    else:
        changes["show_reports"] = False
    client = make_client(**changes)
    page = client.get("/about").text
    assert ("This server has no evaluation of this model" in page) == (case != "hidden")
    assert "Training history" in page
    assert "Version and hashes" in page
    for path in REPORTS:
        assert path not in page
        assert client.get(path).status_code == 404


def test_without_a_model_the_page_says_so(make_client, tmp_path):
    client = make_client(bundle_dir=tmp_path)
    response = client.get("/about")
    assert response.status_code == 200
    assert "No model is available" in response.text
    assert "No trained model: " in response.text
    assert client.get("/about/model-card").status_code == 503
    assert client.get("/about/other").status_code == 404


def test_examples_are_synthetic_or_from_a_folder(make_client, write_bundle, tmp_path, picture):
    client = make_client()
    examples = client.get("/examples").json
    if EXAMPLES.is_dir():  # a project without the phantom has none
        names = ["clear-1", "clear-2", "clear-3", "mass-1", "mass-2", "mass-3"]
        assert [example["name"] for example in examples] == names
    for example in examples:
        response = client.get(example["url"])
        assert response.mimetype == "image/png"
        assert Image.open(io.BytesIO(response.data)).size == (320, 320)
    bundle_dir = write_bundle(tmp_path / "real", synthetic=False, data_source="photos.zip")
    assert make_client(bundle_dir=bundle_dir).get("/examples").json == []
    (tmp_path / "my leaf.png").write_bytes(picture())
    (tmp_path / "notes.txt").write_text("secret")
    project = ProjectConfig(examples=str(tmp_path))
    mine = make_client(bundle_dir=bundle_dir, project=project)
    (example,) = mine.get("/examples").json
    assert (example["name"], example["synthetic"]) == ("my leaf.png", False)
    assert mine.get(example["url"]).data == picture()
    for name in ("notes.txt", "none.png", "../real/model.json"):
        assert mine.get(f"/examples/{name}").status_code == 404
    project = ProjectConfig(examples="none")
    assert make_client(project=project).get("/examples").json == []


@pytest.mark.parametrize("path", ["/", "/about", "/docs", "/openapi.json", "/model"])
def test_pages_speak_of_the_project_s_subject(make_client, path):
    text = check_subject(make_client(project=LEAVES).get(path).text)
    assert "Leaf identification" in text or path == "/model"
    assert "Choose photos" in text or path != "/"
