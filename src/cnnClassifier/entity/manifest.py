"""The list of images that every later stage works from."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from cnnClassifier.utils.common import atomic_write
from cnnClassifier.utils.errors import ManifestError

SPLITS = ("train", "validation", "test")
_COLUMNS = ("path", "class", "sha256", "phash", "size", "bytes", "mode", "group", "split", "reason")


@dataclass(frozen=True)
class Entry:
    """One file.

    Attributes:
        path: relative to the data's folder, with forward slashes.
        label: the class, as its folder is named.
        sha256: of the bytes.
        phash: perceptual hash, 16 hex digits; empty where the file can't be decoded.
        size: width and height, such as `512x382`.
        bytes: size of the file.
        mode: Pillow's word for the stored pixels; of DICOM the photometric interpretation.
        group: what never crosses a split: the patient or series, joined with near-copies.
        split: `train`, `validation`, `test`, or empty for a file that is left out.
        reason: why it is left out.
    """

    path: str
    label: str
    sha256: str
    phash: str
    size: str
    bytes: int
    mode: str
    group: str
    split: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """All files, one entry each, in the order of their paths."""

    entries: tuple[Entry, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that are used, sorted: the order of the model's outputs."""
        return tuple(sorted({entry.label for entry in self.entries if entry.split}))

    def of(self, split: str) -> list[Entry]:
        """Return the entries of a split.

        Raises:
            ManifestError: the split is empty, or a class is missing from it.
        """
        entries = [entry for entry in self.entries if entry.split == split]
        missing = sorted(set(self.classes) - {entry.label for entry in entries})
        if not entries or missing:
            raise ManifestError(
                f"manifest: {split} has no images of {', '.join(missing) or 'any class'}; run data_validation"
            )
        return entries

    def labels(self, entries: Sequence[Entry]) -> np.ndarray:
        """Return each entry's class as its place in `classes`, int64 (n,)."""
        place = {label: number for number, label in enumerate(self.classes)}
        return np.array([place[entry.label] for entry in entries], np.int64)

    def write(self, path: Path) -> None:
        """Write the manifest as CSV."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(asdict(entry).values() for entry in self.entries)
        with atomic_write(path) as staged:
            staged.write_text(out.getvalue(), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Read what `write` wrote.

        Raises:
            ManifestError: the file is missing or something else.
        """
        try:
            with Path(path).open(encoding="utf-8", newline="") as file:
                reader = csv.reader(file)
                if tuple(next(reader, ())) != _COLUMNS:
                    raise ManifestError(f"{path}: not a manifest; run data_validation again")
                rows = [[*row[:5], int(row[5]), *row[6:]] for row in reader]
                manifest = cls(tuple(Entry(*row) for row in rows))  # type: ignore[arg-type]
        except FileNotFoundError:
            raise ManifestError(f"{path} is missing; run data_validation first") from None
        except (ValueError, IndexError, TypeError, csv.Error) as error:
            raise ManifestError(f"{path}: damaged ({error}); run data_validation again") from None
        unknown = {entry.split for entry in manifest.entries} - {"", *SPLITS}
        if unknown:
            raise ManifestError(
                f"{path}: damaged (no split is called {min(unknown)!r}); run data_validation again"
            )
        return manifest
