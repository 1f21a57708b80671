"""Keras models on disk: loaded with clear errors, saved with the same bytes for the same model."""

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
    """Save as `.keras`, without the dates and memory addresses that Keras puts in: equal models give equal bytes."""
    with atomic_write(path) as staged:
        dated = staged.with_name("dated.keras")
        model.save(dated)
        with zipfile.ZipFile(dated) as source:
            contents = {name: source.read(name) for name in source.namelist()}
        contents["config.json"] = _number_shared_objects(contents["config.json"])
        contents["metadata.json"] = json.dumps(
            {**json.loads(contents["metadata.json"]), "date_saved": ""}
        ).encode()
        write_archive(staged, contents)


def write_archive(path: Path, contents: Mapping[str, bytes]) -> None:
    """Write a zip archive without dates: equal contents give equal bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(contents):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), contents[name])


def _number_shared_objects(config: bytes) -> bytes:
    """Keras marks parts that are one object by its address; a number in order of appearance does as well."""
    numbers: dict[bytes, int] = {}
    return re.sub(
        rb'("shared_object_id": )(\d+)',
        lambda match: match[1] + b"%d" % numbers.setdefault(match[2], len(numbers)),
        config,
    )


def load_model(path: Path, mend: str) -> "keras.Model":
    """Load a `.keras` file; code inside it is refused.

    Raises:
        BundleError: it's missing or can't be read; `mend` says what to do.
    """
    import keras

    if not path.is_file():
        raise BundleError(f"{path} is missing; {mend}")
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # zipfile, h5py and Keras each raise their own kinds
        raise BundleError(
            f"{path} can't be loaded ({' '.join(str(error).split())[:200]}); {mend}"
        ) from None
