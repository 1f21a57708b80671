from typing import get_args

import numpy as np
import pytest

from cnnClassifier.entity.config_entity import PrepareBaseModelConfig
from cnnClassifier.network.backbones import (
    BACKBONES,
    build_backbone,
    freeze_boundary,
    resolve_feature_layer,
)
from cnnClassifier.network.feature_cache import split_at
from cnnClassifier.utils.errors import ConfigError

SLOW_TO_BUILD = {"ResNet50", "DenseNet121", "EfficientNetB0", "VGG19"}
NAMES = [
    pytest.param(name, marks=[pytest.mark.slow] if name in SLOW_TO_BUILD else [])
    for name in BACKBONES
]


@pytest.fixture(scope="module")
def vgg(keras):
    return build_backbone("VGG16", (32, 32, 3), 0)


def test_what_can_be_configured_can_be_built():
    annotation = PrepareBaseModelConfig.model_fields["backbone"].annotation
    assert set(get_args(annotation)) == set(BACKBONES)


@pytest.mark.parametrize("name", NAMES)
def test_every_backbone_can_be_cut_where_its_table_says(keras, name):
    model = build_backbone(name, (64, 64, 3), 0)
    backbone = BACKBONES[name]
    assert model.input_shape == (None, 64, 64, 3)
    assert model.get_layer(resolve_feature_layer(name, "auto", model)).output.shape[1:3] == (4, 4)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.float32)
    whole = np.asarray(model(images))
    order = [layer.name for layer in model.layers]
    for block, boundary in backbone.boundaries.items():
        # Were there a second path past the boundary, Keras would refuse the tail.
        trunk, tail = split_at(model, boundary)
        assert np.allclose(tail(trunk(images)), whole, rtol=1e-3, atol=1e-4), block
    assert sorted(backbone.boundaries.values(), key=order.index) == list(
        backbone.boundaries.values()
    )


def test_normalisation_is_in_the_graph_and_the_seed_decides_the_weights(keras, vgg):
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.float32)
    first = keras.Model(vgg.input, vgg.get_layer("block1_conv1").output)
    plain = keras.Sequential([keras.Input((32, 32, 3)), vgg.get_layer("block1_conv1")])
    wanted = plain(keras.applications.vgg16.preprocess_input(images.copy()))
    assert np.allclose(first(images), wanted, rtol=1e-4, atol=1e-3)
    kernel = np.asarray(vgg.get_layer("block1_conv1").kernel)
    assert np.array_equal(
        kernel, build_backbone("VGG16", (32, 32, 3), 0).get_layer("block1_conv1").kernel
    )
    assert not np.array_equal(
        kernel, build_backbone("VGG16", (32, 32, 3), 1).get_layer("block1_conv1").kernel
    )


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("auto", "block4_pool"),
        ("block3_conv3", "block3_conv3"),
        ("block6_pool", None),
        ("conv4_block6_out", None),
    ],
)
def test_the_feature_layer_is_one_of_the_backbones(vgg, wanted, expected):
    if expected:
        assert resolve_feature_layer("VGG16", wanted, vgg) == expected
    else:
        with pytest.raises(
            ConfigError,
            match=rf"FEATURE_LAYER: VGG16 has no feature map {wanted}; .*block1_conv1, ",
        ):
            resolve_feature_layer("VGG16", wanted, vgg)


@pytest.mark.parametrize(
    ("feature_layer", "fine_tune_from", "expected"),
    [
        ("block4_pool", None, "block4_pool"),
        ("block4_pool", "block4", "block3_pool"),
        ("block5_pool", "block5", "block4_pool"),
        ("block5_pool", "block2", "block1_pool"),
        ("block4_pool", "block5", "from block2, block3, block4, or null"),
        ("block1_pool", "block2", "from no block, or null"),
        ("block4_pool", "block1", "from block2, block3, block4, or null"),
    ],
)
def test_what_stays_frozen(vgg, feature_layer, fine_tune_from, expected):
    if expected.startswith("from"):
        with pytest.raises(
            ConfigError, match=f"FINE_TUNE_FROM: {fine_tune_from}: .*{feature_layer} .*{expected}"
        ):
            freeze_boundary("VGG16", feature_layer, fine_tune_from, vgg)
    else:
        assert freeze_boundary("VGG16", feature_layer, fine_tune_from, vgg) == expected
