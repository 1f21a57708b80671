import numpy as np

from cnnClassifier.evaluation.gallery import overlay, worst
from cnnClassifier.evaluation.metrics import Outcome


def test_errors_come_first_then_what_is_least_certain():
    positive = np.array([0.9, 0.2, 0.45, 0.05, 0.6, 0.55])
    labels = np.array([0, 0, 0, 1, 1, 0])
    made = Outcome.of(labels, np.stack([positive, 1 - positive], 1), list("abcdef"), 0, 0.4)
    assert made.called.tolist() == [0, 1, 0, 1, 0, 0]
    assert worst(made, 6) == [1, 4, 2, 5, 0, 3]
    assert worst(made, 3) == [1, 4, 2]
    assert worst(made, 0) == []


def test_the_map_shows_where_it_is_strong_and_leaves_the_rest():
    image = np.full((40, 60, 3), 100, np.uint8)
    activation = np.zeros((4, 6), np.float32)
    assert (overlay(image, activation) == image).all()
    activation[0, 5] = 1
    shown = overlay(image, activation).astype(int)
    assert (shown.shape, overlay(image, activation).dtype) == ((40, 60, 3), np.uint8)
    assert np.abs(shown - 100).sum(2)[:8, 52:].min() > 20
    assert (shown[25:, :40] == 100).all()
    assert shown[2, 57, 0] > shown[2, 57, 2], "the hot end of the scale is yellow"
