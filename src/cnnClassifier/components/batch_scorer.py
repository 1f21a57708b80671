"""Predict batches of files: a list of paths becomes rows of a table."""

import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnnClassifier.entity.bundle import is_uncertain
from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.entity.dicom_options import DicomOptions
from cnnClassifier.imaging.decode import decode, resize
from cnnClassifier.imaging.limits import PixelBudget
from cnnClassifier.network.engine import Engine
from cnnClassifier.utils.errors import ImageError

Row = dict[str, Any]  # of a table of `part_schema`


class BatchScorer:
    """Predict as the server does, with the same limits; it may be used from many threads.

    Args:
        engine: the model; in int8 where the server uses it.
        config: of the server.
        folder: the paths are relative to it.
    """

    def __init__(self, engine: Engine, config: ServingConfig, folder: Path) -> None:
        self._engine = engine
        self._config = config
        self._folder = folder
        self._dicom_options = DicomOptions.parse(engine.bundle.dicom_window)
        self._budget = PixelBudget(2 * config.max_pixels)  # as in the server

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to make it again in another process, without the budget's locks."""
        return BatchScorer, (self._engine, self._config, self._folder)

    def score(self, paths: Sequence[str]) -> list[Row]:
        """Return one row for each file, in the order of the paths: absolute, or in the folder."""
        return [self._score_file(path) for path in paths]

    def _score_file(self, path: str) -> Row:
        """Return the row of a file; where it can't be used, with the reason."""
        bundle, config = self._engine.bundle, self._config
        row = {"path": path_text(path), "model_sha256": bundle.model_sha256}
        row["engine"] = self._engine.name
        try:
            data = _read_bytes(self._folder / path, config.max_upload_bytes)
            row["sha256"] = hashlib.sha256(data).hexdigest()
            pixels = decode(data, config.max_pixels, self._dicom_options, self._budget).pixels
        except ImageError as error:
            return row | {"error": f"{error.code}: {error}"}
        except (OSError, ValueError) as error:  # ValueError: no path of a file
            return row | {"error": f"unreadable: {getattr(error, 'strerror', None) or error}"}
        result = self._engine.predict([resize(pixels, bundle.image_size)])
        probabilities = dict(zip(bundle.classes, result.probabilities[0].tolist(), strict=True))
        disagreement = float(result.disagreement[0])
        return row | {
            "predicted": bundle.classes[result.predicted[0]],
            **{f"probability_{name}": value for name, value in probabilities.items()},
            "uncertain": is_uncertain(probabilities, disagreement, bundle, config.uncertain_margin),
            "out_of_distribution": bool(result.out_of_distribution[0]),
            "disagreement": None if bundle.max_disagreement is None else disagreement,
        }


def path_text(path: str) -> str:
    r"""Return a path as text for a table: bytes that aren't UTF-8 become `\x…`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _read_bytes(path: Path, max_bytes: int) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would block
        raise OSError(0, "not a regular file")
    if status.st_size > max_bytes:
        raise ImageError("too_large", f"an image may have at most {max_bytes:,} bytes")
    return path.read_bytes()
