"""Disk errors as one-line messages, and locks between processes."""

import errno
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
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
        hint = _HINTS.get(error.errno, "check the path and the disk")
        raise StorageError(f"{name}: {error.strerror or error}; {hint}") from error


def exclusive_lock(target: Path, wait: bool = True) -> AbstractContextManager:
    """Acquire the lock of `target` until the end of the block.

    Args:
        target: a file or a folder; the lock is a hidden file beside it.
        wait: if another process holds the lock, wait instead of raising an error.

    Raises:
        StorageError: another process is writing `target`.
    """
    from filelock import FileLock, Timeout  # the server has no filelock

    create_directories(target.parent)
    lock = FileLock(target.parent / f".{target.name}.lock")
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise StorageError(
                f"{target}: another process is writing it; wait for its end or choose another path"
            ) from None
        logger.info("another process is writing %s; waiting for it", target)
        return lock.acquire()
