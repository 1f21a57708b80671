import pytest

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.pipeline.prediction import Predictor
from cnnClassifier.utils.errors import BundleError, ImageError


@pytest.mark.parametrize(
    ("level", "name", "label"), [(255, "adenocarcinoma", "Adenocarcinoma"), (0, "normal", "Normal")]
)
def test_predictor_tells_the_class(tiny_bundle, picture, level, name, label):
    predictor = Predictor(tiny_bundle, max_pixels=10_000)
    prediction = predictor.predict(picture(level))
    assert (prediction.class_name, prediction.label) == (name, label)
    assert list(prediction.probabilities) == ["adenocarcinoma", "normal"]
    assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert prediction.probabilities[name] > 0.9
    assert prediction.model_id == predictor.bundle.model_sha256[:12]


def test_predictor_refuses(tiny_bundle, picture, tmp_path):
    with pytest.raises(ImageError, match="at most 100"):
        Predictor(tiny_bundle, max_pixels=100).predict(picture())
    with pytest.raises(BundleError, match="no trained model"):
        Predictor(tmp_path, max_pixels=100)


@pytest.mark.parametrize(
    ("classes", "positive", "threshold", "scores", "called"),
    [
        (("a", "b"), "a", 0.3, [0.3, 0.7], "a"),
        (("a", "b"), "a", 0.3, [0.29, 0.71], "b"),
        (("a", "b"), "b", 0.9, [0.2, 0.8], "a"),
        (("a", "b", "c"), "a", 0.1, [0.3, 0.3, 0.4], "c"),
    ],
)
def test_threshold_decides_between_two_and_the_highest_among_more(classes, positive, threshold, scores, called):
    bundle = ModelBundle(classes, positive, (32, 32, 3), threshold, "tiny", "", True, "0" * 64, "0" * 64, {})
    assert bundle.called(scores) == called
