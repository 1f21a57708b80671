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

    A semaphore doesn't keep that order for requests that check their client while they wait.

    Args:
        max_concurrent: how many requests hold a slot at once.
        max_queued: how many more may wait for one.
    """

    def __init__(self, max_concurrent: int, max_queued: int) -> None:
        self._max_concurrent = max_concurrent
        self._max_queued = max_queued
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()
        self._is_stopping = False
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
            RequestError: 503 `busy`: too many requests wait already, or the server stops.
        """
        with self._changed:
            if self.running + self.waiting >= self._max_concurrent + self._max_queued:
                message = "too many requests are waiting; try again"
                raise RequestError(503, "busy", message, {"Retry-After": "2"})
            self._wait(check)
        try:
            yield
        finally:
            with self._changed:
                self.running -= 1
                self._changed.notify_all()

    def yield_slot(self, check: Callable[[], None]) -> None:
        """Give the slot that is held to the requests that wait, and wait for another one.

        Args:
            check: as for `slot`.

        Raises:
            RequestError: 503 `busy`: the server stops.
        """
        with self._changed:
            if not self._queue or self._is_stopping:
                return
            self.running -= 1
            try:
                self._wait(check)
            except BaseException:
                self.running += 1  # until `slot` is left
                raise

    def _wait(self, check: Callable[[], None]) -> None:
        """Wait for a slot; the caller holds the lock."""
        ticket = object()
        self._queue.append(ticket)
        self._changed.notify_all()
        try:
            while self._queue[0] is not ticket or self.running >= self._max_concurrent:
                if self._is_stopping:
                    message = "the server is stopping; try again"
                    raise RequestError(503, "busy", message, {"Retry-After": "5"})
                self._changed.wait(_CHECK_INTERVAL_S)
                check()
            self.running += 1
        finally:
            self._queue.remove(ticket)
            self._changed.notify_all()

    def refuse_waiting(self) -> None:
        """Refuse the requests that wait for a slot, and from now on all that would have to."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()


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
