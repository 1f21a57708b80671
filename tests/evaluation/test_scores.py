import pytest

from cnnClassifier.entity.disclaimers import SYNTHETIC
from cnnClassifier.evaluation.cross_validation import baseline_note
from cnnClassifier.evaluation.scores import TOO_FEW_GROUPS, format_scores
from tests.labeled_predictions import cross_validation, full_scores, random_predictions

FAILED = {
    "name": "max_ece",
    "passed": False,
    "message": "Expected calibration error is 0.300; " + "word " * 20,
}
PASSED = {"name": "no_leakage", "passed": True, "message": "No leakage."}


def columns_of(scores, name):
    """The words of a metric's line: of the test split, the cross-validation and the baseline."""
    validated = scores["cross_validation"]
    test = {"metrics": scores, "intervals": scores["intervals"]}
    words = []
    for source in (test, validated, validated["baseline"]):
        low, high = source["intervals"][name]
        words += [f"{source['metrics'][name]:.3f}", f"({low:.2f}…{high:.2f})"]
    return words


@pytest.mark.parametrize("count", [2, 3])
def test_all_scores_fit_a_terminal(count):
    warning = "Class normal has few groups in test."
    scores = full_scores(count, gates=[FAILED, PASSED], warnings=[warning])
    text = format_scores(scores)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 79
    assert lines[0] == "Test split: 120 images in 40 groups (SYNTHETIC)"
    name = "ROC AUC" if count == 2 else "macro ROC AUC"
    roc_auc, per_group = (line for line in lines if line.startswith(f"  {name} "))
    assert roc_auc.split()[count:] == columns_of(scores, "roc_auc")
    (mcc,) = (line for line in lines if line.startswith("  MCC"))
    low, high = scores["intervals"]["mcc"]
    assert " ".join(mcc.split()) == f"MCC {scores['mcc']:.3f} {low:.3f} to {high:.3f} 120 40"
    rows = [line.split("  ")[1] for line in lines if line.startswith("  ")]
    assert (rows.index("accuracy") < rows.index("log loss")) is (count == 3)
    assert ("specificity (adenocarcinoma)" in rows) is (count == 3)
    assert (" default " in text) is (count == 2), "no threshold that isn't used"
    series = scores["series"]
    low, high = series["intervals"]["roc_auc"]
    assert f" {series['metrics']['roc_auc']:.3f} ({low:.2f}…{high:.2f})" in per_group
    for row in scores["confusion_matrix"]:
        assert any(line.split()[1:] == list(map(str, row)) for line in lines)
    for expected in (
        "sensitivity>=0.95",
        "120 in 40 groups 210 in 70 groups 210 in 70 groups",
        "the class with the fewest groups has 14 in the test split",
        "The model is significantly better than its baseline: log loss -0.",
        "Weights: local (conv_max) 0.6, linear 0.4; 3 heads each.",
        "66.7% of 3 images of other kinds",
        "25.0% of 4 test images",
        "gate max_ece failed: Expected calibration error is 0.300;",
        warning,
        SYNTHETIC,
    ):
        assert expected in " ".join(text.split())
    assert "No leakage" not in text
    assert "Not a medical device" in lines[-1]
    assert ("large.cell_carc…" in text) is (count == 3)


def test_without_a_test_split_there_is_no_such_column():
    scores = full_scores(has_test=False)
    text = format_scores(scores)
    assert "Out-of-fold predictions of the training images (there is no test split): 120" in (
        " ".join(text.split())
    )
    heading = text.splitlines()[3].split()
    assert heading == ["Cross-validated", "Linear", "baseline"]
    assert "test images" not in text


def test_a_model_that_is_not_better_than_its_baseline_is_marked():
    scores = full_scores()
    predictions = random_predictions()
    same = cross_validation(predictions, predictions)
    scores["cross_validation"] |= same | {"baseline_note": baseline_note(same)}
    text = " ".join(format_scores(scores).split())
    assert "! The model is not significantly better than its baseline: log loss +0.000" in text


def test_real_data_and_passed_gates():
    text = format_scores(full_scores(gates=[PASSED, PASSED], synthetic=False))
    assert "(real data)" in text
    assert "all 2 gates passed" in text
    assert "ynthetic" not in text


def test_missing_intervals_are_explained_once():
    scores = full_scores()
    assert TOO_FEW_GROUPS not in format_scores(scores)
    del scores["intervals"]["precision"], scores["intervals"]["recall"]
    text = format_scores(scores)
    assert text.count(TOO_FEW_GROUPS) == 1
    assert max(map(len, text.splitlines())) <= 79


def test_a_matrix_of_many_classes_is_left_out():
    names = [f"class number {n}" for n in range(12)]
    text = format_scores(full_scores(3) | {"classes": names, "confusion_matrix": [[0] * 12] * 12})
    assert max(map(len, text.splitlines())) <= 79
    assert "see confusion_matrix.png" in text
