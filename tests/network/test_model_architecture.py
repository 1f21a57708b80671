import numpy as np
import pytest

from cnnClassifier.entity.backbones import BACKBONES
from cnnClassifier.network.architecture import (
    add_heads,
    averaged_layers,
    build_backbone,
    combine_heads,
    freeze_boundary,
    heads_of,
    local_kind_of,
    resolve_feature_layer,
)
from cnnClassifier.network.feature_cache import split_at
from cnnClassifier.utils.errors import ConfigError

QUICK_TO_BUILD = {"VGG16", "MobileNetV2", "EfficientNetLite0"}
NAMES = [
    pytest.param(name, marks=[] if name in QUICK_TO_BUILD else [pytest.mark.slow])
    for name in BACKBONES
]


@pytest.fixture(scope="module")
def vgg(keras):
    return build_backbone("VGG16", (32, 32, 3), 0)


@pytest.mark.parametrize("name", NAMES)
def test_every_backbone_can_be_cut_where_its_table_says(keras, name):
    model = build_backbone(name, (64, 64, 3), 0)
    backbone = BACKBONES[name]
    assert model.input_shape == (None, 64, 64, 3)
    layer = resolve_feature_layer(name, "auto", model)
    assert model.get_layer(layer).output.shape[1:3] == (4, 4)
    blocks = averaged_layers(name, model)
    assert [model.get_layer(block).output.shape[1] for block in blocks] == [8, 4, 2]
    classifier = add_heads(model, blocks, blocks[-1], "average", 1, 0.0, 3, 0)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.float32)
    whole = np.asarray(classifier(images))
    order = [layer.name for layer in model.layers]
    for block, boundary in backbone.boundaries.items():
        # Were there a second path past the boundary, Keras would refuse the tail.
        trunk, tail = split_at(classifier, boundary, 1)
        maps, _ = trunk(images)
        assert np.allclose(tail(maps)[:, 0], whole, rtol=1e-3, atol=1e-4), block
    assert sorted(backbone.boundaries.values(), key=order.index) == list(
        backbone.boundaries.values()
    )


def test_normalisation_is_in_the_graph_and_the_seed_decides_the_weights(keras, vgg):
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.float32)
    first = keras.Model(vgg.input, vgg.get_layer("block1_conv1").output)
    plain = keras.Sequential([keras.Input((32, 32, 3)), vgg.get_layer("block1_conv1")])
    expected = plain(keras.applications.vgg16.preprocess_input(images.copy()))
    assert np.allclose(first(images), expected, rtol=1e-4, atol=1e-3)
    kernel = np.asarray(vgg.get_layer("block1_conv1").kernel)
    assert np.array_equal(
        kernel, build_backbone("VGG16", (32, 32, 3), 0).get_layer("block1_conv1").kernel
    )
    assert not np.array_equal(
        kernel, build_backbone("VGG16", (32, 32, 3), 1).get_layer("block1_conv1").kernel
    )


@pytest.mark.parametrize(
    ("feature_layer", "fine_tune_from", "expected"),
    [
        ("auto", None, "block4_pool"),
        ("block3_conv3", None, "block3_conv3"),
        ("block4_pool", "block4", "block3_pool"),
        ("block5_pool", "block5", "block4_pool"),
        ("block5_pool", "block2", "block1_pool"),
    ],
)
def test_the_freeze_boundary_is_the_layer_before_the_first_trained_block(
    vgg, feature_layer, fine_tune_from, expected
):
    layer = resolve_feature_layer("VGG16", feature_layer, vgg)
    assert freeze_boundary("VGG16", layer, fine_tune_from, vgg) == expected


