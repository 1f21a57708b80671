"""Predictions and scores for the tests of metrics, reports and plots."""

from copy import deepcopy
from functools import lru_cache

import numpy as np
import pandas as pd

from cnnClassifier.entity.bundle import FORMAT_VERSION, apply_threshold
from cnnClassifier.entity.disclaimers import MEDICAL_DISCLAIMER
from cnnClassifier.evaluation.cross_validation import (
    baseline_note,
    compare_with_baseline,
    heads_note,
    reliability_note,
)
from cnnClassifier.evaluation.metrics import LabeledPredictions, compute_scores
from cnnClassifier.evaluation.ood_samples import DATA_IMAGES, ood_metrics
from cnnClassifier.evaluation.scores import OUT_OF_FOLD, TEST
from cnnClassifier.evaluation.series_metrics import series_scores

CLASSES = ("adenocarcinoma", "large.cell_carcinoma", "normal")
DISTANCES = pd.DataFrame(
    {
        "kind": [DATA_IMAGES] * 4 + ["noise", "noise", "flat"],
        "name": list("abcdefg"),
        "distance": [0.5, 0.9, 1.2, 0.0, 5.0, 0.7, 3.0],
        "out_of_distribution": [False, False, True, False, True, False, True],
    }
)


def class_names(count):
    return CLASSES if count == 3 else (CLASSES[0], CLASSES[2])


def labeled(labels, probabilities, groups, positive=0, threshold=0.5):
    predicted = apply_threshold(probabilities, positive, threshold)
    return LabeledPredictions.create(labels, probabilities, predicted, groups, positive)


def random_predictions(count=2, images=120, skill=1.5, threshold=0.4, seed=0, per_group=3):
    """Random labels of 2 or 3 classes; the higher the skill, the better the probabilities."""
    rng = np.random.default_rng(seed)
    groups = np.arange(images) // per_group
    labels = rng.permutation(np.arange(groups.max() + 1) % count)[groups]
    logits = rng.normal(size=(images, count))
    logits[np.arange(images), labels] += skill
    powers = np.exp(logits)
    probabilities = (powers / powers.sum(1, keepdims=True)).astype(np.float32)
    return labeled(labels, probabilities, [f"g{group}" for group in groups], 0, threshold)


def cross_validation(model, baseline, **changes):
    """The content of cross_validation.json: of a model and of its baseline on the same images."""
    return {
        "model_sha256": "a1" * 32,
        "heads": 3,
        "folds": 3,
        "repeats": 2,
        "fixed_validation_split": False,
        "weights": {"conv_max": 0.6, "linear": 0.4},
        **compare_with_baseline(model, baseline, 100, 1),
        **changes,
    }


@lru_cache
def _metrics(count):
    """The metrics of scores.json and of cross_validation.json; they take a second."""
    points = {"sensitivity>=0.95": 0.1} | ({"default": 0.4} if count == 2 else {})
    predictions = random_predictions(count)
    scores = compute_scores(predictions, class_names(count), points, 100, 1)
    threshold = 0.4 if count == 2 else None
    scores["series"] = series_scores(predictions, threshold, "group", 100, 1)
    model, baseline = (
        random_predictions(count, images=210, seed=1, skill=skill) for skill in (1.5, 0.5)
    )
    return scores, cross_validation(model, baseline)


def full_scores(count=2, gates=(), warnings=(), synthetic=True, has_test=True):
    """The content of scores.json."""
    scores, validated = deepcopy(_metrics(count))
    validated |= {
        "note": reliability_note(14 if has_test else None, validated),
        "baseline_note": baseline_note(validated),
        "heads_note": heads_note(validated),
    }
    return scores | {
        "split": TEST if has_test else OUT_OF_FOLD,
        "cross_validation": validated,
        "synthetic": synthetic,
        "disclaimer": MEDICAL_DISCLAIMER,
        "out_of_distribution": ood_metrics(DISTANCES, np.arange(4), 1.0),
        "warnings": list(warnings),
        "gates": list(gates),
        "format_version": FORMAT_VERSION,
    }


def images_table(images=120):
    """The evaluated images, as for `write_tables`."""
    names = [f"image{number}" for number in range(images)]
    table = pd.DataFrame({"path": names, "sha256": names, "group": "g"})
    return table.assign(distance=0.5, out_of_distribution=False)
