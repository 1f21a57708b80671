import pytest

from cnnClassifier.entity.config_entity import GatesConfig
from cnnClassifier.entity.manifest import Entry, Manifest
from cnnClassifier.evaluation.gates import check_gates

NO_GATES = GatesConfig(
    min_images_per_class=None,
    min_groups_per_class=None,
    no_leakage=False,
    min_roc_auc=None,
    min_roc_auc_lower_bound=None,
    max_shortcut_auc=None,
    max_ece=None,
    on_failure="stop",
)
SCORES = {"split": "test", "roc_auc": 0.9, "ece": 0.08, "intervals": {"roc_auc": [0.8, 0.95]}}
REPORT = {"shortcuts": {"gray": {"auc": 0.6}, "thumbnail": {"auc": 0.82}}}


def entry(number, split="train", label="ill", sha256=None, group=None):
    path, sha256 = f"{label}/{number}.png", sha256 or f"{number:064}"
    return Entry(path, label, sha256, group or f"g{number}", split)


ENTRIES = [entry(n, split) for n, split in enumerate(("train", "train", "validation", "test", ""))]
for number in range(10, 16):
    ENTRIES.append(
        entry(number, "train" if number < 14 else "test", "well", group=f"w{number // 2}")
    )


def check(extra=(), report=REPORT, scores=SCORES, **limits):
    manifest = Manifest((*ENTRIES, *extra))
    return check_gates(NO_GATES.model_copy(update=limits), manifest, report, scores)


def test_limits_that_are_not_set_are_not_checked():
    assert check() == []


@pytest.mark.parametrize(
    ("name", "met", "missed", "message"),
    [
        ("min_images_per_class", 4, 5, "Number of images of class ill is 4; the minimum is 5."),
        ("min_groups_per_class", 3, 4, "Number of groups of class well is 3; the minimum is 4."),
        ("min_roc_auc", 0.9, 0.91, "ROC AUC of the test split is 0.900; the minimum is 0.91."),
        (
            "min_roc_auc_lower_bound",
            0.8,
            0.81,
            "ROC AUC of the test split is 0.800; the minimum is 0.81.",
        ),
        ("max_ece", 0.08, 0.07, "error of the test split is 0.080; the maximum is 0.07."),
        ("max_shortcut_auc", 0.82, 0.8, "shortcut (thumbnail) is 0.820; the maximum is 0.8."),
    ],
)
def test_each_limit_is_inclusive(name, met, missed, message):
    (gate,) = check(**{name: met})
    assert gate["passed"]
    (gate,) = check(**{name: missed})
    assert (gate["name"], gate["passed"]) == (name, False)
    assert gate["message"].endswith(message)


def test_without_a_test_split_the_message_names_the_out_of_fold_predictions():
    (gate,) = check(scores=SCORES | {"split": "out_of_fold"}, min_roc_auc=0.91)
    found = "ROC AUC of the out-of-fold predictions of the training images is 0.900"
    assert gate["message"] == f"{found}; the minimum is 0.91."


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([], None),
        ([entry(90, "test", sha256=f"{0:064}")], "content of ill/0.png is in test and train"),
        ([entry(91, "validation", group="g3")], "group of ill/3.png is in test and validation"),
        ([entry(92, "", group="g3", sha256=f"{3:064}")], None),
    ],
    ids=["clean", "same content", "same group", "duplicate that is left out"],
)
def test_leakage_is_detected(extra, message):
    (gate,) = check(extra, no_leakage=True)
    assert gate["passed"] is (message is None)
    assert (message or "No image and no group") in gate["message"]


def test_a_value_that_cannot_be_computed_fails():
    limits = {"min_roc_auc_lower_bound": 0.1, "max_shortcut_auc": 1.0}
    gates = check(report={"shortcuts": {}}, scores=SCORES | {"intervals": {}}, **limits)
    assert [gate["passed"] for gate in gates] == [False, False]
