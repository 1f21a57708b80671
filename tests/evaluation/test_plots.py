import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn import metrics

from cnnClassifier.evaluation.plots import (
    GalleryImage,
    overlay,
    worst_predictions,
    write_plots,
    write_tables,
)
from tests.labeled_predictions import (
    DISTANCES,
    class_names,
    full_scores,
    images_table,
    labeled,
    random_predictions,
)

PLOTS = {"calibration", "confusion_matrix", "errors", "history", "out_of_distribution", "pr", "roc"}


@pytest.mark.parametrize("count", [2, 3])
def test_tables_and_plots(tmp_path, count):
    predictions, classes = random_predictions(count), np.array(class_names(count))
    write_tables(tmp_path, predictions, classes, images_table(), DISTANCES)
    tables = {path.stem: pd.read_csv(path) for path in tmp_path.glob("*.csv")}
    roc, pr, calibration = tables["roc"], tables["pr"], tables["calibration"]
    actual, score = predictions.labels == 0, predictions.probabilities[:, 0]
    area = np.trapezoid(roc["tpr"], roc["fpr"])
    assert area == pytest.approx(metrics.roc_auc_score(actual, score))
    assert np.isfinite(roc["threshold"]).all()
    assert pr["recall"].is_monotonic_increasing
    steps = np.diff(pr["recall"]) @ pr["precision"][1:]
    assert steps == pytest.approx(metrics.average_precision_score(actual, score))
    assert calibration["n"].sum() == 120
    assert calibration["ideal"].equals(calibration["confidence"])
    assert (tables["confusion"]["actual"] == classes[predictions.labels]).all()
    assert (tables["confusion"]["predicted"] == classes[predictions.predicted]).all()
    assert tables["out_of_distribution"].equals(DISTANCES)

    history = tmp_path / "history.csv"
    history.write_text("epoch,loss,val_loss\n1,0.9,1.0\n2,0.5,0.7\n")
    pixels = np.zeros((32, 32, 3), np.uint8)
    image = GalleryImage("ill/1.png", "ill", "well", 0.9, pixels, pixels)
    write_plots(tmp_path, history, full_scores(count), [image] * 3, "a note")
    assert {path.stem for path in tmp_path.glob("*.png")} == PLOTS
    for path in tmp_path.glob("*.png"):
        assert np.asarray(Image.open(path).convert("L")).std() > 5
    history.write_text("epoch,loss\n1,0.9\n2,0.5\n")  # where blocks of the backbone are trained
    write_plots(tmp_path, history, full_scores(count), [image] * 3, "a note")


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
