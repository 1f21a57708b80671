from types import SimpleNamespace

import numpy as np
import pytest

from cnnClassifier.components import training
from cnnClassifier.components.training import image_features, positive_class
from cnnClassifier.imaging.augment import View, augment
from cnnClassifier.utils.errors import ConfigError
from tests.dicoms import dicom, lungs


class FakeCache:
    """Needs no network: returns the keys, and the pixels of the second view of each image."""

    def features(self, keys, load):
        return keys, [load(number, [1])[0] for number in range(len(keys))]


def test_features_of_another_dicom_window_have_another_key(tmp_path):
    (tmp_path / "x.dcm").write_bytes(dicom(lungs()))
    views = [View(), View(flip=True)]
    keys, pixels = {}, {}
    for window in ("auto", "lung", "bone", "-600,1500"):
        config = SimpleNamespace(
            data_dir=tmp_path, image_size=(64, 64, 3), max_pixels=10_000, dicom_window=window
        )
        entry = SimpleNamespace(path="x.dcm", sha256="abc")
        [keys[window]], [pixels[window]] = image_features(FakeCache(), [(entry, views)], config)
    assert len(set(map(tuple, keys.values()))) == 4
    assert keys["auto"] == [f"abc:{view}" for view in views]
    assert keys["bone"] == [f"abc:{view}:bone" for view in views]
    assert np.array_equal(pixels["lung"], pixels["-600,1500"])
    assert not np.array_equal(pixels["lung"], pixels["bone"])
    plain = training.load_image(entry, config)
    assert np.array_equal(pixels["lung"], augment(plain, views[1]))


@pytest.mark.parametrize(
    ("requested", "classes", "expected"),
    [
        ("auto", ("Normal", "tumor"), "tumor"),
        ("auto", ("benign", "healthy"), "benign"),
        ("Normal", ("Normal", "tumor"), "Normal"),
    ],
)
def test_the_positive_class_is_the_requested_one_or_the_first_that_is_not_harmless(
    requested, classes, expected
):
    assert positive_class(requested, classes) == expected
    with pytest.raises(ConfigError, match=f"expected auto or one of {', '.join(classes)}, found"):
        positive_class("other", classes)
