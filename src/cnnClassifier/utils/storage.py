"""Disk errors as one-line messages, and locks between processes."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cnnClassifier.utils.common import create_directories
from cnnClassifier.utils.errors import StorageError
from cnnClassifier.utils.log import logger

_HINTS = {
    errno.ENOSPC: "free some space or choose a folder on another disk",
    errno.EDQUOT: "free some space or choose a folder on another disk",
    errno.EACCES: "change its permissions or choose another path",
    errno.EPERM: "change its permissions or choose another path",
    errno.EROFS: "choose a path on a writable disk",
}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` inside the block into a one-line `StorageError`.

    Args:
        path: named in the message if the error itself names no file.

    Raises:
        StorageError: the disk is full, a permission or a file is missing, …
        OSError: the content of a file is damaged.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (None, errno.EINVAL):  # a damaged file, not the disk
            raise
        name = error.filename if isinstance(error.filename, str) else path
        reason = error.strerror or error
        hint = _HINTS.get(error.errno or 0, "check the path and the disk")
        raise StorageError(f"{name}: {reason}; {hint}") from error


@contextmanager
def exclusive_lock(target: Path) -> Iterator[None]:
    """Hold the lock of `target`; another process that holds it is waited for."""
    from filelock import FileLock, Timeout  # the server has no filelock

    create_directories(target.parent)
    lock = FileLock(target.parent / f".{target.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("another process is writing %s; waiting for it", target)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