@pytest.mark.parametrize(
    ("feature_layer", "fine_tune_from", "message"),
    [
        (
            "block6_pool",
            None,
            "has no feature map block6_pool; expected auto, .* block1_pool, .*, block5_pool$",
        ),
        ("conv4_block6_out", None, "FEATURE_LAYER: VGG16 has no .* conv4_block6_out; "),
        ("block4_pool", "block5", "block5: .*block4_pool .*from block2, block3, block4, or null"),
        ("block1_pool", "block2", "block2: .*block1_pool .*from no block, or null"),
        ("block4_pool", "block1", "block1: .*block4_pool .*from block2, block3, block4, or null"),
    ],
)
def test_an_unknown_layer_or_block_names_the_known_ones(
    vgg, feature_layer, fine_tune_from, message
):
    with pytest.raises(ConfigError, match=message):
        freeze_boundary(
            "VGG16", resolve_feature_layer("VGG16", feature_layer, vgg), fine_tune_from, vgg
        )


@pytest.fixture(scope="module")
def backbone(keras):
    image = keras.Input((16, 16, 3))
    x = keras.layers.MaxPooling2D(2, name="features")(image)
    return keras.Model(image, keras.layers.Conv2D(2, 1, name="later")(x))


IMAGES = np.random.default_rng(0).uniform(0, 1, (5, 16, 16, 3)).astype(np.float32)


def with_heads(backbone, head, count=2, dropout=0.4, classes=2, seed=3):
    blocks = ["features", "later"]
    return add_heads(backbone, blocks, "features", head, count, dropout, classes, seed)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("head", ["auto", "conv_max", "linear", "average", "flatten"])
def test_heads_give_probabilities_from_their_seed(keras, backbone, head, classes):
    model = with_heads(backbone, head, classes=classes)
    shown = np.asarray(model(IMAGES))
    assert shown.shape == (5, classes)
    assert np.allclose(shown.sum(1), 1, atol=1e-5)
    assert len(heads_of(model, "linear")) == 2  # the baseline
    kind = {"auto": "conv_max", "linear": None}.get(head, head)
    assert local_kind_of(model) == kind
    assert len(heads_of(model, "conv_max")) == 2 * (kind == "conv_max")
    again, other = (with_heads(backbone, head, classes=classes, seed=seed) for seed in (3, 4))
    assert np.array_equal(shown, again(IMAGES))
    assert not np.allclose(shown, other(IMAGES))


def test_the_output_is_the_weighted_mean_of_the_heads_that_are_kept(keras, backbone):
    model = with_heads(backbone, "auto", count=3)
    combined = combine_heads(model, {"conv_max": 0.75, "linear": 0.25}, 2)
    of_heads = {}
    for kind in ("conv_max", "linear"):
        outputs = [head.output for head in heads_of(model, kind)[:2]]
        of_heads[kind] = np.mean(keras.Model(model.input, outputs)(IMAGES), axis=0)
    expected = 0.75 * of_heads["conv_max"] + 0.25 * of_heads["linear"]
    assert np.allclose(combined(IMAGES), expected, atol=1e-5)
    alone = combine_heads(model, {"conv_max": 1.0}, 3)
    names = {layer.name for layer in alone.layers}
    # A kind that is left out takes the blocks with it that it alone needs.
    assert not names & {"linear_0", "later", "block_averages"}


@pytest.mark.parametrize(
    ("head", "same_anywhere", "strongest_stays"),
    [("conv_max", True, True), ("average", True, False), ("flatten", False, False)],
)
def test_heads_differ_in_what_they_look_at(keras, backbone, head, same_anywhere, strongest_stays):
    """A spot on black: moved by four cells, and with a second one like it far away."""
    model = combine_heads(with_heads(backbone, head, dropout=0.0), {head: 1.0}, 2)
    spots = np.zeros((3, 16, 16, 3), np.float32)
    spots[0, 4, 4] = spots[1, 4, 12] = spots[2, 4, 4] = spots[2, 12, 12] = (9, 3, 6)
    here, there, both = np.asarray(model(spots))
    assert np.allclose(here, there, atol=1e-6) == same_anywhere
    assert not np.allclose(here, both, atol=1e-6)
    if strongest_stays:
        maximum = model.get_layer("conv_max_0_max").output
        one, _, two = np.asarray(keras.Model(model.input, maximum)(spots))
        assert np.allclose(one, two, atol=1e-6)
