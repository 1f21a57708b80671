import numpy as np
import pytest
from sklearn import metrics

from cnnClassifier.assessment.metrics import decide, scores

LABELS = np.array([0, 0, 0, 1, 1, 1, 1, 0])
ILL = np.array([0.9, 0.8, 0.3, 0.4, 0.6, 0.2, 0.1, 0.5])
TWO = np.stack([ILL, 1 - ILL], axis=1)
# threshold: true ill, missed, false alarms, true well
COUNTS = {0.5: (3, 1, 1, 3), 0.3: (4, 0, 2, 2), 0.85: (1, 3, 0, 4), 0.0: (4, 0, 4, 0), 1.0: (0, 4, 0, 4)}


@pytest.mark.parametrize(("threshold", "counts"), COUNTS.items())
@pytest.mark.parametrize("swapped", [False, True])
def test_two_classes_by_hand(threshold, counts, swapped):
    hit, missed, alarm, clear = counts
    labels, shown, classes = (1 - LABELS, TWO[:, ::-1], ("well", "ill")) if swapped else (LABELS, TWO, ("ill", "well"))
    found = scores(labels, shown, classes, "ill", threshold)
    matrix = [[hit, missed], [alarm, clear]]
    precision, recall = hit / max(hit + alarm, 1), hit / 4
    wanted = {
        "accuracy": (hit + clear) / 8,
        "balanced_accuracy": (hit / 4 + clear / 4) / 2,
        "roc_auc": 13 / 16,  # of 16 pairs of an ill and a well one, the ill one lies higher in 13
        "sensitivity": recall,
        "specificity": clear / 4,
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / max(precision + recall, 1e-9),
        "loss": -np.log(np.where(LABELS == 0, ILL, 1 - ILL)).mean(),
    }
    assert {key: found[key] for key in wanted} == pytest.approx(wanted)
    assert found["confusion_matrix"] == (np.array(matrix)[::-1, ::-1].tolist() if swapped else matrix)
    assert (found["n"], found["classes"], found["positive_class"]) == (8, list(classes), "ill")


def test_three_classes_are_macro_and_the_positive_one_against_the_rest():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    shown = rng.dirichlet([1, 1, 1], 60) + np.eye(3)[labels] * 0.3
    shown = (shown / shown.sum(1, keepdims=True)).astype(np.float32)
    found = scores(labels, shown, ("a", "b", "c"), "b", threshold=0.99)
    called = shown.argmax(1)
    one = [(shown[:, k], labels == k) for k in range(3)]
    areas = [np.mean([(p[is_k][:, None] > p[~is_k]) + 0.5 * (p[is_k][:, None] == p[~is_k])]) for p, is_k in one]
    wanted = {
        "roc_auc": np.mean(areas),
        "accuracy": np.mean(called == labels),
        "sensitivity": np.mean(called[labels == 1] == 1),
        "specificity": np.mean(called[labels != 1] != 1),
        "precision": np.mean([np.mean(labels[called == k] == k) for k in range(3)]),
        "recall": np.mean([np.mean(called[labels == k] == k) for k in range(3)]),
        "f1": metrics.f1_score(labels, called, average="macro"),
    }
    assert {key: found[key] for key in wanted} == pytest.approx(wanted)
    assert found["balanced_accuracy"] == found["recall"]
    assert np.array(found["confusion_matrix"]).trace() == (called == labels).sum()


def test_the_threshold_counts_for_two_classes_alone_and_includes_itself():
    assert decide(TWO, 0, 0.5).tolist() == [0, 0, 1, 1, 0, 1, 1, 0]
    assert decide(TWO, 1, 0.5).tolist() == [0, 0, 1, 1, 0, 1, 1, 1]
    assert decide(np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]), 1, 0.1).tolist() == [2, 0]
