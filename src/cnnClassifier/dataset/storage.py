"""What the disk can refuse, said in one line; free space; one writer at a time."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from filelock import FileLock, Timeout

from cnnClassifier.utils.common import create_directories, format_size
from cnnClassifier.utils.errors import SourceError
from cnnClassifier.utils.log import logger

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turn an `OSError` inside the block into a `SourceError`.

    Args:
        place: named where the error itself names no file.

    Raises:
        SourceError: the disk is full, forbids it, lacks the file, …
    """
    try:
        yield
    except OSError as error:
        where = error.filename if isinstance(error.filename, str) else place
        if error.errno in _FULL:
            raise SourceError(
                f"{where}: the disk is full; free some space, or keep the data on another disk"
            ) from error
        if error.errno in _FORBIDDEN:
            raise SourceError(
                f"{where}: no permission; change its access rights or name another place"
            ) from error
        raise SourceError(
            f"{where}: {error.strerror or error}; mend that or name another place"
        ) from error


def check_free(folder: Path, needed: int) -> None:
    """Refuse to start writing what can't fit.

    Args:
        folder: an existing folder.
        needed: bytes that will be written there.

    Raises:
        SourceError: its disk has fewer bytes free.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise SourceError(
            f"{folder}: the disk is full: {format_size(needed)} needed, {format_size(free)} free; "
            "free some space, or keep the data on another disk"
        )


def write_all(file: FileIO, data: bytes) -> None:
    """Write `data` to an unbuffered file, of which one `write` may take only a part when the disk is nearly full.

    Raises:
        SourceError: the disk is full.
    """
    rest = memoryview(data)
    with disk_errors(Path(str(file.name))):
        while rest:
            rest = rest[file.write(rest) :]


@contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Let one process at a time write `target`; a second waits for the first."""
    create_directories(target.parent)
    lock = FileLock(target.parent / f".{target.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("another run is writing %s; waiting for it", target)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
