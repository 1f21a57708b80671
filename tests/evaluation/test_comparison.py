from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cnnClassifier.entity.bundle import FORMAT_VERSION
from cnnClassifier.entity.disclaimers import MEDICAL_DISCLAIMER
from cnnClassifier.evaluation.comparison import (
    EvaluatedModel,
    compare_models,
    format_markdown,
    format_page,
    format_text,
    verdict,
)
from cnnClassifier.evaluation.metrics import compute_scores
from cnnClassifier.evaluation.scores import METRIC_LABELS, TOO_FEW_GROUPS
from cnnClassifier.utils.common import save_json
from cnnClassifier.utils.errors import UserError
from tests.labeled_predictions import class_names, random_predictions


def evaluated(name="A", count=2, first=0, synthetic=True, params=None, **options):
    """A model with predictions of a given skill on images numbered from `first`."""
    predictions = random_predictions(count, **options)
    classes = class_names(count)
    names = [f"image{number + first}" for number in range(len(predictions.labels))]
    actual = np.array(classes)[predictions.labels]
    images = pd.DataFrame({"path": names, "sha256": names, "actual": actual})
    return EvaluatedModel(
        name,
        classes,
        "adenocarcinoma",
        synthetic,
        images,
        predictions,
        params or {},
        disclaimer=MEDICAL_DISCLAIMER,
    )


def difference(comparison, name):
    return next(row for row in comparison.differences if row["name"] == name)


@pytest.mark.parametrize("count", [2, 3])
def test_a_better_model_differs_significantly(count):
    # The same seed gives the same images with similar noise: the case that pairing is for.
    a, b = evaluated(count=count, skill=0.3), evaluated("B", count=count, skill=3)
    comparison = compare_models(a, b, 40, 0)
    assert comparison.paired
    assert comparison.notes == ["Both models were evaluated on the same 120 images in 40 groups."]
    scores = compute_scores(b.predictions, b.classes, {}, 40, 0)
    for row in comparison.differences:
        assert row["b"] == scores[row["name"]]
        assert row["b_interval"] == scores["intervals"].get(row["name"])
        assert row["low"] <= row["value"] <= row["high"]
    assert {row["better"] for row in comparison.differences} <= {"B", ""}
    for name in ("loss", "accuracy", "roc_auc", "brier"):
        assert difference(comparison, name)["better"] == "B"
    assert difference(compare_models(b, a, 40, 0), "loss")["better"] == "A"
    assert verdict(comparison).startswith("Model B is better: ROC AUC B − A +")
    assert comparison.differences == compare_models(a, b, 40, 0).differences


def test_pairing_detects_a_difference_that_two_test_sets_hide():
    a, b = evaluated(skill=1.0), evaluated("B", skill=1.3)
    paired = compare_models(a, b, 40, 0)
    unpaired = compare_models(a, evaluated("B", skill=1.3, first=1000), 40, 0)
    assert (paired.paired, unpaired.paired) == (True, False)
    assert difference(paired, "loss")["value"] == difference(unpaired, "loss")["value"]
    assert difference(paired, "loss")["better"] == "B"
    assert difference(unpaired, "loss")["better"] == ""
    assert "no images are in both" in unpaired.notes[0]
    assert unpaired.disagreements == []


def test_a_model_does_not_differ_from_itself():
    comparison = compare_models(evaluated(), evaluated("B"), 40, 0)
    for row in comparison.differences:
        assert (row["value"], row["low"], row["high"], row["better"]) == (0, 0, 0, "")
    assert comparison.disagreements == []
    text = format_text(comparison)
    assert "No significant difference" in text
    assert "No metric differs significantly." in text
    assert "Both models predict the same class for all 120 images." in text


