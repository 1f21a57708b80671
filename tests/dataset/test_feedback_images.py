from pathlib import PurePosixPath

import numpy as np
import pandas as pd
import pytest

from cnnClassifier.dataset import feedback as module
from cnnClassifier.dataset.feedback import find_feedback, place_feedback
from cnnClassifier.dataset.layout import SourceImage
from cnnClassifier.utils.errors import SourceError
from tests.archives import write_files

# A group of two images in train, one of validation, one of test; their patients are 1, 1, 2, 3.
SOURCE = {
    "path": ["a/1", "b/1", "a/2", "b/3"],
    "label": ["a", "b", "a", "b"],
    "patient": ["p1", "p1", "p2", "p3"],
    "group": ["g1", "g1", "g2", "g3"],
    "split": ["train", "train", "validation", "test"],
}


def place(monkeypatch, patients, pairs):
    """Place a feedback image of class a for each patient, with near-duplicates by row."""
    count = len(SOURCE["path"])
    source = pd.DataFrame(SOURCE)
    texts = dict.fromkeys(("error", "duplicate_of", "conflict_with", "reason"), "")
    texts |= {"given_group": "", "given_split": ""}
    source = source.assign(**texts, feedback=False, duplicate_set=range(count), sha256=source.path)
    feedback = pd.DataFrame({"path": [f"a/f{n}" for n in range(len(patients))]})
    feedback = feedback.assign(label="a", patient=patients, error="", feedback=True)
    feedback["sha256"] = feedback["path"]
    feedback.index += count
    monkeypatch.setattr(module, "find_near_duplicates", lambda *args: pairs)
    keypoints = np.full(count + len(patients), None, object)
    table = place_feedback(source, feedback, keypoints, 0.9)
    assert table.index.tolist() == list(range(len(table)))
    known = table.iloc[:count]
    assert known[["group", "path"]].equals(source[["group", "path"]])
    added = table.iloc[count:]
    return known["split"].tolist(), list(zip(added["group"], added["split"], strict=True)), table


def test_an_image_of_a_known_patient_joins_its_group(monkeypatch):
    splits, added, table = place(monkeypatch, ["p1", "p2", "p3", "p4", "p4", ""], [])
    assert splits == SOURCE["split"]
    assert added[:3] == [("g1", "train"), ("g2", "validation"), ("g3", "")]
    assert added[3:] == [("a/f3", "train"), ("a/f3", "train"), ("a/f5", "train")]
    assert table["reason"][6] == "leakage: its group is in test"


@pytest.mark.parametrize(
    ("patients", "pairs", "reason"),
    [
        # A near-duplicate of another feedback image, which is one of a test image.
        (["", ""], [(3, 4), (4, 5)], "leakage: same image as b/3, which is in test"),
        (["", "p3"], [(4, 5)], "leakage: its group is in test"),
        (["p2", ""], [(0, 5), (4, 5)], "leakage: its group is in train and validation"),
    ],
)
def test_an_image_that_would_cross_splits_is_left_out(monkeypatch, patients, pairs, reason):
    splits, added, table = place(monkeypatch, patients, pairs)
    assert splits == SOURCE["split"]
    assert [split for _, split in added] == ["", ""]
    assert table["reason"][4:].tolist() == [reason] * 2


def test_near_duplicates_of_another_class_are_left_out(monkeypatch):
    splits, added, table = place(monkeypatch, [""], [(1, 4)])
    assert splits == ["train", "", "validation", "test"]
    assert added == [("g1", "train")]
    assert table["reason"][1] == "corrected: same image as a/f0, whose class is right"
    assert not table["duplicate_of"].any()


@pytest.mark.parametrize(
    ("split", "expected"), [("", ""), ("Train", "Train"), ("testing", "train")]
)
def test_a_folder_of_classes_is_added(tmp_path, split, expected):
    images = [
        SourceImage(PurePosixPath(f"{label}/1.png"), split, label, PurePosixPath("1.png"))
        for label in "ab"
    ]
    folder, data_dir = tmp_path / "feedback", tmp_path / "data"
    assert find_feedback(None, images, data_dir) == find_feedback(folder, images, data_dir) == []
    write_files(folder, {"a/x.png": b"x", "b/deep/y.png": b"y", ".gitignore": b"*"})
    found = [str(image.target) for image in find_feedback(folder, images, data_dir)]
    names = ["a/feedback-x.png", "b/feedback-deep-y.png"]
    assert found == [str(PurePosixPath(expected, name)) for name in names]
    with pytest.raises(SourceError, match="feedback_dir is inside of data_dir"):
        find_feedback(folder, images, tmp_path)
    write_files(folder, {"c/x.png": b"x"})
    with pytest.raises(SourceError, match=r"c/x.png: expected a folder for each class \(a, b\)"):
        find_feedback(folder, images, data_dir)
