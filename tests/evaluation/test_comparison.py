import csv
from dataclasses import replace

import numpy as np
import pytest

from cnnClassifier.evaluation.comparison import Evaluated, compare
from cnnClassifier.evaluation.comparison_report import as_markdown, as_page, as_text, verdict
from cnnClassifier.evaluation.metrics import NAMES, scores
from cnnClassifier.utils.common import save_json, write_csv
from cnnClassifier.utils.errors import UserError
from tests.outcomes import classes, outcome


def evaluated(name="A", count=2, first=0, synthetic=True, params=None, **options):
    """A model that is as good as `skill` says, tested on images that are named by number from `first` on."""
    made = outcome(count, **options)
    names = [f"image{number + first}" for number in range(len(made.labels))]
    return Evaluated(
        name,
        classes(count),
        "adenocarcinoma",
        synthetic,
        tuple(names),
        tuple(names),
        made,
        params or {},
    )


def of(found, name):
    return next(row for row in found.differences if row.name == name)


@pytest.mark.parametrize("count", [2, 3])
def test_a_better_model_is_better_by_more_than_chance(count):
    # Of one seed are the same images, and noise that is alike: what pairing is for.
    a, b = evaluated(count=count, skill=0.3), evaluated("B", count=count, skill=3)
    found = compare(a, b, 40, 0)
    assert found.paired
    assert found.images == ("Both evaluated the same 120 images in 40 groups.",)
    own = scores(b.outcome, b.classes, {}, 40, 0)
    for row in found.differences:
        assert row.b == own[row.name]
        assert row.b_interval == own["intervals"].get(row.name)
        assert row.low <= row.value <= row.high
    assert {row.better for row in found.differences} <= {"B", ""}
    assert {"loss", "accuracy", "roc_auc", "brier"} <= {
        row.name for row in found.differences if row.better
    }
    assert "A" in {row.better for row in compare(b, a, 40, 0).differences}
    assert verdict(found).startswith("B is better by more than chance. ROC AUC of B − A: +")
    assert found.differences == compare(a, b, 40, 0).differences


def test_pairing_sees_a_difference_that_two_test_sets_hide():
    a, b = evaluated(skill=1.0), evaluated("B", skill=1.3)
    paired, apart = compare(a, b, 40, 0), compare(a, evaluated("B", skill=1.3, first=1000), 40, 0)
    assert (paired.paired, apart.paired) == (True, False)
    assert of(paired, "loss").value == of(apart, "loss").value
    assert (of(paired, "loss").better, of(apart, "loss").better) == ("B", "")
    assert "no images are in both" in apart.images[0]
    assert apart.disagreements == ()


def test_a_model_differs_from_itself_by_nothing():
    found = compare(evaluated(), evaluated("B"), 40, 0)
    assert {(row.value, row.low, row.high, row.better) for row in found.differences} == {
        (0, 0, 0, "")
    }
    assert found.disagreements == ()
    assert "no larger than chance" in as_text(found)
    assert "Both call all 120 images alike." in as_text(found)


