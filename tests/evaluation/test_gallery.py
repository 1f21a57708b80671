import numpy as np

from cnnClassifier.evaluation.plots import overlay, worst_predictions
from tests.labeled_predictions import labeled


def test_errors_come_first_then_the_least_certain_images():
    positive = np.array([0.9, 0.2, 0.45, 0.05, 0.6, 0.55])
    labels = np.array([0, 0, 0, 1, 1, 0])
    predictions = labeled(labels, np.stack([positive, 1 - positive], 1), list("abcdef"), 0, 0.4)
    assert predictions.predicted.tolist() == [0, 1, 0, 1, 0, 0]
    assert worst_predictions(predictions, 6) == [1, 4, 2, 5, 0, 3]
    assert worst_predictions(predictions, 3) == [1, 4, 2]
    assert worst_predictions(predictions, 0) == []


def test_the_overlay_changes_only_active_regions():
    image = np.full((40, 60, 3), 100, np.uint8)
    activation = np.zeros((4, 6), np.float32)
    assert (overlay(image, activation) == image).all()
    activation[0, 5] = 1
    result = overlay(image, activation)
    assert (result.shape, result.dtype) == ((40, 60, 3), np.uint8)
    change = np.abs(result.astype(int) - 100).sum(2)
    assert change[:8, 52:].min() > 20
    assert change[25:, :40].max() == 0
    assert result[2, 57, 0] > result[2, 57, 2], "the upper end of the color map is yellow"
