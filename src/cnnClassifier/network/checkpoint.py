"""The state of a fit after its last epoch, so that an interrupted one continues there."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cnnClassifier.network import backend
from cnnClassifier.utils.common import atomic_write
from cnnClassifier.utils.log import logger


class Checkpoint:
    """Variables and results of one fit; process 0 writes them, and reads them for all.

    Keras's `BackupAndRestore` writes two files, so that a kill in between leaves the weights of
    another epoch than its number, and has no place for the results.

    Args:
        folder: of the checkpoints of all fits; None: nothing is written or read.
        key: of all that decides the result of the fit.
        variables: of the model and its optimizer.
    """

    def __init__(self, folder: Path | None, key: str, variables: list[Any]) -> None:
        self._path = folder / f"{key}.npz" if folder else None
        self._variables = variables

    def read(self) -> dict[str, np.ndarray]:
        """Assign the variables, and return the results; empty if there is no checkpoint."""
        path = self._path
        if path is None:
            return {}
        is_reader = backend.share().process == 0 and path.is_file()
        content = backend.broadcast(path.read_bytes() if is_reader else b"")
        if not content:
            return {}
        with np.load(io.BytesIO(content)) as stored:
            results = dict(stored)
        for index, variable in enumerate(self._variables):
            variable.assign(results.pop(f"variable {index}"))
        logger.info("an interrupted training continues after its last epoch")
        return results

    def write(self, results: Mapping[str, np.ndarray]) -> None:
        """Write the variables and the results, in place of those of the epoch before."""
        if self._path is None or backend.share().process > 0:
            return
        values = {f"variable {i}": value.numpy() for i, value in enumerate(self._variables)}
        with atomic_write(self._path) as temp_path:
            np.savez(temp_path, allow_pickle=False, **values, **results)
