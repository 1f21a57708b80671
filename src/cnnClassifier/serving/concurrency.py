"""Limit how many requests are processed at once; some more wait, the rest are refused."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cnnClassifier.serving.errors import RequestError

_CHECK_INTERVAL_S = 0.25


class ConcurrencyLimiter:
    """Slots that waiting requests get in the order of their arrival.

    A semaphore wouldn't keep that order for requests that look for their client while they wait.

    Args:
        max_concurrent: how many requests hold a slot at once.
        max_queued: how many more may wait for one.
    """

    def __init__(self, max_concurrent: int, max_queued: int) -> None:
        self._max_concurrent = max_concurrent
        self._max_queued = max_queued
        self._queue: deque[threading.Event] = deque()
        self._lock = threading.Lock()
        self.running = 0

    @property
    def waiting(self) -> int:
        """Return how many requests wait for a slot."""
        return len(self._queue)

    @contextmanager
    def slot(self, check: Callable[[], None]) -> Iterator[None]:
        """Hold a slot.

        Args:
            check: called repeatedly while waiting; an exception from it ends the wait.

        Raises:
            RequestError: 503 `busy`: too many requests wait already.
        """
        self._acquire(check)
        try:
            yield
        finally:
            self._release()

    def _acquire(self, check: Callable[[], None]) -> None:
        with self._lock:
            if self.running < self._max_concurrent:
                self.running += 1
                return
            if len(self._queue) >= self._max_queued:
                raise RequestError(
                    503, "busy", "too many requests are waiting; try again", {"Retry-After": "2"}
                )
            acquired = threading.Event()
            self._queue.append(acquired)
        while not acquired.wait(_CHECK_INTERVAL_S):
            try:
                check()
            except BaseException:
                self._cancel(acquired)
                raise

    def _cancel(self, acquired: threading.Event) -> None:
        with self._lock:
            if not acquired.is_set():
                self._queue.remove(acquired)
                return
        self._release()  # the slot was handed over in this very moment

    def _release(self) -> None:
        with self._lock:
            if self._queue:
                self._queue.popleft().set()
            else:
                self.running -= 1


def make_check(timeout_s: float, is_disconnected: Callable[[], bool]) -> Callable[[], None]:
    """Return a function that raises once a request needn't be processed any longer.

    Args:
        timeout_s: from now on.
        is_disconnected: whether the client has closed the connection.
    """
    deadline = time.monotonic() + timeout_s

    def check() -> None:
        if is_disconnected():
            raise RequestError(499, "client_gone", "the client closed the connection")
        if time.monotonic() > deadline:
            message = "the request took too long; send fewer images or try again later"
            raise RequestError(503, "timeout", message, {"Retry-After": "5"})

    return check
