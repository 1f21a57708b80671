import numpy as np
import pytest

from cnnClassifier.config import schema
from cnnClassifier.network.heads import add_head, standalone_head


@pytest.fixture(scope="module")
def backbone(keras):
    image = keras.Input((16, 16, 3))
    x = keras.layers.MaxPooling2D(2, name="features")(image)
    return keras.Model(image, keras.layers.Conv2D(2, 1, name="later")(x))


IMAGES = np.random.default_rng(0).uniform(0, 1, (5, 16, 16, 3)).astype(np.float32)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("head", schema.HEADS)
def test_every_head_gives_probabilities_and_its_seed_decides(backbone, head, classes):
    model = add_head(backbone, "features", head, 0.4, classes, 3)
    shown = np.asarray(model(IMAGES))
    assert shown.shape == (5, classes)
    assert np.allclose(shown.sum(1), 1, atol=1e-5)
    assert (shown >= 0).all()
    assert "later" not in [layer.name for layer in model.layers]
    assert model.get_layer("head_dropout").rate == 0.4
    again, other = (add_head(backbone, "features", head, 0.4, classes, seed) for seed in (3, 4))
    assert np.array_equal(shown, again(IMAGES))
    assert not np.allclose(shown, other(IMAGES))


@pytest.mark.parametrize("head", schema.HEADS)
def test_a_head_alone_begins_as_one_on_a_backbone(keras, backbone, head):
    whole, alone = (
        add_head(backbone, "features", head, 0.4, 2, 3),
        standalone_head((8, 8, 3), head, 0.4, 2, 3),
    )
    maps = keras.Model(backbone.input, backbone.get_layer("features").output)(IMAGES)
    assert np.array_equal(whole(IMAGES), alone(maps))
    assert alone.layers[1].name == whole.layers[2].name


@pytest.mark.parametrize(
    ("head", "same_anywhere", "strongest_stays"),
    [("conv_max", True, True), ("average", True, False), ("flatten", False, False)],
)
def test_heads_differ_in_what_they_look_at(keras, backbone, head, same_anywhere, strongest_stays):
    """A spot on black: moved by four cells, and with a second one like it far away."""
    model = add_head(backbone, "features", head, 0.0, 2, 0)
    spots = np.zeros((3, 16, 16, 3), np.float32)
    spots[0, 4, 4] = spots[1, 4, 12] = spots[2, 4, 4] = spots[2, 12, 12] = (9, 3, 6)
    here, there, both = np.asarray(model(spots))
    assert np.allclose(here, there, atol=1e-6) == same_anywhere
    assert not np.allclose(here, both, atol=1e-6)
    assert ("head_max" in [layer.name for layer in model.layers]) == strongest_stays
    if strongest_stays:
        one, _, two = np.asarray(
            keras.Model(model.input, model.get_layer("head_max").output)(spots)
        )
        assert np.allclose(one, two, atol=1e-6)
