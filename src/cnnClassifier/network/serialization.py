"""Keras models on disk: the same bytes for the same model, and clear errors."""

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cnnClassifier.utils.common import atomic_write
from cnnClassifier.utils.errors import BundleError

if TYPE_CHECKING:
    import keras

_EPOCH = (1980, 1, 1, 0, 0, 0)


def save_model(model: "keras.Model", path: Path) -> None:
    """Save as `.keras`, without Keras's dates and memory addresses: equal models, equal bytes."""
    with atomic_write(path) as temp_path:
        original = temp_path.with_name("original.keras")
        model.save(original)
        with zipfile.ZipFile(original) as archive:
            contents = {name: archive.read(name) for name in archive.namelist()}
        contents["config.json"] = _number_shared_objects(contents["config.json"])
        metadata = json.loads(contents["metadata.json"])
        contents["metadata.json"] = json.dumps({**metadata, "date_saved": ""}).encode()
        write_archive(temp_path, contents)


def write_archive(path: Path, contents: Mapping[str, bytes]) -> None:
    """Write a zip archive without dates: equal contents give equal bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(contents):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), contents[name])


def load_model(path: Path, hint: str) -> "keras.Model":
    """Load a `.keras` file; code inside it is refused.

    Raises:
        BundleError: it is missing or can't be read; `hint` is the end of the message.
    """
    import keras

    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # zipfile, h5py and Keras raise errors of many kinds
        reason = " ".join(str(error).split())[:200]
        raise BundleError(f"{path} can't be loaded ({reason}); {hint}") from None


def _number_shared_objects(config: bytes) -> bytes:
    """Replace the address, Keras's mark of a shared object, by a number in order of appearance."""
    numbers: dict[bytes, int] = {}

    def replace(match: re.Match[bytes]) -> bytes:
        return match[1] + b"%d" % numbers.setdefault(match[2], len(numbers))

    return re.sub(rb'("shared_object_id": )(\d+)', replace, config)
