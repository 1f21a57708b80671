"""Files of the data folder that stay in the source: the folder has a list of them instead."""

from bisect import bisect_left
from collections.abc import Iterable
from errno import EIO
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from cnnClassifier.utils.object_store import CONNECTIONS, RemoteFolder, is_store

if TYPE_CHECKING:
    import pyarrow as pa

LIST_FILE = "source_files.feather"  # beside the class folders
_SOURCE = b"source"


class SourceFile(NamedTuple):
    """A row of the list.

    Attributes:
        path: in the data folder, if the file were there.
        source: path relative to the source folder.
        bytes: size.
        modified: time in nanoseconds; it makes the list another one when the file changes.
    """

    path: str
    source: str
    bytes: int
    modified: int


def describe_file(folder: Path, path: PurePosixPath) -> SourceFile:
    """Return the row of a local file of the source, whose path in the data folder isn't known yet.

    Raises:
        OSError: there is no such file.
    """
    status = (folder / path).stat()
    return SourceFile("", str(path), status.st_size, status.st_mtime_ns)


def write_list(files: Iterable[SourceFile], source: str, data_dir: Path) -> None:
    """Write the list of the files, from which `read_bytes` knows where they are.

    Args:
        files: one or more.
        source: URL or path of the source folder.
        data_dir: an existing folder.
    """
    import pyarrow as pa
    from pyarrow import feather

    columns = zip(*sorted(files), strict=True)
    table = pa.table(dict(zip(SourceFile._fields, map(list, columns), strict=True)))
    table = table.replace_schema_metadata({_SOURCE: source})
    # Uncompressed it can be mapped: all processes of a machine share its memory.
    feather.write_feather(table, str(data_dir / LIST_FILE), compression="uncompressed")


def listed_paths(data_dir: Path) -> list[str]:
    """Return the paths of the files that stay in the source; none if they are copied."""
    table = _read_list(data_dir)
    return [] if table is None else table["path"].to_pylist()


def reading_threads(data_dir: Path) -> int | None:
    """Return in how many threads to read: many wait for an object store; None: the usual number."""
    table = _read_list(data_dir)
    return CONNECTIONS if table is not None and is_store(_source_of(table)) else None


def read_bytes(data_dir: Path, path: str) -> bytes:
    """Read a file of the data folder, in the source if it stays there.

    Args:
        data_dir: output of data_ingestion.
        path: relative to it.

    Raises:
        OSError: the file can't be read, or isn't the one that data_ingestion listed.
        SourceError: the object store doesn't answer.
    """
    table = _read_list(data_dir)
    if table is None:
        return (data_dir / path).read_bytes()
    paths = table["path"]
    row = bisect_left(paths, path, key=lambda value: value.as_py())
    if row == len(paths) or paths[row].as_py() != path:  # feedback of users is copied
        return (data_dir / path).read_bytes()
    source, file = _source_of(table), table["source"][row].as_py()
    if is_store(source):
        content = RemoteFolder(source).read(file)
    else:
        content = Path(source, file).read_bytes()
    if len(content) != table["bytes"][row].as_py():
        raise OSError(EIO, "changed since data_ingestion listed it: run that again", path)
    return content


def _read_list(data_dir: Path) -> "pa.Table | None":
    try:
        changed = (data_dir / LIST_FILE).stat().st_mtime_ns
    except FileNotFoundError:
        return None
    return _map_list(data_dir / LIST_FILE, changed)


@lru_cache(maxsize=4)
def _map_list(path: Path, changed: int) -> "pa.Table":
    from pyarrow import feather

    return feather.read_table(str(path), memory_map=True)


def _source_of(table: "pa.Table") -> str:
    return str(table.schema.metadata[_SOURCE], "utf-8")
