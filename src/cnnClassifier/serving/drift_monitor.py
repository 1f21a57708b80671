"""Count served images by hour, to compare them with the training images."""

import atexit
import re
import secrets
import shutil
import threading
from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.entity.drift import (
    ServedImages,
    find_served_files,
    hour_of,
    served_file_name,
)
from cnnClassifier.evaluation.drift_report import first_hour_of, get_reference, read_served
from cnnClassifier.utils.log import logger

_WRITE_INTERVAL_S = 60.0
_MAX_FILES = 100_000
# As `served_file_name`; of `atomic_write` with a point before it.
_FILE_NAME = re.compile(r"\.?\d{4}-\d\d-\d\dT\d\d-[0-9a-f]{12}-[0-9a-f]{8}\.json")
_MAX_COUNTS = 4_000_000  # numbers in memory, 32 MB; models with many classes keep fewer hours


class DriftMonitor:
    """Histograms of served images in memory and, if configured, on disk.

    There is one file for each hour, model and process, so that servers can share the folder. It is
    written a minute after an image, and at the normal end of the process.

    Args:
        config: `drift_dir`, and how many hours are kept.
    """

    def __init__(self, config: ServingConfig) -> None:
        self._folder = config.drift_dir
        self._max_hours = config.drift_hours
        self._process_id = secrets.token_hex(4)
        self._served: dict[str, ServedImages] = {}  # by file name, the oldest first
        self._changed: set[str] = set()
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._timer: threading.Timer | None = None
        self._warned = False
        if self._folder:
            atexit.register(self.write)

    def count(self, results: Sequence[Mapping[str, Any]], bundle: ModelBundle) -> None:
        """Count the images of one request.

        Args:
            results: of the images that were classified, see `predict.predict_all`.
            bundle: of the model that made them; without a reference nothing is counted.
        """
        reference = bundle.drift_reference
        if reference is None or not results:
            return
        values = {name: [result[name] for result in results] for name in reference.features}
        predicted = [bundle.classes.index(result["class"]) for result in results]
        name = served_file_name(hour_of(datetime.now(UTC)), bundle.model_id, self._process_id)
        with self._lock:
            if name not in self._served:
                self._served[name] = ServedImages.empty(reference)
                self._forget_old_hours()
            self._served[name].add_request(reference, predicted, values)
            self._changed.add(name)
            if self._folder and self._timer is None:
                self._timer = threading.Timer(_WRITE_INTERVAL_S, self.write)
                self._timer.daemon = True
                self._timer.start()

    def has_images(self, bundle: ModelBundle) -> bool:
        """Return whether there are histograms of a model."""
        with self._lock:
            if any(f"-{bundle.model_id}-" in name for name in self._served):
                return True
        oldest = first_hour_of(self._max_hours)
        return bool(self._folder and find_served_files(self._folder, bundle.model_id, oldest))

    def served(self, bundle: ModelBundle, since: datetime) -> ServedImages:
        """Return the images that a model classified from an hour on, of all processes.

        Args:
            bundle: the model, with a reference.
            since: the first hour.
        """
        total = ServedImages.empty(get_reference(bundle))
        with self._lock:
            names = list(self._served)
            for name in names:
                if name >= hour_of(since) and f"-{bundle.model_id}-" in name:
                    total.add(self._served[name])
        if self._folder:
            total.add(read_served(self._folder, bundle, since, names))
        return total

    def write(self) -> None:
        """Write what has changed; a disk error is logged once, and tried again later."""
        folder = self._folder
        if folder is None:
            return
        with self._writing:
            with self._lock:
                self._timer = None
                changed = {name: deepcopy(self._served[name]) for name in sorted(self._changed)}
                self._changed.clear()
            try:
                for name, served in changed.items():
                    served.write(folder / name)
                self._remove_old_files(folder)
                self._warned = False
            except OSError as error:
                with self._lock:
                    self._changed |= changed.keys() & self._served.keys()
                if not self._warned:
                    logger.warning("serving.drift_dir: %s; the counts stay in memory", error)
                self._warned = True

    def _forget_old_hours(self) -> None:
        """Bound the memory; the newest hour always stays."""
        first_hour = hour_of(first_hour_of(self._max_hours))
        sizes = {}
        for name, served in self._served.items():
            sizes[name] = sum(counts.size for counts in served.counts.values())
        for name in list(self._served)[:-1]:
            if name < first_hour or sum(sizes.values()) > _MAX_COUNTS:
                del self._served[name], sizes[name]
                self._changed.discard(name)

    def _remove_old_files(self, folder: Path) -> None:
        """Bound the folder; what a killed process left unfinished goes as well."""
        first_hour = hour_of(first_hour_of(self._max_hours))
        paths = {}
        for path in folder.iterdir():
            if _FILE_NAME.match(path.name):  # no other files
                paths[path.name.lstrip(".")] = path
        for rank, name in enumerate(sorted(paths, reverse=True)):
            if name < first_hour or rank >= _MAX_FILES:
                if name.endswith(".json"):
                    paths[name].unlink(missing_ok=True)
                else:
                    shutil.rmtree(paths[name], ignore_errors=True)
