"""Build the ImageNet backbones, and choose the layers where each is cut."""

from typing import TYPE_CHECKING

from cnnClassifier.entity.backbones import BACKBONES
from cnnClassifier.utils.errors import ConfigError

if TYPE_CHECKING:
    import keras


def build_backbone(name: str, image_size: tuple[int, int, int], seed: int) -> "keras.Model":
    """Build a backbone without its top, with random weights and its normalization in the graph.

    Args:
        name: a key of `BACKBONES`.
        image_size: (height, width, 3).
        seed: of the random weights.

    Returns:
        A flat functional model from RGB 0-255, (n, height, width, 3), to the last feature map.
    """
    import keras

    keras.utils.set_random_seed(seed)
    inputs = keras.Input(image_size, name="image")
    preprocess_input = getattr(keras.applications, BACKBONES[name].module).preprocess_input
    build = getattr(keras.applications, name)
    model = build(include_top=False, weights=None, input_tensor=preprocess_input(inputs))
    # As a new model, it takes an image instead of a list of one image.
    return keras.Model(inputs, model.output, name=model.name)


def resolve_feature_layer(name: str, requested: str, model: "keras.Model") -> str:
    """Return the layer for the head; `auto` takes the backbone's default.

    Raises:
        ConfigError: the backbone has no such layer with a feature map.
    """
    layer_name = BACKBONES[name].feature_layer if requested == "auto" else requested
    maps = [layer.name for layer in model.layers if len(getattr(layer.output, "shape", ())) == 4]
    if layer_name not in maps:
        raise ConfigError(
            f"params.yaml: FEATURE_LAYER: {name} has no feature map {layer_name}; "
            f"expected auto or one of {', '.join(maps[1:])}"
        )
    return layer_name


def freeze_boundary(
    name: str, feature_layer: str, fine_tune_from: str | None, model: "keras.Model"
) -> str:
    """Return the last frozen layer: the feature layer, or the one before the first trained block.

    Raises:
        ConfigError: the backbone has no such block, or it comes after the feature layer.
    """
    if fine_tune_from is None:
        return feature_layer
    order = [layer.name for layer in model.layers]
    before = order[: order.index(feature_layer)]
    usable = {block: end for block, end in BACKBONES[name].boundaries.items() if end in before}
    if fine_tune_from not in usable:
        raise ConfigError(
            f"params.yaml: FINE_TUNE_FROM: {fine_tune_from}: {name} cut at {feature_layer} "
            f"can be trained from {', '.join(usable) or 'no block'}, or null"
        )
    return usable[fine_tune_from]
