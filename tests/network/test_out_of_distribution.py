import numpy as np
import pytest

from cnnClassifier.network.architecture import add_head
from cnnClassifier.network.openvino_model import ClassActivationMap
from cnnClassifier.network.out_of_distribution import OutOfDistributionDetector, fit_detector


def sample(count, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    few = rng.normal(0, 3, (count, 4)) @ rng.normal(0, 1, (4, 64))
    return np.abs(few + rng.normal(0, 0.5, (count, 64)) + 10 + shift) ** 2


def test_reference_knows_its_own_and_finds_strangers(tmp_path):
    everything = sample(500)
    train, fresh = everything[:300], everything[300:]
    reference, limit = fit_detector(train, [str(n // 3) for n in range(300)], 0.95)
    distances = reference.distances(fresh)
    assert 0.6 < np.median(distances) < 1.4
    assert 0.01 < (distances > limit).mean() < 0.12
    assert (reference.distances(everything[:50] * 4) > limit).all()
    assert (
        reference.distances(np.random.default_rng(1).permuted(fresh, axis=1)) > limit
    ).mean() > 0.95

    reference.save(tmp_path / "ood_detector.npz")
    first = (tmp_path / "ood_detector.npz").read_bytes()
    again = OutOfDistributionDetector.load(tmp_path / "ood_detector.npz")
    assert np.array_equal(again.distances(fresh), distances)
    again.save(tmp_path / "ood_detector.npz")
    assert (tmp_path / "ood_detector.npz").read_bytes() == first


@pytest.mark.parametrize("head", ["conv_max", "average", "flatten"])
def test_activation_map_is_the_gradient_of_the_score(keras, head):
    """Compare the map with TensorFlow's gradient of the score."""
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    feature = keras.layers.Conv2D(5, 3, padding="same", activation="relu", name="feature")(image)
    model = add_head(keras.Model(image, feature), "feature", head, 0.2, 3, 7)
    rng = np.random.default_rng(2)
    if head != "conv_max":
        norm = model.get_layer("head_norm")
        norm.set_weights([rng.uniform(0.5, 2, weight.shape) for weight in norm.get_weights()])
    model.get_layer("probabilities").activation = keras.activations.linear
    activation = ClassActivationMap.from_model(model)
    inner = keras.Model(image, [model.get_layer(activation.layer).output, model.output])
    tail = keras.Model(model.get_layer(activation.layer).output, model.output)
    maps, _ = inner(rng.random((4, 8, 8, 3), np.float32))
    called = np.array([0, 1, 2, 1])
    with tf.GradientTape() as tape:
        tape.watch(maps)
        scores = tail(maps)
        picked = tf.one_hot(called, 3)
        contrast = tf.reduce_sum(scores * (picked - (1 - picked) / 2))
    gradient = tape.gradient(contrast, maps).numpy()
    values = maps.numpy()
    shown = activation.compute(values, called)
    assert shown.shape == (4, 8, 8)
    assert shown.min() >= 0
    assert shown.max((1, 2)) == pytest.approx(1)
    if (
        head == "conv_max"
    ):  # the gradient stands at each channel's peak alone; there it is the channel's weight
        weights = gradient.sum((1, 2))
        expected = np.einsum("nhwc,nc->nhw", values, weights)
    else:
        expected = (values * gradient).sum(3)
    expected = np.maximum(expected, 0)
    assert shown == pytest.approx(expected / expected.max((1, 2), keepdims=True), abs=1e-4)
