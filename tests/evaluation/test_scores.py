import pytest

from cnnClassifier.entity.disclaimers import SYNTHETIC
from cnnClassifier.evaluation.scores import TOO_FEW_GROUPS, format_scores
from tests.labeled_predictions import full_scores

FAILED = {
    "name": "max_ece",
    "passed": False,
    "message": "Expected calibration error is 0.300; " + "word " * 20,
}
PASSED = {"name": "no_leakage", "passed": True, "message": "No leakage."}


@pytest.mark.parametrize("count", [2, 3])
def test_all_scores_fit_a_terminal(count):
    warning = "Class normal has few groups in test."
    scores = full_scores(count, gates=[FAILED, PASSED], warnings=[warning])
    text = format_scores(scores)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 79
    assert lines[0] == "Test split: 120 images in 40 groups (SYNTHETIC)"
    (roc_auc,) = (line for line in lines if line.startswith("  ROC AUC"))
    low, high = scores["intervals"]["roc_auc"]
    expected = f"ROC AUC {scores['roc_auc']:.3f} {low:.3f} to {high:.3f} 120 40"
    assert " ".join(roc_auc.split()) == expected
    for row in scores["confusion_matrix"]:
        assert any(line.split()[1:] == list(map(str, row)) for line in lines)
    for expected in (
        "sensitivity>=0.95",
        "66.7% of 3 images that are no CT",
        "25.0% of 4 test images",
        "gate max_ece failed: Expected calibration error is 0.300;",
        warning,
        SYNTHETIC,
    ):
        assert expected in " ".join(text.split())
    assert "No leakage" not in text
    assert "Not a medical device" in lines[-1]
    assert ("large.cell_carc…" in text) is (count == 3)


def test_real_data_and_passed_gates():
    text = format_scores(full_scores(gates=[PASSED, PASSED], synthetic=False))
    assert "(real data)" in text
    assert "all 2 gates passed" in text
    assert "ynthetic" not in text


def test_missing_intervals_are_explained_once():
    scores = full_scores()
    assert TOO_FEW_GROUPS not in format_scores(scores)
    del scores["intervals"]["sensitivity"], scores["intervals"]["recall"]
    text = format_scores(scores)
    assert text.count(TOO_FEW_GROUPS) == 1
    assert max(map(len, text.splitlines())) <= 79


def test_a_matrix_of_many_classes_is_left_out():
    names = [f"class number {n}" for n in range(12)]
    text = format_scores(full_scores() | {"classes": names, "confusion_matrix": [[0] * 12] * 12})
    assert max(map(len, text.splitlines())) <= 79
    assert "see confusion_matrix.png" in text
