"""Predict batches of files: a list of paths becomes a table."""

import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import pyarrow as pa

from cnnClassifier.entity.bundle import ModelBundle, is_uncertain
from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.entity.dicom_options import DicomOptions
from cnnClassifier.imaging.decode import decode, resize
from cnnClassifier.imaging.limits import PixelBudget
from cnnClassifier.network.engine import Engine
from cnnClassifier.utils.errors import ImageError


class BatchScorer:
    """The model of the server, for many files; a process needs one.

    It predicts as the server does: with the same limits, and in int8 where the server uses it.

    Args:
        bundle: from `ModelBundle.read`.
        config: of the server.
        folder: the paths are relative to it.
        schema: of the tables, see `part_schema`.

    Raises:
        BundleError: the model can't be run.
    """

    def __init__(
        self, bundle: ModelBundle, config: ServingConfig, folder: Path, schema: pa.Schema
    ) -> None:
        self._bundle = bundle
        self._config = config
        self._folder = folder
        self._schema = schema
        self._dicom_options = DicomOptions.parse(bundle.dicom_window)
        self._budget = PixelBudget(2 * config.max_pixels)  # as in the server
        int8 = bundle.accepts_int8(config.int8_evaluation_dir)
        self._engine = Engine(bundle, int8, hint="THROUGHPUT")

    def score(
        self, paths: Sequence[str], on_file: Callable[[int], object] = lambda count: None
    ) -> pa.Table:
        """Return one row for each file, in the order of the paths, on all cores.

        Args:
            paths: absolute, or relative to the folder.
            on_file: called with 1 after each file.
        """
        rows = []
        # One thread more than cores: it works while another one waits for the disk.
        with ThreadPoolExecutor(joblib.cpu_count() + 1) as pool:
            for row in pool.map(self._score_file, paths):
                rows.append(row)
                on_file(1)
        return pa.Table.from_pylist(rows, self._schema)

    def _score_file(self, path: str) -> dict[str, Any]:
        """Return the row of a file; where it can't be used, with the reason."""
        bundle, config = self._bundle, self._config
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
