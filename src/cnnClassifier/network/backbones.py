"""The ImageNet backbones, and the layers where each can be cut."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cnnClassifier.utils.errors import ConfigError

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Backbone:
    """A network of `keras.applications`.

    Attributes:
        name: of the constructor, such as `VGG16`.
        module: of `keras.applications`, with its `preprocess_input`.
        feature_layer: default layer for the head; its map has a sixteenth of the image's sides.
        boundaries: for each block that can be trained, the last layer before it.
    """

    name: str
    module: str
    feature_layer: str
    boundaries: dict[str, str]


_VGG = {
    "block2": "block1_pool",
    "block3": "block2_pool",
    "block4": "block3_pool",
    "block5": "block4_pool",
}
_RESNET = {
    "conv3": "conv2_block3_out",
    "conv4": "conv3_block4_out",
    "conv5": "conv4_block6_out",
}
_DENSENET = {"conv3": "pool2_pool", "conv4": "pool3_pool", "conv5": "pool4_pool"}
_MOBILENET = {"block_6": "block_5_add", "block_13": "block_12_add"}
_EFFICIENTNET = {
    "block4": "block3b_add",
    "block5": "block4c_add",
    "block6": "block5c_add",
    "block7": "block6d_add",
}
BACKBONES = {
    "VGG16": Backbone("VGG16", "vgg16", "block4_pool", _VGG),
    "VGG19": Backbone("VGG19", "vgg19", "block4_pool", _VGG),
    "ResNet50": Backbone("ResNet50", "resnet", "conv4_block6_out", _RESNET),
    "DenseNet121": Backbone("DenseNet121", "densenet", "pool4_conv", _DENSENET),
    "MobileNetV2": Backbone("MobileNetV2", "mobilenet_v2", "block_12_add", _MOBILENET),
    "EfficientNetB0": Backbone("EfficientNetB0", "efficientnet", "block5c_add", _EFFICIENTNET),
}


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
