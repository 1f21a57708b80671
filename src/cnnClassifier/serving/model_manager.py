"""Keep the one loaded model, take up a new one that is put in its place, and know why there is none."""

import os
import threading
import time
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
from cnnClassifier.serving.predictor import Predictor
from cnnClassifier.utils.errors import BundleError
from cnnClassifier.utils.log import logger

_POLL_S = 1.0
_PARTS = (MODEL_FILE, METADATA_FILE, OOD_DETECTOR_FILE, INT8_FILE)
# Of each file that makes a model: name, inode, size, time of change. Equal marks, equal files.
_Mark = tuple[tuple[str, int, int, int], ...]


class ModelUnavailableError(Exception):
    """There is no model to answer with.

    Attributes:
        code: `loading`, `no_model` or `broken_model`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ModelManager:
    """Load the model, and swap it between requests when a new bundle stands in its place.

    A new one must be whole, belong together and answer; it may have other classes. One that fails is refused, and the
    old one goes on. Who holds a predictor may use it to the end.

    Args:
        bundle_dir: where training leaves its bundle.
        max_pixels: refuse images with more.
        evaluation_dir: where evaluation says whether the model may calculate in int8; None: it may not.
        poll_s: how often to look for a new bundle; it must look the same twice.
    """

    def __init__(
        self,
        bundle_dir: Path,
        max_pixels: int,
        evaluation_dir: Path | None = None,
        poll_s: float = _POLL_S,
    ) -> None:
        self._bundle_dir = bundle_dir
        self._max_pixels = max_pixels
        self._evaluation_dir = evaluation_dir
        self._poll_s = poll_s
        self._predictor: Predictor | None = None
        self._tried: _Mark = ()
        self._refused: dict[str, str] | None = None
        self._loading = threading.Lock()
        self._stopped = threading.Event()

    @classmethod
    def of(cls, config: ServingConfig) -> "ModelManager":
        """Return the host that a configuration asks for."""
        return cls(
            config.bundle_dir, config.max_pixels, config.evaluation_dir if config.int8 else None
        )

    @property
    def refused(self) -> dict[str, str] | None:
        """`reason` and `when` (ISO 8601) of a newer bundle that can't be used, or None."""
        return self._refused

    def start(self) -> None:
        """Begin to load and to watch in the background."""
        threading.Thread(target=self._watch, name="watch-model", daemon=True).start()

    def stop(self) -> None:
        """Stop watching; the loaded model stays."""
        self._stopped.set()

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
            raise ModelUnavailableError(
                "loading", "the model is being loaded; try again in a second"
            )
        try:
            return self._predictor or self._load()
        except BundleError as error:
            present = all(
                (self._bundle_dir / name).is_file() for name in (MODEL_FILE, METADATA_FILE)
            )
            raise ModelUnavailableError(
                "broken_model" if present else "no_model", str(error)
            ) from error
        finally:
            self._loading.release()

    def _load(self) -> Predictor:
        started, self._tried = time.perf_counter(), self._mark()
        bundle = ModelBundle.read(self._bundle_dir)
        predictor = Predictor(bundle, self._max_pixels, self._evaluation_dir)
        if self._mark() != self._tried:
            raise BundleError(
                f"{self._bundle_dir} changed while it was read; it will be read again"
            )
        self._predictor, self._refused = predictor, None
        spent = time.perf_counter() - started
        logger.info(
            "model %s (%s) ready in %.1f s", predictor.bundle.model_id, predictor.engine, spent
        )
        return predictor

    def _watch(self) -> None:
        try:
            self.predictor(wait=True)
        except ModelUnavailableError as error:
            logger.warning("%s", error)
        before = self._mark()
        while not self._stopped.wait(self._poll_s):
            now = self._mark()
            if now == before and now not in ((), self._tried):
                self._take_up(now)
            before = now

    def _take_up(self, mark: _Mark) -> None:
        with self._loading:
            try:
                if not self._serves_it_already():
                    self._load()
                self._tried, self._refused = mark, None
            except BundleError as error:
                if (
                    self._mark() == mark
                ):  # else it is still being written, and will be looked at again
                    self._tried = mark
                    self._refused = {
                        "reason": str(error),
                        "when": datetime.now(UTC).isoformat(timespec="seconds"),
                    }
                    logger.warning(
                        "model refused%s: %s",
                        ", the old one goes on" if self._predictor else "",
                        error,
                    )

    def _serves_it_already(self) -> bool:
        if not self._predictor:
            return False
        bundle = ModelBundle.read(self._bundle_dir)
        engine = "int8" if bundle.accepts_int8(self._evaluation_dir) else "keras-openvino"
        return (bundle, engine) == (self._predictor.bundle, self._predictor.engine)

    def _mark(self) -> _Mark:
        paths = [self._bundle_dir / name for name in _PARTS]
        found = [(path, status) for path in paths if (status := _status(path))]
        if (
            found
            and self._evaluation_dir
            and (status := _status(self._evaluation_dir / INT8_AGREEMENT_FILE))
        ):
            found.append((self._evaluation_dir / INT8_AGREEMENT_FILE, status))
        return tuple(
            (path.name, status.st_ino, status.st_size, status.st_mtime_ns) for path, status in found
        )


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
