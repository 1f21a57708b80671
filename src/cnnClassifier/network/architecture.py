"""The network: ImageNet backbones, where each can be cut, and the head on it."""

from typing import TYPE_CHECKING

from cnnClassifier.entity.backbones import BACKBONES
from cnnClassifier.utils.errors import ConfigError

if TYPE_CHECKING:
    import keras

NORM_LAYER = "head_norm"
MAP_LAYER = "head_map"
POOL_LAYER = "head_pool"
OUTPUT_LAYER = "probabilities"


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


def add_head(
    backbone: "keras.Model",
    feature_layer: str,
    head: str,
    dropout: float,
    class_count: int,
    seed: int,
) -> "keras.Model":
    """Attach a softmax head to a layer of the backbone, without the layers after that one.

    A lesion is a few cells of the feature map. `conv_max` combines each cell with its neighbors and
    takes the mean of the maximum and the average over all cells: one cell is enough, and what fills
    the image counts as well. Its dropout drops whole channels (Tompson et al. 2015), because
    neighbors in a map are correlated. `average` (global average pooling, Lin et al. 2013) suits
    what fills the image. `flatten` is the head of most tutorials, with the most weights to overfit.

    Args:
        backbone: a functional model with a layer `feature_layer` of shape (n, h, w, channels).
        feature_layer: the layer's name.
        head: `conv_max`, `average` or `flatten`.
        dropout: fraction of features dropped in training, 0 to 0.95.
        class_count: number of outputs.
        seed: of the new weights and of dropout.

    Returns:
        A model from RGB 0-255 to probabilities, (n, class_count).
    """
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)
    x = backbone.get_layer(feature_layer).output
    if head == "conv_max":
        x = layers.BatchNormalization(name=NORM_LAYER)(x)
        x = layers.SpatialDropout2D(dropout, seed=seed, name="head_dropout")(x)
        x = layers.Conv2D(64, 1, activation="relu", name="head_mix")(x)
        x = layers.Conv2D(32, 3, padding="same", activation="relu", name=MAP_LAYER)(x)
        maximum = layers.GlobalMaxPooling2D(name="head_max")(x)
        mean = layers.GlobalAveragePooling2D(name="head_mean")(x)
        x = layers.Average(name=POOL_LAYER)([maximum, mean])
    else:
        pool = layers.GlobalAveragePooling2D if head == "average" else layers.Flatten
        x = pool(name=POOL_LAYER)(x)
        x = layers.BatchNormalization(name=NORM_LAYER)(x)
        x = layers.Dropout(dropout, seed=seed, name="head_dropout")(x)
    outputs = layers.Dense(class_count, activation="softmax", name=OUTPUT_LAYER)(x)
    return keras.Model(backbone.input, outputs, name="classifier")


def standalone_head(
    shape: tuple[int, ...], head: str, dropout: float, class_count: int, seed: int
) -> "keras.Model":
    """Return the head of `add_head` without a backbone, with the same initial weights.

    Args:
        shape: of one feature map, (h, w, channels).
        head: as in `add_head`.
        dropout: as in `add_head`.
        class_count: as in `add_head`.
        seed: as in `add_head`.

    Returns:
        A model from feature maps to probabilities, (n, class_count).
    """
    import keras

    maps = keras.Input(shape, name="maps")
    return add_head(keras.Model(maps, maps), "maps", head, dropout, class_count, seed)
