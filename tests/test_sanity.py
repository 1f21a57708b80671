"""A score must come from the labels: with shuffled labels it falls to chance."""

import numpy as np
from sklearn.metrics import roc_auc_score

from cnnClassifier.components.cross_fitting import TrainingImages, fit_heads
from cnnClassifier.network.cross_fitting import assign_folds
from tests.network.test_training import CONFIG, build_tail, toy


def test_shuffled_labels_give_chance_and_true_ones_do_not(keras):
    features, true = toy(120, 0)
    groups = np.arange(120)
    aucs = []
    for labels in (true, np.random.default_rng(5).permutation(true)):
        images = TrainingImages([], labels, groups, assign_folds(labels, groups, 3, 1, 0))
        tail = build_tail(keras, 3)
        fitted = fit_heads(tail, features, images, "auto", CONFIG, verbose=0)
        aucs.append(roc_auc_score(labels, fitted.probabilities[:, 1]))
    assert aucs[0] > 0.9
    assert 0.35 < aucs[1] < 0.65
