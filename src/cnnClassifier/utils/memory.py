"""What malloc does with freed memory, where the C library is glibc; elsewhere nothing happens."""

import ctypes
import threading
import time
from functools import cache

# Of malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGE_BYTES = 1 << 20
_LARGEST_MMAP_THRESHOLD = 32 << 20
_TRIM_INTERVAL_S = 2  # takes about a millisecond


def limit_malloc() -> None:
    """Let all new threads share two heaps, and keep large blocks out of them.

    Otherwise each of dozens of threads keeps freed image memory in a heap of its own: 120 MB more.
    """
    _call("mallopt", _M_ARENA_MAX, 2)
    # Without a fixed threshold, it rises with the largest block that was freed.
    _call("mallopt", _M_MMAP_THRESHOLD, _LARGE_BYTES)


def keep_freed_memory() -> None:
    """Use freed memory again, instead of returning the pages of each image to the system.

    Reading files takes an eighth less time; on Dask, whose nanny sets low limits, a quarter.
    """
    _call("mallopt", _M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    _call("mallopt", _M_TRIM_THRESHOLD, 8 * _LARGEST_MMAP_THRESHOLD)


def keep_trimming() -> None:
    """Return the free pages between the blocks of the heaps, every few seconds, in the background.

    Decoders of large images take thousands of small blocks, of which the last one may keep all.
    """

    def trim() -> None:
        while _call("malloc_trim", 0):
            time.sleep(_TRIM_INTERVAL_S)

    threading.Thread(target=trim, name="trim-memory", daemon=True).start()


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)  # each makes classes of its own


def _call(function: str, *arguments: int) -> bool:
    """Call a function of the C library; return whether it has one of this name."""
    try:
        getattr(_libc(), function)(*arguments)
    except (OSError, AttributeError, TypeError):
        return False
    return True
