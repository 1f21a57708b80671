"""Run a trained bundle on OpenVINO, without TensorFlow: in floating point, or in int8."""

import gc
import os
from collections.abc import Iterable
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cnnClassifier.entity.bundle import (
    INT8_FILE,
    METADATA_FILE,
    MODEL_FILE,
    OOD_DETECTOR_FILE,
    ModelBundle,
    apply_temperature,
    apply_threshold,
)
from cnnClassifier.entity.prediction import InferenceResult
from cnnClassifier.network.backend import disable_telemetry, use_openvino
from cnnClassifier.network.openvino_model import (
    activation_map,
    compile_network,
    export_openvino,
    load_openvino,
    save_openvino,
)
from cnnClassifier.network.out_of_distribution import OutOfDistributionDetector
from cnnClassifier.utils.common import sha256_of
from cnnClassifier.utils.errors import BundleError
from cnnClassifier.utils.parallel import one_per_process

if TYPE_CHECKING:
    import openvino


class Engine:
    """A loaded model that may be used from many threads.

    With `shared_path` or `int8` it can be sent to other processes: each loads it once, without
    Keras, which may run on another backend there.

    Args:
        bundle: from `ModelBundle.read`.
        int8: run `model_int8.zip` instead of `model.keras`. Keras isn't imported then.
        hint: of OpenVINO: LATENCY (all cores work on one image) or THROUGHPUT (each on its own).
            The results are the same.
        shared_path: where the network of `model.keras` is written, if it isn't there yet, for other
            processes; None: nowhere.
        threads: maximum number; None: one for each core. The results are the same.

    Attributes:
        bundle: the model's description.
        name: `keras-openvino` or `int8`.

    Raises:
        BundleError: the model can't be run, or isn't the one that the bundle describes.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        int8: bool = False,
        hint: Literal["LATENCY", "THROUGHPUT"] = "LATENCY",
        shared_path: Path | None = None,
        threads: int | None = None,
    ) -> None:
        self.bundle = bundle
        self.name = "int8" if int8 else "keras-openvino"
        self._hint = hint
        self._shared_path = bundle.bundle_dir.absolute() / INT8_FILE if int8 else shared_path
        path = bundle.bundle_dir / (INT8_FILE if int8 else MODEL_FILE)
        options: dict[str, str] = {"PERFORMANCE_HINT": hint}
        if threads:
            options["INFERENCE_NUM_THREADS"] = str(threads)
        disable_telemetry()
        try:
            self._detector = OutOfDistributionDetector.load(bundle.bundle_dir / OOD_DETECTOR_FILE)
            if int8 or (self._shared_path and self._shared_path.exists()):
                network = load_openvino(self._shared_path or path)
            else:
                use_openvino()
                import keras

                model = keras.models.load_model(path, compile=False)
                network = export_openvino(model, bundle.feature_layer)
                if self._shared_path:
                    save_openvino(self._shared_path, network)
                del model
                gc.collect()  # Keras models are full of cycles; this one is as large as the network
            self._requests = _create_requests(network, bundle.image_size, options)
            # The first inference allocates memory for all others: no request has to wait for that.
            probabilities = self._infer(np.zeros(bundle.image_size, np.uint8))[0]
        except ImportError as error:
            raise BundleError(f"{error}; run `pip install -r requirements-serve.txt`") from error
        except Exception as error:  # Keras and OpenVINO raise errors of many kinds
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise BundleError(f"{path}: can't be run ({reason}); train it again") from error
        if probabilities.shape != (1, len(bundle.classes)) or not np.isfinite(probabilities).all():
            raise BundleError(
                f"{path}: expected {len(bundle.classes)} finite probabilities, "
                f"found {probabilities.tolist()!s:.100}; train it again"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """Return where another process finds the network, instead of its millions of weights."""
        if self._shared_path is None:
            raise TypeError("the engine has no shared_path")
        folder = self.bundle.bundle_dir.absolute()
        version = sha256_of(folder / METADATA_FILE)
        return _load, (folder, version, self.name == "int8", self._hint, self._shared_path)

    def predict(self, images: Iterable[np.ndarray]) -> InferenceResult:
        """Run one forward pass for each image and apply calibration and threshold.

        Args:
            images: one or more of uint8 (height, width, 3), RGB 0-255; taken one at a time, so
                that a generator needs memory for one image alone.
        """
        bundle = self.bundle
        rows = []
        for image in images:
            raw, of_heads, averages, evidence = self._infer(image)
            probabilities = apply_temperature(raw, bundle.temperature).astype(np.float32)
            predicted = apply_threshold(probabilities, bundle.positive_index, bundle.threshold)
            distance = self._detector.distances(averages[:, : self._detector.mean.size])
            out_of_distribution = distance > bundle.ood_threshold
            disagreement = bundle.disagreement(of_heads)
            maps = activation_map(evidence, predicted)
            rows.append(
                (probabilities, predicted, disagreement, distance, out_of_distribution, maps)
            )
        return InferenceResult(*map(np.concatenate, zip(*rows, strict=True)))

    def _infer(self, image: np.ndarray) -> list[np.ndarray]:
        """Return the outputs of the network, see `export_openvino`."""
        request = self._requests.get()
        try:
            return list(request.infer([image[np.newaxis]], share_inputs=True).values())
        finally:
            self._requests.put(request)


@one_per_process
def _load(
    bundle_dir: Path,
    version: str,
    int8: bool,
    hint: Literal["LATENCY", "THROUGHPUT"],
    shared_path: Path,
) -> Engine:
    """Load an engine in another process; `version` tells models in the same folder apart."""
    bundle = ModelBundle.read(bundle_dir)
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))  # a worker's share of the cores
    return Engine(bundle, int8, hint, shared_path, threads)


def _create_requests(
    network: "openvino.Model", image_size: tuple[int, int, int], options: dict[str, str]
) -> "SimpleQueue[Any]":
    """Return inference requests that take uint8 (1, height, width, 3).

    One more than OpenVINO works on at a time: it keeps the cores busy while the results of another
    are copied.
    """
    compiled = compile_network(network, image_size, options)
    requests: SimpleQueue[Any] = SimpleQueue()
    for _ in range(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") + 1):
        requests.put(compiled.create_infer_request())
    return requests
