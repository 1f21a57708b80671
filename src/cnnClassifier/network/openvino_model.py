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

from cnnClassifier.network.architecture import MAP_LAYER, NORM_LAYER, OUTPUT_LAYER, POOL_LAYER
from cnnClassifier.network.serialization import write_archive
from cnnClassifier.network.tf_setup import disable_telemetry

if TYPE_CHECKING:
    import keras
    import openvino

_NETWORK, _WEIGHTS, _MAP_WEIGHTS = "graph.xml", "graph.bin", "map.npy"


class ClassActivationMap:
    """The class activation map (Zhou et al. 2016) of a head with one dense layer.

    With pooling or flattening before it, the gradient of a class's score with respect to the last
    feature map is that layer's weights: no backward pass is needed.

    Args:
        weights: float, (positions, channels, classes): a flattened map has weights for each
            position, a pooled one has one set for all.
        layer: the layer whose output `compute` takes.
    """

    def __init__(self, weights: np.ndarray, layer: str = "") -> None:
        self.weights = weights
        self.layer = layer

    @classmethod
    def from_model(cls, model: "keras.Model") -> "ClassActivationMap":
        """Take layer and weights from a model with a head from `add_head`."""
        names = [layer.name for layer in model.layers]
        map_layer = MAP_LAYER if MAP_LAYER in names else names[names.index(POOL_LAYER) - 1]
        weights = model.get_layer(OUTPUT_LAYER).get_weights()[0]  # (features, classes)
        if map_layer != MAP_LAYER:  # the normalization comes after the map: fold it in
            norm = model.get_layer(NORM_LAYER)
            gamma, _, _, variance = norm.get_weights()
            weights = weights * (gamma / np.sqrt(variance + norm.epsilon))[:, None]
        channels = model.get_layer(map_layer).output.shape[-1]
        return cls(weights.reshape(-1, channels, weights.shape[1]), map_layer)

    def compute(self, feature_maps: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Return the contributions to the predicted class's score, minus the other classes' mean.

        Args:
            feature_maps: output of `layer`, float (n, h, w, channels).
            predicted: class index of each image, int (n,).

        Returns:
            float32, (n, h, w), 0 to 1; all 0 where nothing contributes to the class.
        """
        count, height, width, channels = feature_maps.shape
        classes = self.weights.shape[2]
        others = (self.weights.sum(2, keepdims=True) - self.weights) / (classes - 1)
        contrast = (self.weights - others)[:, :, predicted].transpose(2, 0, 1)
        flat = feature_maps.reshape(count, height * width, channels)
        evidence = np.maximum((flat * contrast).sum(2), 0).reshape(count, height, width)
        peak = evidence.max((1, 2), keepdims=True)
        scaled = np.divide(evidence, peak, out=np.zeros_like(evidence), where=peak > 0)
        return scaled.astype(np.float32)


def export_openvino(
    model: "keras.Model", feature_layer: str
) -> tuple["openvino.Model", ClassActivationMap]:
    """Convert a model to an OpenVINO network with all outputs that a prediction needs.

    Args:
        model: with a head from `add_head`; Keras may run on any backend.
        feature_layer: the layer that the head is attached to.

    Returns:
        A network from float32 (n, height, width, 3) to the probabilities and the outputs of the
        feature layer and the map layer; and the class activation map of its last output.
    """
    disable_telemetry()
    import keras
    import openvino as ov
    from openvino.frontend import FrontEndManager

    activation_map = ClassActivationMap.from_model(model)
    inner = [model.get_layer(name).output for name in (feature_layer, activation_map.layer)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / _NETWORK
        several = keras.Model(model.input, [model.output, *inner])
        several.export(str(path), format="openvino", verbose=False)
        network = ov.Core().read_model(path.read_bytes(), path.with_suffix(".bin").read_bytes())
    # Keras transposes every map to channels first and back. This removes the pairs that cancel:
    # 1.6 times as fast.
    FrontEndManager().load_by_framework("tf").normalize(network)
    return network, activation_map


def save_openvino(
    path: Path, network: "openvino.Model", activation_map: ClassActivationMap
) -> None:
    """Write network and map weights into one zip archive: equal networks give equal bytes."""
    import openvino as ov

    map_weights = io.BytesIO()
    np.save(map_weights, activation_map.weights)
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / _NETWORK
        ov.save_model(network, saved, compress_to_fp16=False)
        contents = {
            _NETWORK: saved.read_bytes(),
            _WEIGHTS: saved.with_suffix(".bin").read_bytes(),
            _MAP_WEIGHTS: map_weights.getvalue(),
        }
    write_archive(path, contents)


def load_openvino(path: Path) -> tuple["openvino.Model", ClassActivationMap]:
    """Read an archive from `save_openvino`; Keras isn't needed."""
    import openvino as ov

    with zipfile.ZipFile(path) as archive:
        network = ov.Core().read_model(archive.read(_NETWORK), archive.read(_WEIGHTS))
        weights = np.load(io.BytesIO(archive.read(_MAP_WEIGHTS)), allow_pickle=False)
    return network, ClassActivationMap(weights)


def quantize(network: "openvino.Model", images: Sequence[np.ndarray]) -> "openvino.Model":
    """Quantize the first four fifths of the convolutions, after training (Jacob et al. 2018).

    The last fifth and the head stay in floating point: errors there aren't averaged out anymore.
    For VGG16, that halves the difference of the probabilities and leaves three quarters of the
    arithmetic to int8.

    Args:
        network: from `export_openvino`.
        images: uint8, (height, width, 3), to estimate the ranges of the activations.
    """
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    nncf.set_log_level(logging.ERROR)
    probabilities, features, feature_maps = map(_upstream, network.get_results())
    ignored = {*probabilities, *feature_maps} - set(features)
    convolutions = []
    for node in network.get_ordered_ops():
        name = node.get_friendly_name()
        if node.get_type_name() in ("Constant", "Result"):  # NNCF refuses to ignore them
            ignored.discard(name)
        if name in features and node.get_type_name().endswith("Convolution"):
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


def _upstream(result: Any) -> set[str]:
    """Return the names of all nodes that a result depends on."""
    names: set[str] = set()
    pending = [result]
    while pending:
        node = pending.pop()
        if node.get_friendly_name() not in names:
            names.add(node.get_friendly_name())
            pending += [source.get_source_output().get_node() for source in node.inputs()]
    return names
