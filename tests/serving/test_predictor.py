from dataclasses import replace

import numpy as np
import pytest

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.entity.dicom_options import DicomInfo, DicomOptions
from cnnClassifier.imaging.decode import decode
from cnnClassifier.serving.predictor import Predictor
from cnnClassifier.utils.errors import BundleError, ImageError
from tests.dicoms import dicom, lungs


@pytest.mark.parametrize(
    ("level", "name", "label"), [(255, "adenocarcinoma", "Adenocarcinoma"), (0, "normal", "Normal")]
)
def test_predictor_tells_the_class(tiny_bundle, picture, level, name, label):
    predictor = Predictor(ModelBundle.read(tiny_bundle), max_pixels=10_000)
    prediction = predictor.predict(picture(level))
    assert (prediction.class_name, prediction.label) == (name, label)
    assert list(prediction.probabilities) == ["adenocarcinoma", "normal"]
    assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert prediction.probabilities[name] > 0.9
    assert prediction.model_id == predictor.bundle.model_sha256[:12]


@pytest.mark.parametrize(
    ("trained", "reading", "facts"),
    [
        ("auto", DicomOptions(), ("lung", -600, 1500, 1, 2)),
        ("bone", DicomOptions(frame=2), ("bone", 400, 1800, 2, 2)),
        ("40,400", DicomOptions(), ("custom", 40, 400, 1, 2)),
        ("bone", DicomOptions("mediastinal"), ("mediastinal", 40, 400, 1, 2)),
    ],
)
def test_auto_is_the_window_that_the_model_was_trained_with(
    write_bundle, tmp_path, trained, reading, facts
):
    predictor = Predictor(
        ModelBundle.read(write_bundle(tmp_path, dicom_window=trained)), max_pixels=10_000
    )
    data = dicom(np.stack([lungs(), lungs(1)]), NumberOfFrames=2)
    prediction = predictor.predict(data, reading)
    assert prediction.dicom == DicomInfo(*facts)
    wanted = decode(
        data, 10_000, replace(reading, window=facts[0] if facts[0] != "custom" else (40.0, 400.0))
    )
    assert np.array_equal(prediction.pixels, wanted.pixels)


def test_the_preview_of_other_pictures_is_small_and_says_nothing_of_dicom(tiny_bundle, picture):
    prediction = Predictor(ModelBundle.read(tiny_bundle), max_pixels=10**6).predict(
        picture(size=(1000, 600))
    )
    assert prediction.dicom is None
    assert prediction.pixels.shape == (300, 500, 3)


def test_a_bundle_with_a_window_that_is_none_is_refused(write_bundle, tmp_path):
    with pytest.raises(BundleError, match="window: expected auto, lung"):
        ModelBundle.read(write_bundle(tmp_path, dicom_window="brain"))


def test_predictor_refuses(tiny_bundle, picture, tmp_path):
    with pytest.raises(ImageError, match="at most 100"):
        Predictor(ModelBundle.read(tiny_bundle), max_pixels=100).predict(picture())
    with pytest.raises(BundleError, match="no trained model"):
        ModelBundle.read(tmp_path)
