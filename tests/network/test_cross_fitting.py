import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from cnnClassifier.network.cross_fitting import (
    assign_folds,
    combination_weights,
    cross_fit,
    fit_linear_heads,
    mean_log_loss,
)
from cnnClassifier.network.training import predict
from cnnClassifier.utils.errors import UserError
from tests.network.test_training import CONFIG, build_tail, toy

LABELS = np.arange(60) % 3
GROUPS = np.array([f"patient {number // 2}" for number in range(60)])


def test_folds_keep_groups_together_and_have_every_class():
    folds = assign_folds(LABELS, GROUPS, 5, 3, 7)
    assert folds.shape == (3, 60)
    for assignment in folds:
        for group in set(GROUPS):
            assert len(set(assignment[group == GROUPS])) == 1
        for fold in range(5):
            assert set(LABELS[assignment == fold]) == {0, 1, 2}
    assert not np.array_equal(folds[0], folds[1])
    assert np.array_equal(folds, assign_folds(LABELS, GROUPS, 5, 3, 7))
    assert np.array_equal(folds[1], assign_folds(LABELS, GROUPS, 5, 1, 8)[0])


def test_predictions_are_by_heads_that_have_not_seen_the_image(keras):
    """Each repeat predicts every image; the heads of the first one stay in the tail."""
    features, labels = toy(60, 0)
    folds = assign_folds(labels, np.arange(60), 3, 2, 0)
    tail = build_tail(keras, 3)
    config = CONFIG.model_copy(update={"epochs": 6})
    out_of_fold, history = cross_fit(tail, features, labels, folds, config, verbose=0)
    assert out_of_fold.shape == (2, 60, 2)
    assert (out_of_fold.argmax(2) == labels).mean() > 0.9
    assert len(history["val_loss"]) == 6
    of_heads = predict(tail, features)
    assert np.allclose(of_heads[np.arange(60), folds[0]], out_of_fold[0], atol=1e-5)
    # A wrong label changes what the others predict for it, not the head that it is held out from.
    changed = labels.copy()
    changed[0] = 1 - changed[0]
    again, _ = cross_fit(build_tail(keras, 3), features, changed, folds[:1], config, verbose=0)
    same_fold = folds[0] == folds[0, 0]
    others = np.flatnonzero(~same_fold)
    assert np.abs(again[0, others] - out_of_fold[0, others]).max() > 1e-4


def test_a_fixed_validation_split_is_one_fold(keras):
    features, labels = toy(60, 0)
    folds = np.where(np.arange(60) < 20, 0, -1)[np.newaxis]
    tail = build_tail(keras, 1)
    out_of_fold, _ = cross_fit(tail, features, labels, folds, CONFIG, verbose=0)
    assert np.isfinite(out_of_fold[0, :20]).all()
    assert np.isnan(out_of_fold[0, 20:]).all()
    linear = fit_linear_heads(features.averages(), labels, folds, None)
    assert np.isnan(linear.out_of_fold[0, 20:]).all()
    assert linear.kernels.shape == (1, 3, 2)


def test_one_head_for_several_folds_is_fitted_on_all_images_at_last(keras, monkeypatch):
    """For the median of the folds' best epochs."""
    from cnnClassifier.network import cross_fitting

    fits = []

    def record(tail, features, labels, held_out, config, *arguments, **options):
        fitted = original(tail, features, labels, held_out, config, *arguments, **options)
        fits.append((held_out.sum(), config.epochs, fitted.best_epochs[0]))
        return fitted

    original = cross_fitting.fit
    monkeypatch.setattr(cross_fitting, "fit", record)
    features, labels = toy(60, 0)
    folds = assign_folds(labels, np.arange(60), 3, 1, 0)
    config = CONFIG.model_copy(update={"epochs": 5, "patience": 2})
    out_of_fold, history = cross_fit(build_tail(keras, 1), features, labels, folds, config, 0)
    assert np.isfinite(out_of_fold).all()
    *of_folds, (held_out, epochs, _) = fits
    assert sum(count for count, _, _ in of_folds) == 60
    assert held_out == 0
    assert epochs == np.median([best for _, _, best in of_folds]) == len(history["loss"])


def test_a_divergence_says_what_to_change(keras):
    features, labels = toy(60, 0)
    folds = assign_folds(labels, np.arange(60), 3, 1, 0)
    config = CONFIG.model_copy(update={"learning_rate": 10.0, "epochs": 1})
    tail = build_tail(keras, 3)
    for layer in tail.layers:
        layer.set_weights([np.full_like(values, np.nan) for values in layer.get_weights()])
    with pytest.raises(UserError, match=r"diverged: lower LEARNING_RATE in params.yaml, now 10"):
        cross_fit(tail, features, labels, folds, config, verbose=0)


@pytest.mark.parametrize("classes", [2, 3])
def test_linear_heads_are_logistic_regression_as_a_softmax_layer(classes):
    rng = np.random.default_rng(0)
    labels = np.arange(90) % classes
    features = rng.normal(3, 5, (90, 4)) + labels[:, None] * [9, 0, 0, 2]
    folds = assign_folds(labels, np.arange(90), 3, 2, 0)
    heads = fit_linear_heads(features, labels, folds, "balanced")
    assert mean_log_loss(labels, heads.out_of_fold) < 0.7 * np.log(classes)
    logits = features @ heads.kernels[1] + heads.biases[1]
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    held_out = folds[0] == 1
    assert np.allclose(softmax[held_out], heads.out_of_fold[0, held_out], atol=1e-6)
    scaler = StandardScaler().fit(features[~held_out])
    model = LogisticRegression(C=heads.l2_strength, class_weight="balanced", max_iter=1000)
    model.fit(scaler.transform(features[~held_out]), labels[~held_out])
    expected = model.predict_proba(scaler.transform(features[held_out]))
    assert np.allclose(softmax[held_out], expected, atol=1e-6)


def test_the_weights_minimize_the_log_loss_of_the_combination():
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=200)

    def noisy(scale):
        logits = np.stack([rng.normal(4 * (labels == 0) - 2, scale) for _ in range(3)])
        positive = 1 / (1 + np.exp(-logits))
        return np.stack([positive, 1 - positive], axis=2)

    good, equal, chance = noisy(2.0), noisy(2.0), np.full((3, 200, 2), 0.5)
    both = combination_weights(labels, {"a": good, "b": equal})
    assert 0.3 <= both["a"] <= 0.7
    assert sum(both.values()) == pytest.approx(1)
    assert combination_weights(labels, {"a": noisy(0.1), "b": chance}) == {"a": 1.0, "b": 0.0}
    assert combination_weights(labels, {"a": good}) == {"a": 1.0}
