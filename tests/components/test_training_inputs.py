from types import SimpleNamespace

import numpy as np

from cnnClassifier.components.training_inputs import image_features
from cnnClassifier.imaging.augment import View
from tests.dicoms import dicom, lungs


class Collected:
    """Stands for the cache, which would need a network: keeps keys and pixels."""

    def features(self, keys, load):
        return keys, [load(number) for number in range(len(keys))]


def test_features_of_another_dicom_window_have_another_key(tmp_path):
    (tmp_path / "x.dcm").write_bytes(dicom(lungs()))
    items = [(SimpleNamespace(path="x.dcm", sha256="abc"), View())]
    found = {}
    for window in ("auto", "lung", "bone", "-600,1500"):
        config = SimpleNamespace(
            data_dir=tmp_path, image_size=(64, 64, 3), max_pixels=10_000, dicom_window=window
        )
        keys, pixels = image_features(Collected(), items, config)
        found[window] = keys[0], pixels[0]
    assert len({key for key, _ in found.values()}) == 4
    assert all("abc" in key for key, _ in found.values())
    assert np.array_equal(found["lung"][1], found["-600,1500"][1])
    assert not np.array_equal(found["lung"][1], found["bone"][1])