def test_shared_images_are_compared_in_groups_merged_from_both():
    a, b = evaluated(), evaluated("B", skill=0.5)
    b = b.take(np.arange(119, 59, -1))  # in another order
    b = replace(b, predictions=replace(b.predictions, groups=np.arange(60) // 6))
    comparison = compare_models(a, b, 40, 0)
    paths = comparison.a.images["path"].tolist()
    assert paths == comparison.b.images["path"].tolist() == a.images["path"].tolist()[60:]
    assert comparison.notes[0].endswith("the images that both have: 60 images in 10 groups.")
    assert comparison.notes[1].startswith("With only 10 groups ")
    other_classes = np.where(b.images["actual"] == "normal", "adenocarcinoma", "normal")
    relabeled = replace(b, images=b.images.assign(actual=other_classes))
    assert not compare_models(a, relabeled, 40, 0).paired


def test_missing_intervals_are_explained_once():
    a, b = evaluated(), evaluated("B", first=1000)
    groups = np.where(a.predictions.labels == 0, 0, a.predictions.groups + 1)
    a = replace(a, predictions=replace(a.predictions, groups=groups))  # sensitivity has one group
    comparison = compare_models(a, b, 40, 0)
    for form in (format_text(comparison), format_markdown(comparison), format_page(comparison)):
        assert form.count(TOO_FEW_GROUPS) == 1
    assert TOO_FEW_GROUPS not in format_text(compare_models(b, b, 40, 0))


def test_different_predictions_are_listed():
    a, b = evaluated(skill=0.5), evaluated("B", skill=2)
    comparison = compare_models(a, b, 40, 0)
    differs = a.predictions.predicted != b.predictions.predicted
    rows = comparison.disagreements
    assert {row["path"] for row in rows} == set(a.images["path"][differs])
    for row in rows:
        index = a.images["path"].tolist().index(row["path"])
        column = b.classes.index(row["b_predicted"])
        assert row["b_probability"] == b.predictions.probabilities[index, column]
        assert {"A": row["a_predicted"], "B": row["b_predicted"]}[row["correct"]] == row["actual"]
    confidence = [row["a_probability"] + row["b_probability"] for row in rows]
    assert confidence == sorted(confidence, reverse=True)
    correct = [row["correct"] for row in rows]
    counts = f"A is right on {correct.count('A')}, B on {correct.count('B')}."
    assert f"{len(rows)} of 120 images: {counts}" in " ".join(format_text(comparison).split())


@pytest.mark.parametrize(
    ("count", "synthetic", "first"), [(2, True, 0), (3, False, 0), (2, False, 1000)]
)
def test_every_format_is_complete(count, synthetic, first):
    params = {"EPOCHS": "2", "SEED": "1"}
    a = evaluated("main | <b>", count, synthetic=synthetic, params=params, skill=0.3)
    b = evaluated("B", count, first, synthetic, params | {"EPOCHS": "3"}, skill=2)
    comparison = compare_models(a, b, 40, 0)
    text, markdown = format_text(comparison), format_markdown(comparison)
    page = format_page(comparison)
    assert max(map(len, text.splitlines())) <= 79
    lines = {line[2:20].strip(): line for line in text.splitlines()}
    for row in comparison.differences:
        assert lines[METRIC_LABELS[row["name"]]].endswith(f"{row['low']:+.2f}…{row['high']:+.2f})")
    for form in (text, markdown, page):
        flat = " ".join(form.split())
        assert verdict(comparison) in flat
        assert comparison.notes[0].split(";")[0] in flat
        assert all(label in form for label in METRIC_LABELS.values())
        assert "Not a medical device" in form
        assert ("synthetic" in form) is synthetic
        assert "EPOCHS" in form
        assert "SEED" not in form
        assert ("Different predictions for" in flat) is comparison.paired is (first == 0)
        for row in comparison.disagreements[:1]:
            assert row["path"] in form
    assert "main \\| \\<b\\> (A)" in markdown
    assert "<b>" not in page
    assert page.count("<polyline") == 4
    assert "http" not in page


def write(folder, model):
    folder.mkdir()
    scores = {
        "classes": model.classes,
        "positive_class": model.positive_class,
        "synthetic": model.synthetic,
        "split": model.split,
        "format_version": FORMAT_VERSION,
    }
    save_json(folder / "scores.json", scores)
    predictions = model.predictions
    names = np.array(model.classes)
    columns = [
        model.images[["path", "sha256"]],
        pd.Series(predictions.groups, name="group").map("g{:03}".format),
        model.images["actual"],
        pd.Series(names[predictions.predicted], name="predicted"),
        pd.DataFrame(predictions.probabilities, columns=names).assign(distance=1.5),
    ]
    pd.concat(columns, axis=1).to_csv(folder / "predictions.csv", index=False)
    return folder


def test_reads_the_output_of_evaluation(tmp_path):
    model = evaluated(count=3)
    classes = ("adenocarcinoma", "group", "normal")  # also a column
    model = replace(model, classes=classes, split="out_of_fold")
    model.images["actual"] = np.array(model.classes)[model.predictions.labels]
    read = EvaluatedModel.read(write(tmp_path / "a", model), "A")
    for name in ("labels", "predicted", "groups"):
        assert np.array_equal(getattr(read.predictions, name), getattr(model.predictions, name))
    assert np.allclose(read.predictions.probabilities, model.predictions.probabilities)
    pd.testing.assert_frame_equal(read.images, model.images, check_dtype=False)
    assert (read.classes, read.positive_class) == (model.classes, "adenocarcinoma")
    (note,) = (note for note in compare_models(model, read, 40, 0).notes if note.startswith("B: "))
    assert note == "B: out-of-fold predictions of the training images (there is no test split)."


def test_files_that_cannot_be_read_are_named(tmp_path):
    folder = write(tmp_path / "a", evaluated())
    table = pd.read_csv(folder / "predictions.csv")
    for damaged in (table.rename(columns={"sha256": "digest"}), table.assign(actual="unknown")):
        damaged.to_csv(folder / "predictions.csv", index=False)
        with pytest.raises(UserError, match="main: the evaluation is incomplete or damaged"):
            EvaluatedModel.read(folder, "main")
    (folder / "predictions.csv").unlink()
    with pytest.raises(UserError, match=r"incomplete .* No such file .*predictions\.csv"):
        EvaluatedModel.read(folder, "main")
    for content in ({}, {"format_version": 4}):
        save_json(folder / "scores.json", content)
        with pytest.raises(UserError, match=r"made by version [14]; run dvc repro"):
            EvaluatedModel.read(folder, "main")


def test_models_with_other_classes_cannot_be_compared():
    with pytest.raises(UserError, match="classes of A: adenocarcinoma, normal; of B: adeno"):
        compare_models(evaluated(), evaluated("B", count=3), 40, 0)
    other = replace(evaluated("B"), positive_class="normal")
    with pytest.raises(UserError, match="positive class of A: adenocarcinoma; of B: normal"):
        compare_models(evaluated(), other, 40, 0)
