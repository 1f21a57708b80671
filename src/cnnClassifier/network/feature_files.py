"""The files of cached features: in a folder, or in an object store."""

import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np

from cnnClassifier.utils.object_store import CONNECTIONS, RemoteFolder, is_store


def open_files(cache_dir: Path | str, name: str) -> "LocalFiles | RemoteFiles":
    """Return the files of a folder below `cache_dir`, which is a path, or a URL of a store."""
    if is_store(cache_dir):
        url, separator, query = str(cache_dir).partition("?")
        return RemoteFiles(RemoteFolder(f"{url.rstrip('/')}/{name}{separator}{query}"))
    return LocalFiles(Path(cache_dir).absolute() / name)


class LocalFiles:
    """Files in a folder of this machine, or in one that several machines share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, size: int) -> Callable[[str], bool]:
        """Return a function that tells by its name whether there is a file of so many bytes."""

        def is_complete(name: str) -> bool:
            path = self._folder / name
            return path.exists() and path.stat().st_size == size

        return is_complete

    def read(self, names: np.ndarray, offset: int, values: np.ndarray) -> None:
        """Fill one item of `values` from each file, from a position in bytes on."""
        for name, item in zip(names, values, strict=True):
            with open(f"{self._folder}/{name}", "rb", buffering=0) as file:
                file.seek(offset)
                file.readinto(item)

    def write(self, names: Sequence[str], rows: np.ndarray) -> None:
        """Write one row to each file; an interrupted call leaves no partial file."""
        self._folder.mkdir(parents=True, exist_ok=True)
        temp_path = self._folder / f"{uuid.uuid4().hex}.unfinished"
        for name, row in zip(names, rows, strict=False):
            row.tofile(temp_path)
            temp_path.replace(self._folder / name)


class RemoteFiles:
    """Files in an object store. Each takes a request or two, so several are sent at a time."""

    def __init__(self, folder: RemoteFolder) -> None:
        self._folder = folder

    def find(self, size: int) -> Callable[[str], bool]:
        """List the folder once: asking for each file would take hours."""
        files = self._folder.list_files()
        complete = {name for name, info in files.items() if info.size == size}
        return complete.__contains__

    def read(self, names: np.ndarray, offset: int, values: np.ndarray) -> None:
        """Fill one item of `values` from each file, several at a time."""
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for _ in pool.map(self._folder.read_into, names, values, repeat(offset)):
                pass

    def write(self, names: Sequence[str], rows: np.ndarray) -> None:
        """Write one row to each file; the store shows none that is incomplete."""
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for _ in pool.map(self._folder.write, names, rows):  # the last rows are padding
                pass


FeatureFiles = LocalFiles | RemoteFiles
