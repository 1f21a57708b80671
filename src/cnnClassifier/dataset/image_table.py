"""Read a CSV or Parquet file that lists images with their labels and groups."""

import os
from pathlib import Path, PurePath, PurePosixPath

import pandas as pd

from cnnClassifier.dataset.layout import SourceImage
from cnnClassifier.imaging.file_names import is_image
from cnnClassifier.utils.errors import SourceError

_REQUIRED = ("path", "label")
_SUFFIXES = (".csv", ".parquet")


def is_table(path: PurePath) -> bool:
    """Tell by its name whether a file is a table of images."""
    return path.suffix.lower() in _SUFFIXES


def read_paths(path: Path) -> list[str]:
    """Read the column `path` alone; no file needs to exist.

    Raises:
        SourceError: the table can't be read, has no rows or no such column.
        OSError: a file can't be read.
    """
    return _read(path, ("path",))["path"].tolist()


def read_image_table(path: Path) -> list[SourceImage]:
    """Read the columns `path`, `label` and, if there is one, `group`; others are ignored.

    Args:
        path: of the table. Paths in it are absolute, or relative to its folder.

    Raises:
        SourceError: the table can't be read, a column is missing, or a value is invalid.
        OSError: a file can't be read.
    """
    table = _read(path, _REQUIRED)
    # A spreadsheet and an editor show the header of a CSV file as row 1.
    first_row = 2 if path.suffix.lower() == ".csv" else 1
    files = [Path(os.path.normpath(path.parent / value)) for value in table["path"]]
    # Names in the data folder show the folders below the common one, not those of the machine.
    root = os.path.commonpath([file.parent for file in files])
    images = []
    rows: dict[Path, int] = {}
    values = zip(files, table["label"], table["group"], strict=True)
    for row, (file, label, group) in enumerate(values, first_row):
        name = PurePosixPath(file.relative_to(root).as_posix())
        problem = _find_problem(file, name, label)
        if not problem and file in rows:
            problem = f"column path: {file} is in row {rows[file]} too; remove one of them"
        if problem:
            raise SourceError(f"{path}, row {row}, {problem}")
        rows[file] = row
        images.append(SourceImage(PurePosixPath(file.as_posix()), "", label, name, group))
    return images


def _read(path: Path, required: tuple[str, ...]) -> pd.DataFrame:
    """Return the required columns and `group`, as text without surrounding spaces."""
    try:
        if path.suffix.lower() == ".csv":
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        else:
            table = pd.read_parquet(path)
    except ValueError as error:  # of pandas, of pyarrow, or of the encoding
        reason = " ".join(str(error).split())
        raise SourceError(f"{path}: can't be read as a table: {reason}; save it again") from error
    missing = [name for name in required if name not in table]
    if missing or table.empty:
        problem = f"no column {missing[0]}" if missing else "no rows"
        raise SourceError(
            f"{path}: {problem}; expected the columns {', '.join(required)} and, if images are "
            f"related, group; found {', '.join(map(str, table.columns))}"
        )
    if "group" not in table:
        table["group"] = ""
    columns = table[[*required, "group"]]
    return columns.astype("string").fillna("").apply(lambda column: column.str.strip())


def _find_problem(file: Path, name: PurePosixPath, label: str) -> str:
    """Return the column, what is wrong with its value and what to do; empty if nothing is."""
    if PurePosixPath(label).name != label or not label or label.startswith("."):
        return f"column label: {label!r} can't name a class folder; expected a plain word"
    if not file.is_file():
        return f"column path: {file} doesn't exist; paths are relative to the table's folder"
    if not is_image(name):
        return f"column path: {file} is hidden or not an image by its suffix; correct or remove it"
    return ""
