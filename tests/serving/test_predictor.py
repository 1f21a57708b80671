from dataclasses import replace

import numpy as np
import pytest

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.entity.dicom_options import DicomInfo, DicomOptions
from cnnClassifier.imaging.decode import decode
from cnnClassifier.serving.predictor import Predictor
from tests.dicoms import dicom, lungs


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
    bundle = ModelBundle.read(write_bundle(tmp_path, dicom_window=trained))
    predictor = Predictor(bundle, max_pixels=10_000)
    data = dicom(np.stack([lungs(), lungs(1)]), NumberOfFrames=2)
    prediction = predictor.predict(data, options)
    assert prediction.dicom == DicomInfo(*info)
    window = info[0] if info[0] != "custom" else (40.0, 400.0)
    expected = decode(data, 10_000, replace(options, window=window))
    assert np.array_equal(prediction.pixels, expected.pixels)
