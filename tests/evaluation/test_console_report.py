import pytest

from cnnClassifier.evaluation.console_report import format_scores
from tests.outcomes import full_scores

UNMET = {
    "name": "max_ece",
    "met": False,
    "sentence": "The expected calibration error is 0.300; " + "word " * 20,
}
MET = {"name": "no_leakage", "met": True, "sentence": "Nothing leaks."}


@pytest.mark.parametrize("count", [2, 3])
def test_fits_a_terminal_and_says_all(count):
    found = full_scores(
        count, gates=[UNMET, MET], warnings=["Class normal has few groups in test."]
    )
    text = format_scores(found)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 79
    assert lines[0] == "Test split: 120 images in 40 groups (SYNTHETIC)"
    (auc,) = (line for line in lines if line.startswith("  ROC AUC"))
    low, high = found["intervals"]["roc_auc"]
    assert auc.split() == [
        "ROC",
        "AUC",
        f"{found['roc_auc']:.3f}",
        f"{low:.3f}",
        "to",
        f"{high:.3f}",
        "120",
        "40",
    ]
    for row in found["confusion_matrix"]:
        assert any(line.split()[1:] == [str(value) for value in row] for line in lines)
    assert any("sensitivity>=0.95" in line for line in lines)
    assert "66.7% of 3 pictures" in text
    assert "25.0%" in text
    assert "gate max_ece not met: The expected calibration error is 0.300;" in text
    assert "Nothing leaks" not in text
    assert "Class normal has few groups in test." in text
    assert "synthetic pictures" in text
    assert "Not a medical device" in lines[-1]
    assert ("large.cell_carci…" in text) is (count == 3)


def test_real_data_and_met_gates():
    text = format_scores(full_scores(gates=[MET, MET], synthetic=False))
    assert "(real data)" in text
    assert "all 2 gates met" in text
    assert "ynthetic" not in text


def test_many_classes_do_not_burst_the_terminal():
    names = [f"class number {n}" for n in range(12)]
    text = format_scores(full_scores() | {"classes": names, "confusion_matrix": [[0] * 12] * 12})
    assert max(map(len, text.splitlines())) <= 79
    assert "see confusion_matrix.png" in text
