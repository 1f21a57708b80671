"""From a Keras model to an OpenVINO graph, on disk as int8 or in memory."""

import contextlib
import io
import logging
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnClassifier.network.cam import ActivationMap
from cnnClassifier.network.serialization import write_archive
from cnnClassifier.network.tf_setup import forbid_telemetry

if TYPE_CHECKING:
    import keras
    import openvino

_GRAPH, _WEIGHTS, _MAP = "graph.xml", "graph.bin", "map.npy"
_PASSIVE = ("Constant", "Result")


def to_openvino(model: "keras.Model", feature_layer: str) -> tuple["openvino.Model", ActivationMap]:
    """Return a graph of a model with all that an inspection needs, and what makes maps of its last output.

    Args:
        model: with a head from `add_head`; Keras may run on any backend.
        feature_layer: the layer that the head stands on.

    Returns:
        A graph from float32 (n, height, width, 3) to probabilities, the feature layer's and the map layer's output.
    """
    forbid_telemetry()
    import keras
    import openvino as ov
    from openvino.frontend import FrontEndManager

    activation = ActivationMap.of(model)
    shown = [model.get_layer(name).output for name in (feature_layer, activation.layer)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / _GRAPH
        keras.Model(model.input, [model.output, *shown]).export(
            str(path), format="openvino", verbose=False
        )
        graph = ov.Core().read_model(path.read_bytes(), path.with_suffix(".bin").read_bytes())
    # Keras turns every map to channels first and back again; this takes out what cancels: 1.6 times as fast.
    FrontEndManager().load_by_framework("tf").normalize(graph)
    return graph, activation


def quantize(graph: "openvino.Model", images: Sequence[np.ndarray]) -> "openvino.Model":
    """Return a graph whose first four fifths of convolutions calculate in int8.

    The others and the head stay as they are: what is lost there isn't averaged out any more. For VGG16, that halves
    the difference of the probabilities and leaves three quarters of the work to int8.

    Args:
        graph: from `to_openvino`.
        images: uint8, (height, width, 3): what the ranges are taken from.
    """
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    nncf.set_log_level(logging.ERROR)
    probabilities, features, activations = (_upstream(result) for result in graph.get_results())
    head = [
        name
        for name, kind in (probabilities | activations).items()
        if name not in features and kind not in _PASSIVE
    ]
    order = [node.get_friendly_name() for node in graph.get_ordered_ops()]
    convolutions = [name for name in order if features.get(name, "").endswith("Convolution")]
    last = convolutions[len(convolutions) - len(convolutions) // 5 :]
    data = nncf.Dataset([image[np.newaxis].astype(np.float32) for image in images])
    with contextlib.redirect_stdout(io.StringIO()):  # of its own progress bars
        return nncf.quantize(
            graph,
            data,
            subset_size=len(images),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=sorted({*head, *last})),
            # A lesion is a few cells that answer strongly: to clip the strongest, as is usual, would cut it off.
            advanced_parameters=AdvancedQuantizationParameters(
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
            ),
        )


def save_graph(path: Path, graph: "openvino.Model", activation: ActivationMap) -> None:
    """Write graph and map weights into one file: equal graphs give equal bytes."""
    import openvino as ov

    weights = io.BytesIO()
    np.save(weights, activation.weights)
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / _GRAPH
        ov.save_model(graph, written, compress_to_fp16=False)
        contents = {
            _GRAPH: written.read_bytes(),
            _WEIGHTS: written.with_suffix(".bin").read_bytes(),
        }
    write_archive(path, contents | {_MAP: weights.getvalue()})


def load_graph(path: Path) -> tuple["openvino.Model", ActivationMap]:
    """Read what `save_graph` wrote; Keras isn't needed."""
    import openvino as ov

    with zipfile.ZipFile(path) as archive:
        graph = ov.Core().read_model(archive.read(_GRAPH), archive.read(_WEIGHTS))
        return graph, ActivationMap(np.load(io.BytesIO(archive.read(_MAP)), allow_pickle=False))


def _upstream(result: Any) -> dict[str, str]:
    """Return name and kind of every node that a result is calculated from."""
    found: dict[str, str] = {}
    waiting = [result]
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() not in found:
            found[node.get_friendly_name()] = node.get_type_name()
            waiting += [source.get_source_output().get_node() for source in node.inputs()]
    return found
