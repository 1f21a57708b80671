"""The ImageNet backbones: an entry in `BACKBONES` is all that a further one needs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Backbone:
    """A network of `keras.applications`.

    Attributes:
        name: of the constructor, such as `VGG16`.
        module: of `keras.applications`, with its `preprocess_input`.
        feature_layer: default layer for the head; its map has a sixteenth of the image's sides.
        blocks: last layers of the last three blocks: the linear head sees their averages.
        boundaries: for each block that can be trained, the last layer before it.
    """

    name: str
    module: str
    feature_layer: str
    blocks: tuple[str, str, str]
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
_VGG_BLOCKS = ("block3_pool", "block4_pool", "block5_pool")
BACKBONES = {
    backbone.name: backbone
    for backbone in (
        Backbone("VGG16", "vgg16", "block4_pool", _VGG_BLOCKS, _VGG),
        Backbone("VGG19", "vgg19", "block4_pool", _VGG_BLOCKS, _VGG),
        Backbone(
            "ResNet50",
            "resnet",
            "conv4_block6_out",
            ("conv3_block4_out", "conv4_block6_out", "conv5_block3_out"),
            _RESNET,
        ),
        Backbone(
            "DenseNet121",
            "densenet",
            "pool4_conv",
            ("pool3_conv", "pool4_conv", "relu"),
            _DENSENET,
        ),
        Backbone(
            "MobileNetV2",
            "mobilenet_v2",
            "block_12_add",
            ("block_5_add", "block_12_add", "out_relu"),
            _MOBILENET,
        ),
        Backbone(
            "EfficientNetB0",
            "efficientnet",
            "block5c_add",
            ("block3b_add", "block5c_add", "top_activation"),
            _EFFICIENTNET,
        ),
    )
}
