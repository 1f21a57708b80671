"""OpenVINO networks of Keras models: conversion, int8, archives, class activation maps."""

import contextlib
import io
import logging
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnClassifier.network.architecture import (
    BLOCKS_LAYER,
    HEADS_LAYER,
    LINEAR,
    NORM_LAYER,
    heads_of,
    local_kind_of,
)
from cnnClassifier.network.backend import disable_telemetry
from cnnClassifier.network.serialization import load_model, write_archive

if TYPE_CHECKING:
    import keras
    import openvino

_NETWORK, _WEIGHTS = "graph.xml", "graph.bin"
_PIECE_BYTES = 1 << 20


def activation_map(evidence: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return the evidence for the predicted class, minus the mean of the other classes' evidence.

    Args:
        evidence: see `export_openvino`, float (n, h, w, classes).
        predicted: class index of each image, int (n,).

    Returns:
        float32, (n, h, w), 0 to 1; all 0 where nothing contributes to the class.
    """
    classes = evidence.shape[-1]
    of_class = np.take_along_axis(evidence, predicted[:, None, None, None], axis=3)[..., 0]
    others = (evidence.sum(3) - of_class) / (classes - 1)
    contrast = np.maximum(of_class - others, 0)
    peak = contrast.max((1, 2), keepdims=True)
    scaled = np.divide(contrast, peak, out=np.zeros_like(contrast), where=peak > 0)
    return scaled.astype(np.float32)


def export_openvino(model: "keras.Model", feature_layer: str) -> "openvino.Model":
    """Convert a model to an OpenVINO network with all outputs that a prediction needs.

    Args:
        model: from `add_heads` or `combine_heads`; Keras may run on any backend.
        feature_layer: the layer that the local heads see.

    Returns:
        A network from float32 (n, height, width, 3) to
        - the probabilities, (n, classes),
        - those of each head, (n, heads, classes),
        - the averages of the feature layer's map and of the blocks, (n, features),
        - the evidence: what each cell of the feature map contributes to the score of each class,
          (n, h, w, classes): the class activation map (Zhou et al. 2016). With pooling or
          flattening before one dense layer, the gradient of a score with respect to the last map is
          that layer's weights: no backward pass is needed.
    """
    disable_telemetry()
    import keras
    from keras import layers

    features = [
        layers.GlobalAveragePooling2D(name="feature_average")(model.get_layer(feature_layer).output)
    ]
    if heads_of(model, LINEAR):
        features.append(model.get_layer(BLOCKS_LAYER).output)
    outputs = [
        model.output,
        model.get_layer(HEADS_LAYER).output,
        layers.Concatenate(name="averages")(features) if len(features) > 1 else features[0],
        _evidence(model, feature_layer),
    ]
    return convert(keras.Model(model.input, outputs))


def convert(model: "keras.Model") -> "openvino.Model":
    """Convert a Keras model to an OpenVINO network with the same inputs and outputs."""
    disable_telemetry()
    import openvino as ov
    from openvino.frontend import FrontEndManager

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / _NETWORK
        model.export(str(path), format="openvino", verbose=False)
        network = ov.Core().read_model(path.read_bytes(), path.with_suffix(".bin").read_bytes())
    for result in network.get_results()[len(model.outputs) :]:
        network.remove_result(result)  # the export adds the results of some operations
    # Keras transposes every map to channels first and back. This removes the pairs that cancel:
    # 1.6 times as fast.
    FrontEndManager().load_by_framework("tf").normalize(network)
    return network


def compile_network(
    network: "openvino.Model", image_size: tuple[int, ...], options: dict[str, str]
) -> "openvino.CompiledModel":
    """Compile a network for the CPU, from uint8 (1, height, width, 3) to float32.

    Args:
        network: from `convert`, `export_openvino` or `load_openvino`.
        image_size: (height, width, 3).
        options: of OpenVINO's CPU plugin, such as PERFORMANCE_HINT.
    """
    import openvino as ov
    from openvino.preprocess import PrePostProcessor

    shape = network.input(0).partial_shape
    if not shape.compatible(ov.PartialShape([1, *image_size])):
        raise ValueError(f"takes {shape}, not image_size {list(image_size)}")
    network.reshape([1, *image_size])
    processor = PrePostProcessor(network)
    processor.input().tensor().set_element_type(ov.Type.u8)
    for index in range(len(network.outputs)):
        processor.output(index).tensor().set_element_type(ov.Type.f32)
    return ov.Core().compile_model(processor.build(), "CPU", options)


def _evidence(model: "keras.Model", feature_layer: str) -> Any:
    """Return the tensor of the evidence, see `export_openvino`."""
    from keras import layers

    weights = model.get_layer("combination").get_weights()[0][:, 0]
    terms = []
    kind = local_kind_of(model)
    height, width, channels = model.get_layer(feature_layer).output.shape[1:]
    if kind:
        heads = heads_of(model, kind)
        kernels = [head.get_weights()[0] for head in heads]
        if kind == "conv_max":
            names = [f"{head.name}_map" for head in heads]
            maps = layers.Concatenate(name="evidence_maps")(
                [model.get_layer(name).output for name in names]
            )
            kernel = np.concatenate([weights[i] * kernels[i] for i in range(len(heads))])
            terms.append(_contributions("evidence_local", maps, kernel[np.newaxis]))
        else:  # the normalization comes after the map: fold it in
            norm = model.get_layer(NORM_LAYER)
            gamma, _, _, variance = norm.get_weights()
            kernel = sum(weights[i] * kernels[i] for i in range(len(heads)))
            kernel = kernel * (gamma / np.sqrt(variance + norm.epsilon))[:, None]
            maps = model.get_layer(feature_layer).output
            kernel = kernel.reshape(-1, channels, kernel.shape[1])
            terms.append(_contributions("evidence_local", maps, kernel))
    linear = heads_of(model, LINEAR)
    if linear:
        kernels = [head.get_weights()[0] for head in linear]
        shares = weights[len(weights) - len(linear) :]
        kernel = sum(share * each for share, each in zip(shares, kernels, strict=True))
        start = 0
        for number, maps in enumerate(_block_maps(model)):
            part = kernel[start : start + maps.shape[-1]]
            start += maps.shape[-1]
            name = f"evidence_block_{number}"
            block = _contributions(name, maps, part[np.newaxis])
            resize = layers.Resizing(height, width, "bilinear", name=f"{name}_resized")
            terms.append(resize(block))
    return layers.Add(name="evidence")(terms) if len(terms) > 1 else terms[0]


def _contributions(name: str, maps: Any, kernel: np.ndarray) -> Any:
    """Weight the channels of maps: (positions, channels, classes), or one set for all positions."""
    from keras import layers

    positions, channels, classes = kernel.shape
    if positions == 1:
        layer = layers.Conv2D(classes, 1, use_bias=False, name=name)
        contributions = layer(maps)
        layer.set_weights([kernel.reshape(1, 1, channels, classes)])
    else:
        shape = maps.shape[1:3]
        layer = layers.EinsumDense("bhwc,hwck->bhwk", (*shape, classes), name=name)
        contributions = layer(maps)
        layer.set_weights([kernel.reshape(*shape, channels, classes)])
    return contributions


def _block_maps(model: "keras.Model") -> list[Any]:
    """Return the maps whose averages the linear heads see, in their order."""
    map_of_average = {id(layer.output): layer.input for layer in model.layers}
    return [map_of_average[id(average)] for average in model.get_layer(BLOCKS_LAYER).input]


def save_openvino(path: Path, network: "openvino.Model") -> None:
    """Write a network into a zip archive: equal networks give equal bytes."""
    import openvino as ov

    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / _NETWORK
        ov.save_model(network, saved, compress_to_fp16=False)
        contents = {
            _NETWORK: saved.read_bytes(),
            _WEIGHTS: saved.with_suffix(".bin").read_bytes(),
        }
    write_archive(path, contents)


def load_openvino(path: Path) -> "openvino.Model":
    """Read an archive from `save_openvino`; Keras isn't needed."""
    import openvino as ov

    with zipfile.ZipFile(path) as archive:
        weights = ov.Tensor(ov.Type.u8, [archive.getinfo(_WEIGHTS).file_size])
        rest = memoryview(weights.data)
        with archive.open(_WEIGHTS) as file:  # in pieces: no second copy of all weights
            while piece := file.read(_PIECE_BYTES):
                rest[: len(piece)] = piece
                rest = rest[len(piece) :]
        return ov.Core().read_model(archive.read(_NETWORK), weights)


def quantize(network: "openvino.Model", images: Sequence[np.ndarray]) -> "openvino.Model":
    """Quantize the backbone after training (Jacob et al. 2018), all but a fifth of what is local.

    Of the convolutions that lead to the feature layer the last fifth stays in floating point, and
    so do the heads: errors there aren't averaged out anymore. For VGG16, that halves the difference
    of the probabilities and leaves three quarters of the arithmetic to int8.

    Args:
        network: from `export_openvino`.
        images: uint8, (height, width, 3), to estimate the ranges of the activations.
    """
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    logging.getLogger("nncf").setLevel(logging.ERROR)  # nncf.set_log_level changes all handlers
    averages = network.get_results()[2].input_value(0).get_node()
    backbone = _upstream(averages)
    is_joined = averages.get_type_name() == "Concat"  # with those of the blocks
    local = _upstream(averages.input_value(0).get_node()) if is_joined else backbone
    ignored = set().union(*map(_upstream, network.get_results())) - backbone
    convolutions = []
    for node in network.get_ordered_ops():
        name = node.get_friendly_name()
        if node.get_type_name() in ("Constant", "Result"):  # NNCF refuses to ignore them
            ignored.discard(name)
        if name in local and node.get_type_name().endswith("Convolution"):
            convolutions.append(name)
    ignored.update(convolutions[len(convolutions) - len(convolutions) // 5 :])
    batches = [image[np.newaxis].astype(np.float32) for image in images]
    with contextlib.redirect_stdout(io.StringIO()):  # of NNCF's progress bars
        return nncf.quantize(
            network,
            nncf.Dataset(batches),
            subset_size=len(images),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=sorted(ignored)),
            # A lesion is a few cells of the map with high values. Other estimators clip these.
            advanced_parameters=AdvancedQuantizationParameters(
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
            ),
        )


def write_int8(
    path: Path, model_path: Path, feature_layer: str, images: Sequence[np.ndarray]
) -> None:
    """Quantize a saved model, and write it as `save_openvino` does.

    Args:
        path: of the archive.
        model_path: `.keras` file of a model from `combine_heads`.
        feature_layer: see `export_openvino`.
        images: see `quantize`.
    """
    model = load_model(model_path, "train it again")
    save_openvino(path, quantize(export_openvino(model, feature_layer), images))


def _upstream(node: Any) -> set[str]:
    """Return the names of a node and of all that it depends on."""
    names: set[str] = set()
    pending = [node]
    while pending:
        node = pending.pop()
        if node.get_friendly_name() not in names:
            names.add(node.get_friendly_name())
            pending += [source.get_source_output().get_node() for source in node.inputs()]
    return names
