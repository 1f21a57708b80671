"""Keras models on disk: loaded with clear errors, saved with the same bytes for the same model."""

import json
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from cnnClassifier.utils.common import replacing
from cnnClassifier.utils.errors import BundleError

if TYPE_CHECKING:
    import keras

_EPOCH = (1980, 1, 1, 0, 0, 0)


def save_model(model: "keras.Model", path: Path) -> None:
    """Save as `.keras`, without the dates and memory addresses that Keras puts in: equal models give equal bytes."""
    numbers: dict[bytes, int] = {}

    def number(found: re.Match[bytes]) -> bytes:
        return b"%s%d" % (found[1], numbers.setdefault(found[2], len(numbers)))

    with replacing(path) as staged:
        dated = staged.with_name("dated.keras")
        model.save(dated)
        with zipfile.ZipFile(dated) as source, zipfile.ZipFile(staged, "w") as target:
            for name in sorted(source.namelist()):
                content = source.read(name)
                if name == "metadata.json":
                    content = json.dumps({**json.loads(content), "date_saved": ""}).encode()
                elif name == "config.json":
                    content = re.sub(rb'("shared_object_id": )(\d+)', number, content)
                target.writestr(zipfile.ZipInfo(name, _EPOCH), content)


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
        raise BundleError(f"{path} can't be loaded ({' '.join(str(error).split())[:200]}); {mend}") from None
