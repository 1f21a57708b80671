import csv

import numpy as np
import pytest
from PIL import Image

from cnnClassifier.assessment.metrics import decide, scores
from cnnClassifier.assessment.plots import write_csv, write_pictures, write_tables


@pytest.fixture(params=[("ill", "well"), ("a", "b, with comma", "c")], ids=["two", "three"])
def written(request, tmp_path):
    """Tables and pictures of random predictions, and what they were made of."""
    classes = request.param
    rng = np.random.default_rng(0)
    labels = np.arange(30) % len(classes)
    shown = rng.dirichlet([1] * len(classes), 30)
    called = decide(shown, 0, 0.5)
    write_csv(tmp_path / "history.csv", ("epoch", "loss", "val_loss"), [(1, 0.9, 0.8), (2, 0.5, 0.6)])
    write_tables(tmp_path, labels, called, shown[:, 0], classes, 0)
    figures = scores(labels, shown, classes, classes[0], 0.5)
    write_pictures(tmp_path, tmp_path / "history.csv", figures, "SYNTHETIC\nNot a medical device")
    return tmp_path, classes, labels, called, figures


def rows(path):
    assert b"\r" not in path.read_bytes()
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_tables_hold_every_image_and_a_whole_curve(written):
    folder, classes, labels, called, figures = written
    confusion = rows(folder / "confusion.csv")
    assert [(row["actual"], row["predicted"]) for row in confusion] == [
        (classes[a], classes[p]) for a, p in zip(labels, called, strict=True)
    ]
    curve = {name: [float(row[name]) for row in rows(folder / "roc.csv")] for name in ("fpr", "tpr", "threshold")}
    for name in ("fpr", "tpr"):
        assert (curve[name][0], curve[name][-1]) == (0, 1)
        assert curve[name] == sorted(curve[name])
    assert curve["threshold"] == sorted(curve["threshold"], reverse=True)
    assert max(curve["threshold"]) <= 1
    if len(classes) == 2:
        assert np.trapezoid(curve["tpr"], curve["fpr"]) == pytest.approx(figures["roc_auc"])


def test_pictures_show_something_and_are_the_same_again(written, tmp_path_factory):
    folder, _, _, _, figures = written
    pictures = sorted(path.name for path in folder.glob("*.png"))
    assert pictures == ["confusion_matrix.png", "history.png", "roc.png"]
    for name in pictures:
        pixels = np.asarray(Image.open(folder / name).convert("L"))
        assert min(pixels.shape) > 300
        assert 0.001 < (pixels < 200).mean() < 0.6
    again = tmp_path_factory.mktemp("again")
    (again / "roc.csv").write_bytes((folder / "roc.csv").read_bytes())
    write_pictures(again, folder / "history.csv", figures, "SYNTHETIC\nNot a medical device")
    assert [(again / name).read_bytes() for name in pictures] == [(folder / name).read_bytes() for name in pictures]
    write_pictures(again, folder / "history.csv", figures, "another note")
    assert (again / "roc.png").read_bytes() != (folder / "roc.png").read_bytes()
