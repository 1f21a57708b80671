import pytest

from cnnClassifier.entity.config_entity import GatesConfig
from cnnClassifier.entity.manifest import Entry, Manifest
from cnnClassifier.evaluation.gates import check_gates

NOTHING = GatesConfig(
    min_images_per_class=None,
    min_groups_per_class=None,
    no_leakage=False,
    min_roc_auc=None,
    min_roc_auc_lower_bound=None,
    max_shortcut_auc=None,
    max_ece=None,
    on_failure="stop",
)
SCORES = {"roc_auc": 0.9, "ece": 0.08, "intervals": {"roc_auc": [0.8, 0.95]}}
REPORT = {"shortcuts": {"grey": {"auc": 0.6}, "thumbnail": {"auc": 0.82}}}


def entry(number, label="ill", split="train", sha256=None, group=None):
    return Entry(
        f"{label}/{number}.png", label, sha256 or f"{number:064}", group or f"g{number}", split
    )


CLEAN = Manifest(
    (
        *(
            entry(n, split=split)
            for n, split in enumerate(("train", "train", "validation", "test", ""))
        ),
        *(
            entry(n, "well", split, group=f"w{n // 2}")
            for n, split in enumerate(["train"] * 4 + ["test"] * 2, 10)
        ),
    )
)


def only(gates):
    (gate,) = gates
    return gate


def test_what_is_not_asked_is_not_checked():
    assert check_gates(NOTHING, CLEAN, {}, SCORES) == []


@pytest.mark.parametrize(
    ("name", "met", "unmet", "said"),
    [
        ("min_images_per_class", 4, 5, "Class ill has the fewest images, 4; at least 5 "),
        ("min_groups_per_class", 3, 4, "Class well has the fewest groups, 3; at least 4 "),
        ("min_roc_auc", 0.9, 0.91, "ROC AUC is 0.900; at least 0.91 "),
        (
            "min_roc_auc_lower_bound",
            0.8,
            0.81,
            "lower end of ROC AUC's interval is 0.800; at least 0.81 ",
        ),
        ("max_ece", 0.08, 0.07, "calibration error is 0.080; at most 0.07 "),
        (
            "max_shortcut_auc",
            0.82,
            0.8,
            "The strongest shortcut, thumbnail, tells the classes apart with AUC 0.820;",
        ),
    ],
)
def test_each_gate_is_met_at_its_limit_and_not_beyond(name, met, unmet, said):
    assert only(check_gates(NOTHING.model_copy(update={name: met}), CLEAN, REPORT, SCORES)).met
    gate = only(check_gates(NOTHING.model_copy(update={name: unmet}), CLEAN, REPORT, SCORES))
    assert (gate.name, gate.met) == (name, False)
    assert said in gate.sentence
    assert gate.sentence.endswith(".")


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ([], None),
        (
            [entry(90, split="test", sha256=f"{0:064}")],
            "The picture of ill/0.png stands in test and train",
        ),
        (
            [entry(91, split="validation", group="g3")],
            "The group of ill/3.png stands in test and validation",
        ),
        ([entry(92, split="", group="g3", sha256=f"{3:064}")], None),
    ],
    ids=["clean", "same picture", "same group", "copy that is left out"],
)
def test_leakage_is_found(extra, said):
    gate = only(
        check_gates(
            NOTHING.model_copy(update={"no_leakage": True}),
            Manifest(CLEAN.entries + tuple(extra)),
            {},
            SCORES,
        )
    )
    assert gate.met is (said is None)
    assert (said or "No picture and no group") in gate.sentence


def test_what_cannot_be_told_is_not_met():
    asked = NOTHING.model_copy(update={"min_roc_auc_lower_bound": 0.1, "max_shortcut_auc": 1.0})
    gates = check_gates(asked, CLEAN, {"shortcuts": {}}, SCORES | {"intervals": {}})
    assert [gate.met for gate in gates] == [False, False]
