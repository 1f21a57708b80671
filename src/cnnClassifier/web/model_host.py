"""Keep the one loaded model, and know why there is none."""

import threading
import time
from pathlib import Path

from cnnClassifier.entity.bundle import CARD_FILE, MODEL_FILE
from cnnClassifier.pipeline.prediction import Predictor
from cnnClassifier.utils.errors import BundleError
from cnnClassifier.utils.log import logger


class ModelUnavailableError(Exception):
    """There is no model to answer with.

    Attributes:
        code: `loading`, `no_model` or `broken_model`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ModelHost:
    """Load the model once, and try again for as long as there is none.

    Args:
        bundle_dir: where training leaves its bundle.
        max_pixels: refuse images with more.
    """

    def __init__(self, bundle_dir: Path, max_pixels: int) -> None:
        self._bundle_dir = bundle_dir
        self._max_pixels = max_pixels
        self._predictor: Predictor | None = None
        self._loading = threading.Lock()

    def start(self) -> None:
        """Begin to load in the background."""
        threading.Thread(target=self._load_quietly, name="load-model", daemon=True).start()

    def predictor(self, wait: bool) -> Predictor:
        """Return the loaded model; load it where that hasn't worked yet.

        Args:
            wait: where another thread is loading it, wait for that instead of raising `loading`.

        Raises:
            ModelUnavailableError: it says what to do.
        """
        if self._predictor:
            return self._predictor
        if not self._loading.acquire(blocking=wait):
            raise ModelUnavailableError("loading", "the model is being loaded; try again in a second")
        try:
            return self._predictor or self._load()
        finally:
            self._loading.release()

    def _load(self) -> Predictor:
        started = time.perf_counter()
        try:
            self._predictor = Predictor(self._bundle_dir, self._max_pixels)
        except BundleError as error:
            present = all((self._bundle_dir / name).is_file() for name in (MODEL_FILE, CARD_FILE))
            raise ModelUnavailableError("broken_model" if present else "no_model", str(error)) from error
        logger.info("model %s ready in %.1f s", self._predictor.bundle.model_id, time.perf_counter() - started)
        return self._predictor

    def _load_quietly(self) -> None:
        try:
            self.predictor(wait=True)
        except ModelUnavailableError as error:
            logger.warning("%s", error)