def test_compares_what_both_evaluated_in_groups_that_either_holds_together():
    a, b = evaluated(), evaluated("B", skill=0.5)
    b = b.take(list(range(119, 59, -1)))  # in another order
    b = replace(b, outcome=replace(b.outcome, groups=np.arange(60) // 6))
    found = compare(a, b, 40, 0)
    assert found.a.paths == found.b.paths == a.paths[60:]
    assert found.images[0].endswith(
        "Compared are the images that both have, by content: 60 images in 10 groups."
    )
    assert found.images[1].startswith("With 10 groups ")
    relabelled = replace(b, outcome=replace(b.outcome, labels=1 - b.outcome.labels))
    assert not compare(a, relabelled, 40, 0).paired


def test_lists_what_they_call_differently():
    a, b = evaluated(skill=0.5), evaluated("B", skill=2)
    found = compare(a, b, 40, 0)
    differs = a.outcome.called != b.outcome.called
    assert {item.path for item in found.disagreements} == {
        a.paths[n] for n in np.flatnonzero(differs)
    }
    for item in found.disagreements:
        place = a.paths.index(item.path)
        assert item.actual == a.classes[a.outcome.labels[place]]
        assert item.b_probability == b.outcome.probabilities[place, b.classes.index(item.b_called)]
        assert {"A": item.a_called, "B": item.b_called}[item.right] == item.actual
    right = [item.right for item in found.disagreements]
    assert (
        f"{len(right)} of 120 images; A is right on {right.count('A')}, B on {right.count('B')}."
        in as_text(found)
    )


@pytest.mark.parametrize(
    ("count", "synthetic", "first"), [(2, True, 0), (3, False, 0), (2, False, 1000)]
)
def test_every_form_says_all(count, synthetic, first):
    a = evaluated(
        "main | <b>", count, synthetic=synthetic, params={"EPOCHS": "2", "SEED": "1"}, skill=0.3
    )
    b = evaluated("B", count, first, synthetic, {"EPOCHS": "3", "SEED": "1"}, skill=2)
    found = compare(a, b, 40, 0)
    text, markdown, page = as_text(found), as_markdown(found), as_page(found)
    assert max(map(len, text.splitlines())) <= 79
    for row in found.differences:
        assert any(
            line[2:].startswith(f"{NAMES[row.name]} ")
            and line.endswith(f"{row.low:+.2f}…{row.high:+.2f})")
            for line in text.splitlines()
        )
    for form in (text, markdown, page):
        flat = " ".join(form.split())
        assert " ".join(verdict(found).split()) in flat
        assert found.images[0].split(";")[0] in flat
        assert all(label in form for label in NAMES.values())
        assert "Not a medical device" in form
        assert ("synthetic pictures" in form) is synthetic
        assert "EPOCHS" in form
        assert "SEED" not in form
        assert ("Called differently" in flat) is (first == 0)
        assert (found.disagreements[0].path in form) if first == 0 else True
    assert "main \\| \\<b\\> (A)" in markdown
    assert "<b>" not in page
    assert page.count("<polyline") == 4
    assert "http" not in page


def write(folder, side):
    folder.mkdir()
    facts = {
        "classes": side.classes,
        "positive_class": side.positive_class,
        "synthetic": side.synthetic,
    }
    save_json(folder / "scores.json", facts)
    rows = zip(
        side.paths,
        side.contents,
        side.outcome.groups,
        side.outcome.labels,
        side.outcome.called,
        strict=True,
    )
    write_csv(
        folder / "predictions.csv",
        ("path", "sha256", "group", "actual", "called", *side.classes, "distance"),
        (
            (
                path,
                content,
                f"g{group:03}",
                side.classes[label],
                side.classes[call],
                *side.outcome.probabilities[n],
                1.5,
            )
            for n, (path, content, group, label, call) in enumerate(rows)
        ),
    )
    return folder


def test_reads_what_evaluation_leaves(tmp_path):
    side = evaluated(count=3)
    read = Evaluated.read(write(tmp_path / "a", side), "A")
    for name in ("labels", "called", "groups"):
        assert np.array_equal(getattr(read.outcome, name), getattr(side.outcome, name))
    assert np.allclose(read.outcome.probabilities, side.outcome.probabilities)
    assert replace(read, outcome=side.outcome) == side


def test_says_what_cannot_be_read_or_compared(tmp_path):
    folder = write(tmp_path / "a", evaluated())
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.reader(file))

    def refused(said, header=rows[0], body=rows[1:]):
        write_csv(folder / "predictions.csv", header, body)
        with pytest.raises(UserError, match=said) as caught:
            Evaluated.read(folder, "main")
        assert "\n" not in str(caught.value)

    refused(
        "main: its predictions.csv tells no image by its sha256",
        header=["path", "digest", *rows[0][2:]],
    )
    refused("main: its evaluation is damaged", body=[row[:4] for row in rows[1:]])
    refused(
        "main: its evaluation is damaged",
        body=[[*row[:3], "unheard", *row[4:]] for row in rows[1:]],
    )
    refused("main: its evaluation is damaged", body=[])
    (folder / "predictions.csv").unlink()
    with pytest.raises(UserError, match=r"main: no evaluation there: predictions.csv is missing"):
        Evaluated.read(folder, "main")
    with pytest.raises(
        UserError, match="classes of A: adenocarcinoma, normal; of B: adenocarcinoma, large"
    ):
        compare(evaluated(), evaluated("B", count=3), 40, 0)
    with pytest.raises(UserError, match="the positive class of A: adenocarcinoma; of B: normal"):
        compare(evaluated(), replace(evaluated("B"), positive_class="normal"), 40, 0)
