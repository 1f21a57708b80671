import csv

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics

from cnnClassifier.evaluation.gallery import Case
from cnnClassifier.evaluation.plots import columns, write_pictures, write_tables
from cnnClassifier.utils.common import write_csv
from tests.outcomes import classes, full_scores, outcome

FAR = [
    ("test images", "a.png", 0.5, False),
    ("test images", "b.png", 0.0, False),
    ("noise", "uniform", 5.0, True),
]


@pytest.mark.parametrize("count", [2, 3])
def test_tables_hold_the_curves_of_the_positive_class(tmp_path, count):
    made = outcome(count)
    write_tables(tmp_path, made, classes(count), FAR)
    roc, pr, bins = (columns(tmp_path / f"{name}.csv") for name in ("roc", "pr", "calibration"))
    ill, score = made.labels == 0, made.probabilities[:, 0]
    assert np.trapezoid(roc["tpr"], roc["fpr"]) == pytest.approx(metrics.roc_auc_score(ill, score))
    assert (roc["fpr"][0], roc["tpr"][-1]) == (0, 1)
    assert np.isfinite(roc["threshold"]).all()
    assert pr["recall"] == sorted(pr["recall"])
    steps = -np.diff(pr["recall"][::-1]) @ np.array(pr["precision"][:0:-1])
    assert steps == pytest.approx(metrics.average_precision_score(ill, score))
    assert sum(bins["n"]) == 120
    assert bins["ideal"] == bins["confidence"]
    with (tmp_path / "confusion.csv").open() as file:
        rows = [(row["actual"], row["predicted"]) for row in csv.DictReader(file)]
    assert rows == [
        (classes(count)[a], classes(count)[p])
        for a, p in zip(made.labels, made.called, strict=True)
    ]
    assert (tmp_path / "unfamiliar.csv").read_text() == (
        "kind,name,distance,unfamiliar\ntest images,a.png,0.5000,False\ntest images,b.png,0.0000,False\n"
        "noise,uniform,5.0000,True\n"
    )


@pytest.mark.parametrize("count", [2, 3])
def test_pictures_are_drawn(tmp_path, count):
    history = tmp_path / "history.csv"
    write_csv(history, ("epoch", "loss", "val_loss"), [(1, 0.9, 1.0), (2, 0.5, 0.7)])
    image = np.zeros((32, 32, 3), np.uint8)
    case = Case("ill/1.png", "ill", "well", 0.9, image, image)
    write_tables(tmp_path, outcome(count), classes(count), FAR)
    write_pictures(tmp_path, history, full_scores(count), [case] * 3, "a note")
    drawn = {
        path.stem: np.asarray(Image.open(path).convert("L")) for path in tmp_path.glob("*.png")
    }
    assert set(drawn) == {
        "calibration",
        "confusion_matrix",
        "errors",
        "history",
        "pr",
        "roc",
        "unfamiliar",
    }
    assert all(pixels.std() > 5 for pixels in drawn.values())
