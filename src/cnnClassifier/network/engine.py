"""Run a trained bundle without TensorFlow: Keras on the OpenVINO backend."""

import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from cnnClassifier.entity.bundle import MODEL_FILE, ModelBundle
from cnnClassifier.utils.errors import BundleError

# Bounds the memory for activations; larger batches are hardly faster.
_BATCH = 8


class Engine:
    """A loaded model that may be used from many threads.

    Keras's own backend is used where another one is loaded in this process already.

    Args:
        bundle_dir: a folder with `model.keras` and `model.json`.

    Raises:
        BundleError: a part is missing, or they don't belong together.
    """

    def __init__(self, bundle_dir: Path) -> None:
        self.bundle = ModelBundle.read(bundle_dir)
        # One model has one inference request. More of them would share the same cores and gain nothing.
        self._lock = threading.Lock()
        path = bundle_dir / MODEL_FILE
        try:
            self._model = _load(path)
            # The first prediction compiles the graph, so that no request has to wait for it.
            shown = self._run(np.zeros((1, *self.bundle.image_size), np.float32))
        except ImportError as error:
            raise BundleError(f"{error}; run `pip install -r requirements-serve.txt`") from error
        except Exception as error:  # Keras raises whatever the layer or the archive does
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise BundleError(f"{path}: can't be run ({reason}); train it again") from error
        if self._model.input_shape[1:] != self.bundle.image_size:
            raise BundleError(f"{path}: takes {self._model.input_shape[1:]}, not image_size; train it again")
        if shown.shape != (1, len(self.bundle.classes)) or not np.isfinite(shown).all():
            raise BundleError(
                f"{path}: expected {len(self.bundle.classes)} finite probabilities, found {shown.tolist()!s:.100}; "
                "train it again"
            )

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return each image's class probabilities.

        Args:
            images: uint8 or float, (n, height, width, 3), RGB 0-255.

        Returns:
            float32, (n, classes); each row sums to 1.
        """
        rows = [np.zeros((0, len(self.bundle.classes)), np.float32)]
        for start in range(0, len(images), _BATCH):
            rows.append(self._run(np.ascontiguousarray(images[start : start + _BATCH], dtype=np.float32)))
        return np.concatenate(rows)

    def _run(self, batch: np.ndarray) -> np.ndarray:
        with self._lock:
            return np.asarray(self._model.predict_on_batch(batch), dtype=np.float32)


def _load(path: Path) -> Any:
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "openvino"
    import keras

    return keras.models.load_model(path, compile=False)
