"""Predictions and scores for the tests of metrics, reports and plots."""

import numpy as np
import pandas as pd

from cnnClassifier.entity.bundle import FORMAT_VERSION, apply_threshold
from cnnClassifier.evaluation.metrics import LabeledPredictions, compute_scores
from cnnClassifier.evaluation.ood_samples import TEST_IMAGES, ood_metrics

CLASSES = ("adenocarcinoma", "large.cell_carcinoma", "normal")
DISTANCES = pd.DataFrame(
    {
        "kind": [TEST_IMAGES] * 4 + ["noise", "noise", "flat"],
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


def full_scores(count=2, gates=(), warnings=(), synthetic=True):
    """The content of scores.json."""
    points = {"default": 0.4, "sensitivity>=0.95": 0.1}
    scores = compute_scores(random_predictions(count), class_names(count), points, 100, 1)
    return scores | {
        "synthetic": synthetic,
        "out_of_distribution": ood_metrics(DISTANCES, np.arange(4), 1.0),
        "warnings": list(warnings),
        "gates": list(gates),
        "format_version": FORMAT_VERSION,
    }


def images_table(images=120):
    """The test images, as for `write_tables`."""
    names = [f"image{number}" for number in range(images)]
    table = pd.DataFrame({"path": names, "sha256": names, "group": "g"})
    return table.assign(distance=0.5, out_of_distribution=False)
