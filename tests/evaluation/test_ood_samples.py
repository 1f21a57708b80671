import numpy as np

from cnnClassifier.evaluation.ood_samples import familiarity, not_ct


def test_pictures_are_many_of_each_kind_and_always_the_same():
    pictures = list(not_ct())
    kinds = [picture.kind for picture in pictures]
    assert len(pictures) >= 40
    assert {"noise", "flat", "pattern", "texture", "photograph", "text and drawing"} <= set(kinds)
    assert min(kinds.count(kind) for kind in set(kinds)) >= 3
    assert len({picture.name for picture in pictures}) == len(pictures)
    for picture, again in zip(pictures, not_ct(), strict=True):
        assert (picture.pixels.dtype, picture.pixels.ndim, picture.pixels.shape[2]) == (
            np.uint8,
            3,
            3,
        )
        assert min(picture.pixels.shape[:2]) >= 32
        np.testing.assert_array_equal(picture.pixels, again.pixels)
    flat = [picture for picture in pictures if picture.kind == "flat"]
    assert all((picture.pixels == picture.pixels[0, 0]).all() for picture in flat)
    assert all(picture.pixels.std() > 1 for picture in pictures if picture.kind != "flat")
    assert any((picture.pixels[..., 0] != picture.pixels[..., 2]).any() for picture in pictures)


def test_familiarity_counts_what_lies_beyond_the_limit():
    found = familiarity(
        np.array([0.5, 1.0, 1.1, 0.2]),
        ["a", "b", "b", "b"],
        np.array([2.0, 3.0, 0.9, 1.0]),
        limit=1.0,
    )
    assert (found["false_alarm_rate"], found["n"]) == (0.25, 4)
    assert (found["detection_rate"], found["n_not_ct"]) == (0.5, 4)
    assert found["by_kind"] == [
        {"kind": "b", "n": 3, "found": 1},
        {"kind": "a", "n": 1, "found": 1},
    ]
    low, high = found["intervals"]["detection_rate"]
    assert 0 < low < 0.5 < high < 1
