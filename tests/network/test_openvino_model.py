import numpy as np
import pytest

from cnnClassifier.network.architecture import add_heads, combine_heads
from cnnClassifier.network.openvino_model import activation_map, compile_network, export_openvino

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
PRECISE = {"INFERENCE_PRECISION_HINT": "f32"}


def build(keras, head, count):
    """A network with maps of 8x8 and 4x4 cells, and heads with their own statistics."""
    keras.utils.set_random_seed(1)
    image = keras.Input((16, 16, 3), name="image")
    x = keras.layers.Rescaling(1 / 255, name="scaled")(image)
    x = keras.layers.Conv2D(5, 3, 2, "same", activation="relu", name="first")(x)
    last = keras.layers.Conv2D(4, 3, 2, "same", activation="relu", name="last")(x)
    backbone = keras.Model(image, last)
    model = add_heads(backbone, ["first", "last"], "first", head, count, 0.2, 3, 7)
    rng = np.random.default_rng(2)
    if head in ("average", "flatten"):
        norm = model.get_layer("head_norm")
        norm.set_weights([rng.uniform(0.5, 2, weight.shape) for weight in norm.get_weights()])
    return model


def run(network):
    compiled = compile_network(network, (16, 16, 3), PRECISE)
    rows = [list(compiled(image[np.newaxis]).values()) for image in IMAGES]
    return [np.concatenate(outputs) for outputs in zip(*rows, strict=True)]


@pytest.mark.parametrize("kind", ["average", "flatten", "linear"])
def test_the_evidence_adds_up_to_the_scores(keras, kind):
    """Of heads that are linear in the maps, the sum over all cells is the score, but for a bias."""
    model = combine_heads(build(keras, kind, 1), {kind: 1.0}, 1)
    if kind == "linear":  # what is resized doesn't keep its mean exactly
        kernel, bias = model.get_layer("linear_0").get_weights()
        kernel[5:] = 0
        model.get_layer("linear_0").set_weights([kernel, bias])
    probabilities, of_heads, averages, evidence = run(export_openvino(model, "first"))
    assert evidence.shape == (5, 8, 8, 3)
    assert np.allclose(of_heads[:, 0], probabilities, atol=1e-6)
    assert averages.shape == (5, 5 + (kind == "linear") * 9)
    scores = np.log(probabilities)
    total = evidence.sum((1, 2)) if kind == "flatten" else evidence.mean((1, 2))
    for values in (scores, total):
        values -= values[:, :1].copy()  # against the first class
        values -= values[:1].copy()  # and against the first image
    assert np.allclose(total, scores, atol=1e-4)


def test_the_evidence_of_local_heads_is_their_weighted_map(keras):
    model = combine_heads(build(keras, "auto", 2), {"conv_max": 0.6, "linear": 0.4}, 2)
    probabilities, of_heads, averages, evidence = run(export_openvino(model, "first"))
    assert (of_heads.shape, averages.shape) == ((5, 4, 3), (5, 5 + 9))
    expected = np.einsum("nhc,h->nc", of_heads, [0.3, 0.3, 0.2, 0.2])
    assert np.allclose(probabilities, expected, atol=1e-6)
    alone = combine_heads(model, {"conv_max": 1.0}, 2)
    _, _, _, local = run(export_openvino(alone, "first"))
    names = ["conv_max_0_map", "conv_max_1_map"]
    maps = keras.Model(model.input, [model.get_layer(name).output for name in names])(IMAGES)
    kernels = [model.get_layer(f"conv_max_{number}").get_weights()[0] for number in range(2)]
    expected = np.mean([np.asarray(maps[number]) @ kernels[number] for number in range(2)], axis=0)
    assert np.allclose(local, expected, atol=1e-4)
    assert np.abs(evidence - 0.6 * local).max() > 1e-3  # the linear heads add theirs


def test_the_map_is_what_speaks_for_the_predicted_class_alone():
    evidence = np.zeros((2, 2, 2, 3))
    evidence[0, 0, 0] = (4, 0, 2)  # 3 more than the mean of the others
    evidence[0, 1, 1] = (6, 0, 0)
    shown = activation_map(evidence, np.array([0, 1]))
    assert shown.dtype == np.float32
    assert shown[0].tolist() == [[0.5, 0], [0, 1]]
    assert shown[1].tolist() == [[0, 0], [0, 0]]
