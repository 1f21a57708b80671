"""Keep one loaded model, replace it when a new bundle appears, and report why there is none."""

import re
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from cnnClassifier.entity.bundle import (
    INT8_AGREEMENT_FILE,
    INT8_FILE,
    METADATA_FILE,
    MODEL_FILE,
    OOD_DETECTOR_FILE,
    ModelBundle,
)
from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.serving.errors import RequestError
from cnnClassifier.serving.predictor import Predictor
from cnnClassifier.utils.errors import BundleError
from cnnClassifier.utils.log import logger

# Path, inode, size and time of change of each file of a model: equal if the files are equal.
_Fingerprint = list[tuple[Path, int, int, int]]


class ModelManager:
    """Load the model, and swap it between requests when its bundle has changed.

    A new bundle must be complete, consistent and able to predict; it may have other classes. If it
    fails, the loaded model stays. A request that holds a predictor may use it to its end.

    Args:
        config: where the bundle and its evaluation are, and the limits.
        poll_s: how often to look for a new bundle; it must look the same twice.
    """

    def __init__(self, config: ServingConfig, poll_s: float = 1.0) -> None:
        self._config = config
        self._bundle_dir = config.bundle_dir
        self._evaluation_dir = config.int8_evaluation_dir
        files = [MODEL_FILE, METADATA_FILE, OOD_DETECTOR_FILE, INT8_FILE]
        self._paths = [self._bundle_dir / name for name in files]
        if self._evaluation_dir:
            self._paths.append(self._evaluation_dir / INT8_AGREEMENT_FILE)
        self._poll_s = poll_s
        self._predictor: Predictor | None = None
        self._tried: _Fingerprint = []
        self._loading = threading.Lock()
        self._stopped = threading.Event()
        self.refusal: dict[str, dict[str, str]] = {}

    def start(self) -> None:
        """Load the model and watch for a new one in the background."""
        threading.Thread(target=self._watch, name="watch-model", daemon=True).start()

    def stop(self) -> None:
        """Stop watching; the loaded model stays."""
        self._stopped.set()

    @property
    def is_loading(self) -> bool:
        """Return whether a model is being loaded."""
        return self._loading.locked()

    def predictor(self, wait: bool) -> Predictor:
        """Return the loaded model; load it if that hasn't succeeded yet.

        Args:
            wait: if another thread is loading it, wait instead of raising `loading`.

        Raises:
            RequestError: 503 `loading`, `no_model` or `broken_model`, with what to do.
        """
        if self._predictor:
            return self._predictor
        if not self._loading.acquire(blocking=wait):
            message = "the model is being loaded; try again in a second"
            raise RequestError(503, "loading", message, {"Retry-After": "1"})
        try:
            return self._predictor or self._load(self._fingerprint())
        except BundleError as error:
            is_complete = all(map(Path.is_file, self._paths[:2]))
            code = "broken_model" if is_complete else "no_model"
            message = _without_folders(error)
            raise RequestError(503, code, message, {"Retry-After": "5"}) from error
        finally:
            self._loading.release()

    def loaded_predictor(self) -> Predictor:
        """Return the loaded model, without a try to load it.

        Raises:
            RequestError: 503 `loading` or `no_model`.
        """
        if self._predictor:
            return self._predictor
        if self.is_loading:
            raise RequestError(503, "loading", "the model is being loaded")
        raise RequestError(503, "no_model", "no model is loaded; see the server's log")

    def _load(self, fingerprint: _Fingerprint) -> Predictor:
        start = time.perf_counter()
        self._tried = fingerprint
        bundle = ModelBundle.read(self._bundle_dir)
        predictor = Predictor(bundle, self._config.max_pixels, self._evaluation_dir)
        if self._fingerprint() != fingerprint:
            raise BundleError(f"{self._bundle_dir} changed while it was read; it is read again")
        self._predictor = predictor
        self.refusal = {}
        images = "synthetic images" if bundle.synthetic else "images"
        labels = ", ".join(map(bundle.label, bundle.classes))
        logger.info(
            "model %s: %s, trained on %s of %s; ready in %.1f s (%s)",
            bundle.model_id,
            bundle.backbone,
            images,
            labels,
            time.perf_counter() - start,
            predictor.engine,
        )
        return predictor

    def _watch(self) -> None:
        try:
            self.predictor(wait=True)
        except RequestError as error:
            logger.warning("%s", error.__cause__ or error)
        previous = self._fingerprint()
        while not self._stopped.wait(self._poll_s):
            current = self._fingerprint()
            if current == previous != self._tried:
                self._replace(current)
            previous = current

    def _replace(self, fingerprint: _Fingerprint) -> None:
        try:
            with self._loading:
                self._load(fingerprint)
        except BundleError as error:
            if self._fingerprint() == fingerprint:  # else it is still being written
                when = datetime.now(UTC).isoformat(timespec="seconds")
                self.refusal = {"refused": {"reason": _without_folders(error), "when": when}}
                suffix = ", the loaded one stays" if self._predictor else ""
                logger.warning("new model refused%s: %s", suffix, error)

    def _fingerprint(self) -> _Fingerprint:
        fingerprint = []
        for path in self._paths:
            with suppress(FileNotFoundError):
                status = path.stat()
                fingerprint.append((path, status.st_ino, status.st_size, status.st_mtime_ns))
        return fingerprint


def _without_folders(error: BundleError) -> str:
    """Return the message with the names of files instead of their paths: clients may see it."""
    return re.sub(r"[^\s'\"=(]*[/\\](?=\w)", "", str(error))
