import pytest

from cnnClassifier.assessment.table import DISCLAIMER, SYNTHETIC, score_table

SCORES = {
    "balanced_accuracy": 0.91234,
    "roc_auc": 0.95,
    "sensitivity": 0.9,
    "specificity": 0.92,
    "precision": 0.88,
    "f1": 0.89,
    "accuracy": 0.915,
    "loss": 12.3456,
    "n": 110,
    "n_groups": 40,
    "confusion_matrix": [[40, 5], [5, 60]],
    "classes": ["adenocarcinoma", "normal"],
}


@pytest.mark.parametrize("synthetic", [True, False])
def test_the_table_says_what_it_is_of_and_what_it_is_not_for(synthetic):
    lines = score_table({**SCORES, "synthetic": synthetic}).splitlines()
    assert lines[0] == f"Test split: 110 images in 40 groups ({'SYNTHETIC' if synthetic else 'real data'})"
    assert lines[-1] == DISCLAIMER
    assert "Not a medical device" in DISCLAIMER
    assert (SYNTHETIC in lines) == synthetic
    shown = {" ".join(line.split()[:-1]): line.split()[-1] for line in lines if line.startswith("  ")}
    assert (shown["balanced accuracy"], shown["ROC AUC"], shown["loss"]) == ("0.912", "0.950", "12.346")


@pytest.mark.parametrize(
    ("classes", "matrix"),
    [
        (["adenocarcinoma", "normal"], [[40, 5], [5, 60]]),
        (["a", "b", "c"], [[1, 2, 3], [4, 5, 6], [7, 8, 9]]),
        (["a.very.long.name.of_a_class_folder", "b"], [[10000, 0], [0, 1]]),
    ],
)
def test_the_confusion_matrix_stands_in_columns(classes, matrix):
    lines = score_table({**SCORES, "synthetic": True, "classes": classes, "confusion_matrix": matrix}).splitlines()
    start = next(number for number, line in enumerate(lines) if "actual" in line)
    head, body = lines[start], lines[start + 1 : start + 1 + len(classes)]
    for row, name, counts in zip(body, classes, matrix, strict=True):
        assert row.split() == [name, *map(str, counts)]
        assert len(row) == len(head)
