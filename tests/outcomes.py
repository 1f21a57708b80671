"""Predictions for the tests of what is made of them."""

import numpy as np

from cnnClassifier.evaluation.metrics import Outcome, scores
from cnnClassifier.evaluation.ood_samples import familiarity

CLASSES = ("adenocarcinoma", "large.cell_carcinoma", "normal")


def classes(count):
    return CLASSES if count == 3 else (CLASSES[0], CLASSES[2])


def outcome(count=2, images=120, skill=1.5, threshold=0.4, seed=0, per_group=3):
    """Random labels of 2 or 3 classes, and probabilities that know something of them."""
    rng = np.random.default_rng(seed)
    groups = np.arange(images) // per_group
    labels = rng.permutation(np.arange(groups.max() + 1) % count)[groups]
    logits = rng.normal(size=(images, count))
    logits[np.arange(images), labels] += skill
    powers = np.exp(logits)
    probabilities = (powers / powers.sum(1, keepdims=True)).astype(np.float32)
    return Outcome.of(labels, probabilities, [f"g{group}" for group in groups], 0, threshold)


def full_scores(count=2, gates=(), warnings=(), synthetic=True, **options):
    """What scores.json holds."""
    made = outcome(count, **options)
    found = familiarity(
        np.array([0.5, 0.9, 1.2, 0.8]), ["noise", "noise", "flat"], np.array([5.0, 0.7, 3.0]), 1.0
    )
    return scores(made, classes(count), {"default": 0.4, "sensitivity>=0.95": 0.1}, 100, 1) | {
        "synthetic": synthetic,
        "unfamiliar": found,
        "warnings": list(warnings),
        "gates": list(gates),
    }
