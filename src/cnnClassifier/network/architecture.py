"""The network: ImageNet backbones, where each can be cut, and the heads on it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnClassifier.entity.backbones import BACKBONES
from cnnClassifier.network.efficientnet_lite import build_efficientnet_lite0
from cnnClassifier.utils.errors import ConfigError

if TYPE_CHECKING:
    import keras

LINEAR = "linear"
NORM_LAYER = "head_norm"
POOL_LAYER = "head_pool"  # of `average` and `flatten`
BLOCKS_LAYER = "block_averages"
HEADS_LAYER = "head_probabilities"
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
    x = inputs = keras.Input(image_size, name="image")
    module = BACKBONES[name].module
    if module is not None:
        x = getattr(keras.applications, module).preprocess_input(inputs)
    model = build_plain(name, x)
    # As a new model, it takes an image instead of a list of one image.
    model = keras.Model(inputs, model.output, name=model.name)
    is_nested = any(isinstance(layer, keras.Sequential) for layer in model.layers)
    return _flatten(model) if is_nested else model


def build_plain(name: str, inputs: Any, weights: str | None = None) -> "keras.Model":
    """Build a backbone without its top as its weight files expect it.

    Args:
        name: a key of `BACKBONES`.
        inputs: the image as `preprocess_input` returns it.
        weights: None (random), or `imagenet`: Keras downloads its own file.
    """
    import keras

    if BACKBONES[name].module is None:
        return build_efficientnet_lite0(inputs)
    build = getattr(keras.applications, name)
    return build(include_top=False, weights=weights, input_tensor=inputs)


def _flatten(model: "keras.Model") -> "keras.Model":
    """Copy a model with the layers of nested models as its own; the weights are new.

    A layer inside a nested model can't be the end of the frozen part, nor of the class activation
    map.
    """
    import keras

    def call(layer: Any, *inputs: Any, **options: Any) -> Any:
        if not isinstance(layer, keras.Sequential):
            return layer(*inputs, **options)
        (x,) = inputs
        for nested in layer.layers:
            x = type(nested).from_config(nested.get_config())(x)
        return x

    return keras.models.clone_model(model, call_function=call)


def averaged_layers(name: str, model: "keras.Model") -> list[str]:
    """Return the layers of a backbone whose averaged maps the linear heads see."""
    return [*BACKBONES[name].blocks, model.layers[-1].name]


def resolve_feature_layer(name: str, requested: str, model: "keras.Model") -> str:
    """Return the layer for the head; `auto` takes the backbone's default.

    Raises:
        ConfigError: the backbone has no such layer with a feature map.
    """
    backbone = BACKBONES[name]
    layer_name = backbone.feature_layer if requested == "auto" else requested
    maps = [layer.name for layer in model.layers if len(getattr(layer.output, "shape", ())) == 4]
    if layer_name not in maps:
        ends = {*backbone.boundaries.values(), *averaged_layers(name, model)}
        usual = [layer for layer in maps if layer in ends]
        raise ConfigError(
            f"params.yaml: FEATURE_LAYER: {name} has no feature map {layer_name}; "
            f"expected auto, or a layer such as {', '.join(usual)}"
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


def add_heads(
    backbone: "keras.Model",
    blocks: Sequence[str],
    feature_layer: str,
    head: str,
    count: int,
    dropout: float,
    class_count: int,
    seed: int,
) -> "keras.Model":
    """Attach `count` local and `count` linear heads; the output is the mean of those requested.

    A lesion is a few cells of the feature map. `conv_max` combines each cell with its neighbors and
    takes the mean of the maximum and the average over all cells: one cell is enough, and what fills
    the image counts as well. Its dropout drops whole channels (Tompson et al. 2015), because
    neighbors in a map are correlated. `average` (global average pooling, Lin et al. 2013) suits
    what fills the image. `flatten` is the head of most tutorials, with the most weights to overfit.
    `linear` is logistic regression on the averaged maps of several blocks; it has no dropout.

    Args:
        backbone: from RGB 0-255 to the last feature map.
        blocks: layers whose averaged maps the linear heads see.
        feature_layer: the layer that the local heads see, of shape (n, h, w, channels).
        head: `auto` (conv_max and linear), `conv_max`, `linear`, `average` or `flatten`. The linear
            heads are always there: they are the baseline.
        count: number of heads of each kind, one for each fold.
        dropout: fraction of features dropped in training, 0 to 0.95.
        class_count: number of outputs.
        seed: of the new weights and of dropout.

    Returns:
        A model from RGB 0-255 to probabilities, (n, class_count).
    """
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)
    local_kind = requested_kind(head)
    outputs = {}
    if local_kind != LINEAR:
        x = backbone.get_layer(feature_layer).output
        outputs[local_kind] = _local_heads(x, local_kind, count, dropout, class_count, seed)
    averages = []
    for block in blocks:
        pool = layers.GlobalAveragePooling2D(name=f"{block}_average", dtype="float32")
        averages.append(pool(backbone.get_layer(block).output))
    averaged = layers.Concatenate(name=BLOCKS_LAYER)(averages)
    outputs[LINEAR] = []
    for number in range(count):
        dense = layers.Dense(class_count, "softmax", name=f"{LINEAR}_{number}")
        outputs[LINEAR].append(dense(averaged))
    weights = {kind: float(head == "auto" or kind == local_kind) for kind in outputs}
    return _combine(backbone.input, outputs, weights)


def requested_kind(head: str) -> str:
    """Return the kind of head that HEAD asks for; `auto` asks for conv_max, next to linear."""
    return "conv_max" if head == "auto" else head


def local_tail(
    cut: Any, x: Any, kind: str, count: int, dropout: float, class_count: int, seed: int
) -> "keras.Model":
    """Build the tail that a model from `add_heads` with the same options has; see `split_at`.

    Args:
        cut: output of the last frozen layer, or an input of its shape.
        x: output of the feature layer; `cut` itself where the backbone is frozen.
        kind: `conv_max`, `average` or `flatten`.
        count: number of heads.
        dropout: fraction of features dropped in training.
        class_count: number of outputs.
        seed: of the new weights and of dropout.
    """
    import keras

    keras.utils.set_random_seed(seed)
    outputs = _local_heads(x, kind, count, dropout, class_count, seed)
    return keras.Model(cut, stack_heads(outputs, "tail"), name="tail")


def local_kind_of(model: "keras.Model") -> str | None:
    """Return the kind of the local heads of a model from `add_heads`; None: it has none."""
    names = {layer.name for layer in model.layers}
    return next((kind for kind in ("conv_max", "average", "flatten") if f"{kind}_0" in names), None)


def heads_of(model: "keras.Model", kind: str) -> list["keras.layers.Layer"]:
    """Return the last layers, which output probabilities, of the heads of a kind."""
    names = {layer.name for layer in model.layers}
    heads: list[keras.layers.Layer] = []
    while f"{kind}_{len(heads)}" in names:
        heads.append(model.get_layer(f"{kind}_{len(heads)}"))
    return heads


def combine_heads(model: "keras.Model", weights: Mapping[str, float], count: int) -> "keras.Model":
    """Return the model with the weighted mean of some of its heads; the others are left out.

    Args:
        model: from `add_heads`; the layers are shared with it.
        weights: of each kind of head, above 0.
        count: number of heads of each kind, the first ones.
    """
    outputs = {}
    for kind in weights:
        outputs[kind] = [head.output for head in heads_of(model, kind)[:count]]
    return _combine(model.input, outputs, weights)


def _local_heads(
    x: Any, kind: str, count: int, dropout: float, class_count: int, seed: int
) -> list[Any]:
    """Return the probabilities of each head. Normalization and dropout are the same for all."""
    from keras import layers

    if kind == "conv_max":
        x = layers.BatchNormalization(name=NORM_LAYER)(x)
        x = layers.SpatialDropout2D(dropout, seed=seed, name="head_dropout")(x)
    else:
        pool = layers.GlobalAveragePooling2D if kind == "average" else layers.Flatten
        x = pool(name=POOL_LAYER)(x)
        x = layers.BatchNormalization(name=NORM_LAYER)(x)
        x = layers.Dropout(dropout, seed=seed, name="head_dropout")(x)
    outputs = []
    for number in range(count):
        name = f"{kind}_{number}"
        pooled = x
        if kind == "conv_max":
            mixed = layers.Conv2D(32, 1, activation="relu", name=f"{name}_mix")(x)
            maps = layers.Conv2D(32, 3, padding="same", activation="relu", name=f"{name}_map")(
                mixed
            )
            maximum = layers.GlobalMaxPooling2D(name=f"{name}_max")(maps)
            mean = layers.GlobalAveragePooling2D(name=f"{name}_mean")(maps)
            pooled = layers.Average(name=f"{name}_pool")([maximum, mean])
        outputs.append(layers.Dense(class_count, activation="softmax", name=name)(pooled))
    return outputs


def stack_heads(outputs: Sequence[Any], name: str = HEADS_LAYER) -> Any:
    """Stack the probabilities of heads, (n, classes) each, to (n, heads, classes)."""
    from keras import layers

    rows = []
    for number, output in enumerate(outputs):
        row = layers.Reshape((1, output.shape[-1]), name=f"{name}_{number}")
        rows.append(row(output))
    return layers.Concatenate(axis=1, name=name)(rows)


def _combine(
    image: Any, outputs: Mapping[str, Sequence[Any]], weights: Mapping[str, float]
) -> "keras.Model":
    """Return a model whose output is the weighted mean of kinds, and the mean of each kind's heads.

    Args:
        image: the model's input.
        outputs: probabilities of each head of each kind.
        weights: of each kind; they are scaled to the sum 1.
    """
    import keras
    from keras import layers

    total = sum(weights[kind] for kind in outputs)
    stacked: list[Any] = []
    kernel: list[float] = []
    for kind, heads in outputs.items():
        stacked += heads
        kernel += [weights[kind] / total / len(heads)] * len(heads)
    x = layers.Permute((2, 1), name="heads_last")(stack_heads(stacked))
    combination = layers.Dense(1, use_bias=False, trainable=False, name="combination")
    x = layers.Reshape((x.shape[1],), name=OUTPUT_LAYER)(combination(x))
    combination.set_weights([np.reshape(np.array(kernel, np.float32), (-1, 1))])
    return keras.Model(image, x, name="classifier")
