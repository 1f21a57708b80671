"""Convert a Keras model to an OpenVINO network, in memory or on disk."""

import io
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cnnClassifier.network.cam import ClassActivationMap
from cnnClassifier.network.serialization import write_archive
from cnnClassifier.network.tf_setup import disable_telemetry

if TYPE_CHECKING:
    import keras
    import openvino

_NETWORK, _WEIGHTS, _MAP_WEIGHTS = "graph.xml", "graph.bin", "map.npy"


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
