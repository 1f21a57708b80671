"""Run a trained bundle on OpenVINO, without TensorFlow: as it is, or in int8."""

import os
import sys
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnClassifier.entity.bundle import (
    INT8_FILE,
    MODEL_FILE,
    REFERENCE_FILE,
    ModelBundle,
    apply_temperature,
    decide,
)
from cnnClassifier.entity.prediction import InferenceResult
from cnnClassifier.network.cam import ActivationMap
from cnnClassifier.network.out_of_distribution import Reference
from cnnClassifier.network.quantization import load_graph, to_openvino
from cnnClassifier.network.tf_setup import forbid_telemetry
from cnnClassifier.utils.errors import BundleError

if TYPE_CHECKING:
    import openvino


class Engine:
    """A loaded model that may be used from many threads.

    Args:
        bundle_dir: a folder with `model.keras`, `model.json` and `reference.npz`.
        int8: run `model_int8.zip` instead of `model.keras`; the bundle must have it. Keras isn't imported then.

    Attributes:
        bundle: what is known of the model.
        name: `keras-openvino` or `int8`.

    Raises:
        BundleError: a part is missing, or they don't belong together.
    """

    def __init__(self, bundle_dir: Path, int8: bool = False) -> None:
        self.bundle = ModelBundle.read(bundle_dir)
        self.name = "int8" if int8 else "keras-openvino"
        self._reference = Reference.load(bundle_dir / REFERENCE_FILE)
        path = bundle_dir / (INT8_FILE if int8 else MODEL_FILE)
        forbid_telemetry()
        try:
            graph, self._activation = (
                load_graph(path) if int8 else _from_keras(path, self.bundle.feature_layer)
            )
            self._requests = _compile(graph, self.bundle.image_size)
            # The first one allocates what the others use, so that no request has to wait for it.
            shown, _, _ = self._run(np.zeros(self.bundle.image_size, np.uint8))
        except ImportError as error:
            raise BundleError(f"{error}; run `pip install -r requirements-serve.txt`") from error
        except (
            Exception
        ) as error:  # Keras and OpenVINO raise whatever the layer, the archive or the graph does
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise BundleError(f"{path}: can't be run ({reason}); train it again") from error
        if shown.shape != (1, len(self.bundle.classes)) or not np.isfinite(shown).all():
            raise BundleError(
                f"{path}: expected {len(self.bundle.classes)} finite probabilities, found {shown.tolist()!s:.100}; "
                "train it again"
            )

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return each image's calibrated class probabilities.

        Args:
            images: uint8, (n, height, width, 3), RGB 0-255.

        Returns:
            float32, (n, classes); each row sums to 1.
        """
        return self.inspect(images).probabilities

    def inspect(self, images: np.ndarray) -> InferenceResult:
        """Return what one forward pass each tells: probabilities, distance from the training images, activation map.

        Args:
            images: uint8, (n, height, width, 3), RGB 0-255; n at least 1.
        """
        bundle = self.bundle
        positive = bundle.classes.index(bundle.positive_class)
        probabilities, distances, maps = [], [], []
        for image in images:
            raw, features, activations = self._run(image)
            calibrated = apply_temperature(raw, bundle.temperature).astype(np.float32)
            probabilities.append(calibrated)
            distances.append(self._reference.distances(features.mean((1, 2), dtype=np.float32)))
            maps.append(
                self._activation.maps(activations, decide(calibrated, positive, bundle.threshold))
            )
        return InferenceResult(
            np.concatenate(probabilities), np.concatenate(distances), np.concatenate(maps)
        )

    def _run(self, image: np.ndarray) -> list[np.ndarray]:
        """Return raw probabilities, the feature layer's and the map layer's output, float32, each for one image."""
        request = self._requests.get()
        try:
            return list(request.infer([image[np.newaxis]], share_inputs=True).values())
        finally:
            self._requests.put(request)


def _from_keras(path: Path, feature_layer: str) -> tuple["openvino.Model", ActivationMap]:
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "openvino"
    import keras

    return to_openvino(keras.models.load_model(path, compile=False), feature_layer)


def _compile(graph: "openvino.Model", image_size: tuple[int, int, int]) -> "SimpleQueue[Any]":
    """Return inference requests that take uint8 (1, height, width, 3).

    Each uses all cores, so that one that is alone is answered soonest. The second one keeps them busy while the first
    one's results are taken out.
    """
    import openvino as ov
    from openvino.preprocess import PrePostProcessor

    taken = graph.input(0).partial_shape
    if not taken.compatible(ov.PartialShape([1, *image_size])):
        raise ValueError(f"takes {taken}, not image_size {list(image_size)}")
    graph.reshape([1, *image_size])
    processor = PrePostProcessor(graph)
    processor.input().tensor().set_element_type(ov.Type.u8)
    for place in range(3):
        processor.output(place).tensor().set_element_type(ov.Type.f32)
    compiled = ov.Core().compile_model(processor.build(), "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    requests: SimpleQueue[Any] = SimpleQueue()
    for _ in range(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") + 1):
        requests.put(compiled.create_infer_request())
    return requests
