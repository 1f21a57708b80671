"""EfficientNet-Lite0: EfficientNet-B0 with ReLU6 and without squeeze-and-excitation.

Both changes are Google's (tensorflow/tpu, 2020), so that 8-bit integers lose little. The layers are
named as in Keras's EfficientNet (Tan & Le 2019).
"""

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import keras

_EPSILON = 1e-3


class Block(NamedTuple):
    """An inverted residual block (Sandler et al. 2018), such as `block2a`."""

    name: str
    expansion: int
    filters: int
    kernel_size: int
    stride: int


def _blocks() -> tuple[Block, ...]:
    # Of each stage: filters, kernel size, stride of the first block, number of blocks.
    stages = (
        *((16, 3, 1, 1), (24, 3, 2, 2), (40, 5, 2, 2), (80, 3, 2, 3)),
        *((112, 5, 1, 3), (192, 5, 2, 4), (320, 3, 1, 1)),
    )
    blocks = []
    for stage, (filters, kernel_size, stride, count) in enumerate(stages, start=1):
        for number in range(count):
            name = f"block{stage}{'abcd'[number]}"
            expansion = 1 if stage == 1 else 6
            blocks.append(Block(name, expansion, filters, kernel_size, 1 if number else stride))
    return tuple(blocks)


BLOCKS = _blocks()


def build_efficientnet_lite0(inputs: Any) -> "keras.Model":
    """Build the network without its top.

    Args:
        inputs: RGB 0-255, (n, height, width, 3); it was trained on 224 x 224.

    Returns:
        A flat functional model to the last feature map, (n, height / 32, width / 32, 1280).
    """
    import keras
    from keras import layers

    x = layers.Rescaling(1 / 128, -127 / 128, name="rescaling")(inputs)
    x = layers.Conv2D(32, 3, 2, "same", use_bias=False, name="stem_conv")(x)
    x = _normalize(x, "stem_bn", "stem_activation")
    for block in BLOCKS:
        x = _inverted_residual(x, block)
    x = layers.Conv2D(1280, 1, use_bias=False, name="top_conv")(x)
    x = _normalize(x, "top_bn", "top_activation")
    return keras.Model(inputs, x, name="efficientnet-lite0")


def _inverted_residual(inputs: Any, block: Block) -> Any:
    """Widen the map, filter each channel, narrow the map; add the input where the shapes agree."""
    from keras import layers

    x, name = inputs, block.name
    if block.expansion > 1:
        filters = block.expansion * inputs.shape[-1]
        x = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_expand_conv")(x)
        x = _normalize(x, f"{name}_expand_bn", f"{name}_expand_activation")
    depthwise = layers.DepthwiseConv2D(
        block.kernel_size, block.stride, "same", use_bias=False, name=f"{name}_dwconv"
    )
    x = _normalize(depthwise(x), f"{name}_bn", f"{name}_activation")
    x = layers.Conv2D(block.filters, 1, use_bias=False, name=f"{name}_project_conv")(x)
    x = layers.BatchNormalization(epsilon=_EPSILON, name=f"{name}_project_bn")(x)
    if block.stride == 1 and inputs.shape[-1] == block.filters:
        x = layers.Add(name=f"{name}_add")([inputs, x])
    return x


def _normalize(x: Any, norm: str, activation: str) -> Any:
    from keras import layers

    x = layers.BatchNormalization(epsilon=_EPSILON, name=norm)(x)
    return layers.ReLU(6.0, name=activation)(x)
