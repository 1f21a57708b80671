from collections import Counter

import pytest
from jsonschema import Draft202012Validator
from prometheus_client.parser import text_string_to_metric_families

from cnnClassifier.serving import predictor as predictor_module
from cnnClassifier.serving.app import create_app
from cnnClassifier.serving.model_manager import ModelManager
from tests.dicoms import dicom, lungs
from tests.serving.client import make_config

DICOM = "application/dicom"


@pytest.fixture(scope="module")
def candidate(write_bundle, tmp_path_factory):
    """A loaded model that differs in its threshold and in the window of DICOM files."""
    folder = write_bundle(
        tmp_path_factory.mktemp("candidate"), threshold=0.999, dicom_window="bone"
    )
    manager = ModelManager(make_config(folder))
    manager.predictor(wait=True)
    return manager


@pytest.fixture(scope="module")
def client(tiny_bundle, candidate):
    return create_app(make_config(tiny_bundle), candidate=candidate).test_client()


def predict(client, data, content_type="image/png", query="?map=1"):
    response = client.post(f"/predict{query}", data=data, content_type=content_type)
    assert response.status_code == 200
    return response.json[0]


def test_each_result_has_the_prediction_of_the_candidate(client, candidate, tiny_bundle, picture):
    document = client.get("/openapi.json").json
    alone = create_app(make_config(tiny_bundle)).test_client()
    for level, agrees in ((0, True), (255, False), (250, False)):
        result = predict(client, picture(level))
        schema = {"$ref": "#/components/schemas/Prediction", "components": document["components"]}
        Draft202012Validator(schema).validate(result)
        compared = result.pop("compared")
        assert compared["agrees"] is agrees
        assert (compared["class"] == result["class"]) is agrees
        assert compared["model"] == candidate.predictor(wait=True).bundle.model_id
        assert compared["probability"] == compared["probabilities"][compared["class"]]
        assert predict(alone, picture(level)) | {"ms": 0} == result | {"ms": 0}
    counts = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        if family.name == "predictions_compared":
            counts = {sample.labels.get("agrees"): sample.value for sample in family.samples}
    assert (counts["true"], counts["false"]) == (1, 2)
    assert 'predictions_compared_total{agrees="' not in alone.get("/metrics").text


def test_an_image_is_prepared_again_only_where_the_models_differ(client, monkeypatch, picture):
    calls = Counter()

    def count(name):
        function = getattr(predictor_module, name)

        def counted(*arguments):
            calls[name] += 1
            return function(*arguments)

        monkeypatch.setattr(predictor_module, name, counted)

    count("decode")
    count("resize")
    scan = dicom(lungs(1, side=32))
    for data, content_type, query, times in (
        (picture(), "image/png", "", 1),
        (scan, DICOM, "?window=lung", 1),
        (scan, DICOM, "", 2),
    ):
        calls.clear()
        assert "agrees" in predict(client, data, content_type, query)["compared"]
        assert calls == {"decode": times, "resize": times}


def test_an_image_is_resized_for_a_model_of_another_size(candidate, picture):
    predictor = candidate.predictor(wait=True)
    image = predictor.prepare(picture(9), predictor_module.DEFAULT_DICOM_OPTIONS)
    other = predictor_module.PreparedImage(image.decoded, image.dicom_options, image.pixels[:9])
    again = predictor.prepare(b"", predictor_module.DEFAULT_DICOM_OPTIONS, other)
    assert again.decoded is image.decoded
    assert (again.pixels == image.pixels).all()


@pytest.mark.parametrize(
    ("error", "code"), [(None, "no_model"), (RuntimeError("out of luck"), "candidate_failed")]
)
def test_without_the_candidate_the_prediction_stays(
    tiny_bundle, candidate, tmp_path, monkeypatch, picture, error, code
):
    def fail(*_):
        raise error

    if error:
        monkeypatch.setattr(candidate.predictor(wait=True), "predict_prepared", fail)
    else:
        candidate = ModelManager(make_config(tmp_path))
    client = create_app(make_config(tiny_bundle), candidate=candidate).test_client()
    result = predict(client, picture())
    assert result["class"] == "adenocarcinoma"
    assert result["compared"]["error"]["code"] == code
    assert "luck" not in str(result)
    assert "predictions_compared_total{" not in client.get("/metrics").text
