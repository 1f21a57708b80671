"""The ImageNet backbones that a head can stand on, and where each can be cut."""

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
        module: of `keras.applications`, which holds its `preprocess_input`.
        feature_layer: the layer that a head stands on by default; its map has a sixteenth of the image's sides.
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
BACKBONES = {
    backbone.name: backbone
    for backbone in (
        Backbone("VGG16", "vgg16", "block4_pool", _VGG),
        Backbone("VGG19", "vgg19", "block4_pool", _VGG),
        Backbone(
            "ResNet50",
            "resnet",
            "conv4_block6_out",
            {"conv3": "conv2_block3_out", "conv4": "conv3_block4_out", "conv5": "conv4_block6_out"},
        ),
        Backbone(
            "DenseNet121",
            "densenet",
            "pool4_conv",
            {"conv3": "pool2_pool", "conv4": "pool3_pool", "conv5": "pool4_pool"},
        ),
        Backbone(
            "MobileNetV2",
            "mobilenet_v2",
            "block_12_add",
            {"block_6": "block_5_add", "block_13": "block_12_add"},
        ),
        Backbone(
            "EfficientNetB0",
            "efficientnet",
            "block5c_add",
            {
                "block4": "block3b_add",
                "block5": "block4c_add",
                "block6": "block5c_add",
                "block7": "block6d_add",
            },
        ),
    )
}


def build_backbone(name: str, image_size: tuple[int, int, int], seed: int) -> "keras.Model":
    """Build a backbone without its top, with random weights and its normalisation inside the graph.

    Args:
        name: a key of `BACKBONES`.
        image_size: (height, width, 3).
        seed: of the random weights.

    Returns:
        A flat functional model from RGB 0-255, (n, height, width, 3), to the last feature map.
    """
    import keras

    keras.utils.set_random_seed(seed)
    backbone = BACKBONES[name]
    inputs = keras.Input(image_size, name="image")
    normalised = getattr(keras.applications, backbone.module).preprocess_input(inputs)
    model = getattr(keras.applications, name)(
        include_top=False, weights=None, input_tensor=normalised
    )
    return keras.Model(
        inputs, model.output, name=model.name
    )  # takes an image rather than a list of one


def resolve_feature_layer(name: str, wanted: str, model: "keras.Model") -> str:
    """Return the layer that the head stands on; `auto` takes the backbone's own.

    Raises:
        ConfigError: the backbone has no such layer with a feature map.
    """
    layer_name = BACKBONES[name].feature_layer if wanted == "auto" else wanted
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
    """Return the last frozen layer: the feature layer, or the one before the first block that is trained.

    Raises:
        ConfigError: the backbone has no such block, or it comes after the feature layer.
    """
    if fine_tune_from is None:
        return feature_layer
    order = [layer.name for layer in model.layers]
    usable = {
        block: boundary
        for block, boundary in BACKBONES[name].boundaries.items()
        if boundary in order and order.index(boundary) < order.index(feature_layer)
    }
    if fine_tune_from not in usable:
        raise ConfigError(
            f"params.yaml: FINE_TUNE_FROM: {fine_tune_from}: {name} cut at {feature_layer} "
            f"can be trained from {', '.join(usable) or 'no block'}, or null"
        )
    return usable[fine_tune_from]
