"""The ImageNet backbones: an entry in `BACKBONES` is all that a further one needs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Backbone:
    """A network with pretrained weights.

    Attributes:
        name: of the constructor in `keras.applications`, such as `VGG16`.
        module: of `keras.applications`, with its `preprocess_input`; None: the project's own.
        blocks: last layers of two blocks, whose maps have an eighth and a sixteenth of the image's
            sides. The linear head sees the averages of both and of the last feature map.
        boundaries: for each block that can be trained, the last layer before it.
    """

    name: str
    module: str | None
    blocks: tuple[str, str]
    boundaries: dict[str, str]

    @property
    def feature_layer(self) -> str:
        """The default layer for the local head: a lesion is a few cells of its map."""
        return self.blocks[1]


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
_MOBILENET_V2 = {"block_6": "block_5_add", "block_13": "block_12_add"}
_MOBILENET_V3 = {"expanded_conv_3": "expanded_conv_2_add", "expanded_conv_8": "expanded_conv_7_add"}
_EFFICIENTNET = {
    "block4": "block3b_add",
    "block5": "block4c_add",
    "block6": "block5c_add",
    "block7": "block6d_add",
}
_EFFICIENTNET_V2 = {"block4": "block3b_add", "block5": "block4c_add", "block6": "block5e_add"}
# A stage ends with a sum without a layer; the normalization of that sum is the next layer.
_CONVNEXT = {
    f"stage_{number + 1}": f"convnext_tiny_downsampling_layernorm_{number}" for number in range(3)
}
_CONVNEXT_BLOCKS = (_CONVNEXT["stage_2"], _CONVNEXT["stage_3"])
BACKBONES = {
    backbone.name: backbone
    for backbone in (
        Backbone("VGG16", "vgg16", ("block3_pool", "block4_pool"), _VGG),
        Backbone("VGG19", "vgg19", ("block3_pool", "block4_pool"), _VGG),
        Backbone("ResNet50", "resnet", ("conv3_block4_out", "conv4_block6_out"), _RESNET),
        Backbone("DenseNet121", "densenet", ("pool3_conv", "pool4_conv"), _DENSENET),
        Backbone("MobileNetV2", "mobilenet_v2", ("block_5_add", "block_12_add"), _MOBILENET_V2),
        Backbone(
            "MobileNetV3Small",
            "mobilenet_v3",
            ("expanded_conv_2_add", "expanded_conv_7_add"),
            _MOBILENET_V3,
        ),
        Backbone("EfficientNetB0", "efficientnet", ("block3b_add", "block5c_add"), _EFFICIENTNET),
        Backbone("EfficientNetLite0", None, ("block3b_add", "block5c_add"), _EFFICIENTNET),
        Backbone(
            "EfficientNetV2B0", "efficientnet_v2", ("block3b_add", "block5e_add"), _EFFICIENTNET_V2
        ),
        Backbone("ConvNeXtTiny", "convnext", _CONVNEXT_BLOCKS, _CONVNEXT),
    )
}
