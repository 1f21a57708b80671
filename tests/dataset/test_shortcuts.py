import numpy as np
import pytest

from cnnClassifier.dataset import shortcuts as module
from cnnClassifier.dataset.audit import FileFacts
from cnnClassifier.dataset.shortcuts import SHORTCUTS, shortcuts


def facts(labels, seed=0, **told):
    """Make facts that say nothing of the class, but for what is given by class in `told`."""
    rng = np.random.default_rng(seed)
    for number, label in enumerate(labels):
        thumbnail = rng.integers(0, 256, (64, 64), dtype=np.uint8)
        yield FileFacts(
            path=f"{label}/{number}.png",
            label=label,
            sha256=str(number),
            bytes=int(rng.integers(9000, 11000) * told.get("bytes", {}).get(label, 1)),
            phash=0,
            thumbnail=thumbnail // 2 + told.get("grey", {}).get(label, 0),
            size=told.get("size", {}).get(label, "512x512"),
            mode=told.get("mode", {}).get(label, "L"),
            format="PNG",
            fault="",
            grey=(100 + rng.normal() + told.get("grey", {}).get(label, 0), 30 + rng.normal()),
            border=tuple(rng.normal(size=16) + told.get("border", {}).get(label, 0)),
        )


LABELS = ["ill", "well"] * 60
GROUPS = [f"patient{number // 2}" for number in range(120)]


@pytest.mark.parametrize(
    ("told", "high"),
    [
        ({}, set()),
        ({"size": {"ill": "512x512", "well": "600x512"}}, {"size", "file_facts"}),
        ({"mode": {"well": "RGBA"}}, {"file_facts"}),
        ({"bytes": {"well": 1.5}}, {"file_facts"}),
        ({"grey": {"well": 20}}, {"grey", "thumbnail"}),
        ({"border": {"well": 3}}, {"border"}),
    ],
    ids=["nothing", "size", "mode", "bytes", "grey", "border"],
)
def test_only_what_tells_the_class_reaches_far(told, high):
    found = shortcuts(list(facts(LABELS, **told)), GROUPS, seed=1)
    assert set(found) == set(SHORTCUTS)
    assert {name for name, reach in found.items() if reach.auc > 0.95} == high
    assert all(reach.auc < 0.7 for name, reach in found.items() if name not in high)
    assert all(reach.low <= reach.auc <= reach.high for reach in found.values())


def test_a_group_is_never_learnt_by_heart():
    groups = [f"patient{number // 10}" for number in range(120)]
    labels = [("ill", "well")[number // 10 % 2] for number in range(120)]
    table = list(facts(labels))
    looks = {
        group: np.random.default_rng(n).integers(0, 255, (64, 64))
        for n, group in enumerate(sorted(set(groups)))
    }
    for number, group in enumerate(groups):
        table[number].thumbnail[:] = looks[group]
    assert shortcuts(table, groups, seed=1)["thumbnail"].auc < 0.7
    assert shortcuts(table, [str(number) for number in range(120)], seed=1)["thumbnail"].auc > 0.95


def test_more_classes_and_equal_seeds():
    labels = ["a", "b", "c"] * 40
    groups = [str(number) for number in range(120)]
    table = list(facts(labels, size={"a": "300x300", "b": "400x400"}))
    found = shortcuts(table, groups, seed=5)
    assert found["size"].auc > 0.95
    assert found["border"].auc < 0.7
    assert shortcuts(table, groups, seed=5) == found
    groups = ["one" if label == "a" else group for label, group in zip(labels, groups, strict=True)]
    assert shortcuts(table, groups, seed=5) == {}


def test_auc_is_that_of_the_pairs():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 40), rng.integers(0, 6, (40, 2)) / 6
    weights = rng.integers(0, 3, (3, 40))
    for row, auc in zip(weights, module._aucs(labels, scores, weights), strict=True):
        ill, well = (np.repeat(scores[labels == c, 1], row[labels == c]) for c in (1, 0))
        assert auc == pytest.approx(np.mean(np.sign(ill[:, None] - well[None]) / 2 + 0.5))


def test_of_many_images_as_many_of_each_class_as_there_can_be(monkeypatch):
    monkeypatch.setattr(module, "MOST_IMAGES", 50)
    labels = ["rare"] * 10 + ["common"] * 200
    chosen = module._sample(labels, 0)
    assert sorted(chosen.tolist()) == chosen.tolist()
    assert len(set(chosen.tolist())) == 50
    assert sum(labels[place] == "rare" for place in chosen) == 10
