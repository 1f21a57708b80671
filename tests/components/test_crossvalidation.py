import numpy as np
import pandas as pd
import pytest

from cnnClassifier.components.crossvalidation import check_groups, grouped_folds, summarize
from cnnClassifier.entity.manifest import Entry
from cnnClassifier.utils.errors import ManifestError


def test_folds_keep_groups_whole_and_evaluate_every_image_once():
    rng = np.random.default_rng(0)
    groups = np.repeat([f"g{n}" for n in range(40)], rng.integers(1, 6, 40))
    labels = np.array([int(group[1:]) % 2 for group in groups])
    held_out_images = []
    for fitted, stopped, held_out in grouped_folds(labels, groups, 5, seed=1):
        parts = [set(groups[part]) for part in (fitted, stopped, held_out)]
        assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
        assert len(fitted) + len(stopped) + len(held_out) == len(labels)
        assert all(set(labels[part]) == {0, 1} for part in (fitted, stopped, held_out))
        held_out_images += held_out.tolist()
    assert sorted(held_out_images) == list(range(len(labels)))


def test_too_few_groups_are_named():
    entries = [Entry("", "ill", group=str(n), split="train") for n in range(9)]
    entries += [Entry("", "well", group=group, split="train") for group in "ab"]
    with pytest.raises(ManifestError, match="class well has 2 groups, fewer than FOLDS: 3"):
        check_groups(entries, ("ill", "well"), 3)


def test_the_summary_has_mean_std_and_each_fold():
    summary = summarize(pd.DataFrame([{"roc_auc": 0.8}, {"roc_auc": 1.0}]))
    assert summary == {
        "roc_auc": {
            "mean": pytest.approx(0.9),
            "std": pytest.approx(0.1414, abs=1e-4),
            "folds": [0.8, 1.0],
        }
    }
