from dataclasses import replace

import numpy as np
import pytest

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.entity.dicom_options import DicomInfo, DicomOptions
from cnnClassifier.imaging.decode import decode
from cnnClassifier.serving.predictor import Predictor
from cnnClassifier.utils.errors import BundleError, ImageError
from tests.dicoms import dicom, lungs


@pytest.mark.parametrize(("level", "label"), [(255, "Adenocarcinoma"), (0, "Normal")])
def test_an_image_is_classified(tiny_bundle, picture, level, label):
    predictor = Predictor(ModelBundle.read(tiny_bundle), max_pixels=10_000)
    prediction = predictor.predict(picture(level))
    assert (prediction.class_name, prediction.label) == (label.lower(), label)
    assert list(prediction.probabilities) == ["adenocarcinoma", "normal"]
    assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert prediction.probabilities[prediction.class_name] > 0.9
    assert prediction.model_id == predictor.bundle.model_sha256[:12]
    assert prediction.dicom is None


@pytest.mark.parametrize(
    ("trained", "options", "info"),
    [
        ("auto", DicomOptions(), ("lung", -600, 1500, 1, 2)),
        ("bone", DicomOptions(frame=2), ("bone", 400, 1800, 2, 2)),
        ("40,400", DicomOptions(), ("custom", 40, 400, 1, 2)),
        ("bone", DicomOptions("mediastinal"), ("mediastinal", 40, 400, 1, 2)),
    ],
)
def test_auto_is_the_window_of_the_training_data(write_bundle, tmp_path, trained, options, info):
    predictor = Predictor(
        ModelBundle.read(write_bundle(tmp_path, dicom_window=trained)), max_pixels=10_000
    )
    data = dicom(np.stack([lungs(), lungs(1)]), NumberOfFrames=2)
    prediction = predictor.predict(data, options)
    assert prediction.dicom == DicomInfo(*info)
    window = info[0] if info[0] != "custom" else (40.0, 400.0)
    expected = decode(data, 10_000, replace(options, window=window))
    assert np.array_equal(prediction.pixels, expected.pixels)


def test_unusable_images_and_bundles_are_refused(tiny_bundle, write_bundle, picture, tmp_path):
    with pytest.raises(ImageError, match="at most 100"):
        Predictor(ModelBundle.read(tiny_bundle), max_pixels=100).predict(picture())
    with pytest.raises(BundleError, match="no trained model"):
        Predictor(ModelBundle.read(tmp_path), max_pixels=100)
    with pytest.raises(BundleError, match="window: expected auto, lung"):
        Predictor(ModelBundle.read(write_bundle(tmp_path, dicom_window="brain")), max_pixels=100)
