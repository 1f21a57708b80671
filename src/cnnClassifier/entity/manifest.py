"""The list of images that every later stage works from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from cnnClassifier.utils.common import atomic_write
from cnnClassifier.utils.errors import ManifestError

SPLITS = ("train", "validation", "test")


class Entry(NamedTuple):
    """One file; the fields are the columns of the CSV file.

    Attributes:
        path: relative to the data folder, with forward slashes.
        label: the class, as its folder is named.
        sha256: of the bytes; empty where the file can't be read.
        group: patient or series, joined with near-duplicates; a group is never in two splits.
        split: `train`, `validation`, `test`, or empty where the file is left out.
        reason: why the file is left out, `<code>: <text>`; empty where it is used.
        duplicate_of: path of the file with the same bytes that is kept instead, or empty.
        width: pixels; 0 where the file can't be decoded.
        height: likewise.
        bytes: size of the file.
        format: of the content, such as `PNG`, whatever the file is called.
        mode: Pillow's name for the stored pixels; of DICOM the photometric interpretation.
        mean_intensity: mean gray level, 0 to 255; 0 likewise.
    """

    path: str
    label: str
    sha256: str = ""
    group: str = ""
    split: str = ""
    reason: str = ""
    duplicate_of: str = ""
    width: int = 0
    height: int = 0
    bytes: int = 0
    format: str = ""
    mode: str = ""
    mean_intensity: float = 0.0


@dataclass(frozen=True)
class Manifest:
    """All files, one entry each, sorted by path."""

    entries: tuple[Entry, ...]

    @classmethod
    def from_table(cls, table: pd.DataFrame) -> "Manifest":
        """Take the manifest's columns from a table with one row per file."""
        rows = table[list(Entry._fields)].itertuples(index=False, name=None)
        return cls(tuple(map(Entry._make, rows)))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in use, sorted: the order of the model's outputs."""
        return tuple(sorted({entry.label for entry in self.entries if entry.split}))

    def in_split(self, split: str) -> list[Entry]:
        """Return the entries of a split.

        Raises:
            ManifestError: the split is empty, or a class is missing from it.
        """
        entries = [entry for entry in self.entries if entry.split == split]
        missing = sorted(set(self.classes) - {entry.label for entry in entries})
        if not entries or missing:
            names = ", ".join(missing) or "any class"
            raise ManifestError(f"manifest: {split} has no images of {names}; run data_validation")
        return entries

    def labels(self, entries: Sequence[Entry]) -> np.ndarray:
        """Return the index in `classes` of each entry's label, int64 (n,)."""
        classes = self.classes
        return np.array([classes.index(entry.label) for entry in entries], np.int64)

    def write(self, path: Path) -> None:
        """Write the manifest as CSV."""
        table = pd.DataFrame(self.entries, columns=Entry._fields)
        with atomic_write(path) as temp_path:
            table.to_csv(temp_path, index=False, lineterminator="\n")

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Read what `write` wrote.

        Raises:
            ManifestError: the file is missing, damaged or has other columns.
        """
        types = Entry.__annotations__
        try:
            table = pd.read_csv(path, dtype=types, keep_default_na=False)
        except FileNotFoundError:
            raise ManifestError(f"{path} is missing; run data_validation first") from None
        except (OSError, ValueError) as error:
            message = " ".join(str(error).split())
            raise ManifestError(f"{path}: damaged ({message}); run data_validation again") from None
        if tuple(table.columns) != Entry._fields:
            raise ManifestError(
                f"{path}: other columns than expected, perhaps made by version 1; "
                "run data_validation again"
            )
        return cls.from_table(table)
