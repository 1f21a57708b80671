import numpy as np

from cnnClassifier.evaluation.ood_samples import generate_ood_samples, ood_metrics
from tests.labeled_predictions import DISTANCES


def test_samples_are_many_of_each_kind_and_always_the_same():
    samples = list(generate_ood_samples(True))
    kinds = [sample.kind for sample in samples]
    assert len(samples) >= 40
    assert {"noise", "flat", "pattern", "texture", "photograph", "text and drawing"} <= set(kinds)
    assert min(map(kinds.count, kinds)) >= 3
    assert len({sample.name for sample in samples}) == len(samples)
    for sample, again in zip(samples, generate_ood_samples(True), strict=True):
        pixels = sample.pixels
        assert (pixels.dtype, pixels.ndim, pixels.shape[2]) == (np.uint8, 3, 3)
        assert min(pixels.shape[:2]) >= 32
        is_flat = pixels.std(axis=(0, 1)).max() == 0
        assert is_flat == (sample.kind == "flat")
        np.testing.assert_array_equal(pixels, again.pixels)
    assert any((sample.pixels[..., 0] != sample.pixels[..., 2]).any() for sample in samples)


def test_ood_metrics_count_distances_above_the_limit():
    metrics = ood_metrics(DISTANCES, np.arange(4), limit=1.0)
    assert (metrics["false_positive_rate"], metrics["n"]) == (0.25, 4)
    assert (metrics["detection_rate"], metrics["n_ood"]) == (0.666667, 3)
    assert metrics["by_kind"] == [
        {"kind": "noise", "n": 2, "detected": 1},
        {"kind": "flat", "n": 1, "detected": 1},
    ]
    low, high = metrics["intervals"]["detection_rate"]
    assert 0 < low < 2 / 3 < high < 1
    at_the_limit = ood_metrics(DISTANCES, np.zeros(4), limit=1.2)
    assert at_the_limit["false_positive_rate"] == 0
    assert at_the_limit["intervals"]["false_positive_rate"] is None, "a single group"
