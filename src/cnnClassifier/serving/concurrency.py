"""Let a few requests work at once, a few more wait for their turn, and refuse the rest."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cnnClassifier.serving.errors import RequestError

# How often one that waits looks whether its client is still there.
_LOOK_S = 0.25


class ConcurrencyLimiter:
    """Slots that are handed on in the order of arrival.

    Args:
        max_concurrent_requests: how many requests hold a slot at once.
        max_queued_requests: how many may wait for one.
    """

    def __init__(self, max_concurrent_requests: int, max_queued_requests: int) -> None:
        self._free = max_concurrent_requests
        self._queue_length = max_queued_requests
        self._queue: deque[threading.Event] = deque()
        self._lock = threading.Lock()
        self.running = 0

    @property
    def waiting(self) -> int:
        """How many requests wait for a slot."""
        return len(self._queue)

    @contextmanager
    def take(self, check: Callable[[], None]) -> Iterator[None]:
        """Hold a slot.

        Args:
            check: called now and then while waiting; what it raises ends the wait.

        Raises:
            RequestError: 503 `busy`; as many wait already as may.
        """
        self._enter(check)
        try:
            yield
        finally:
            self._leave()

    def _enter(self, check: Callable[[], None]) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                self.running += 1
                return
            if len(self._queue) >= self._queue_length:
                raise RequestError(
                    503, "busy", "too many requests wait already; try again", {"Retry-After": "2"}
                )
            turn = threading.Event()
            self._queue.append(turn)
        while not turn.wait(_LOOK_S):
            try:
                check()
            except BaseException:
                self._give_up(turn)
                raise

    def _give_up(self, turn: threading.Event) -> None:
        with self._lock:
            if not turn.is_set():
                self._queue.remove(turn)
                return
        self._leave()  # the slot came in this very moment

    def _leave(self) -> None:
        with self._lock:
            if self._queue:
                self._queue.popleft().set()
            else:
                self.running -= 1
                self._free += 1


def checker(deadline: float, gone: Callable[[], bool]) -> Callable[[], None]:
    """Return a function that raises once a request needn't be worked on any longer.

    Args:
        deadline: on the clock of `time.monotonic`.
        gone: tells whether the client has closed the connection.
    """

    def check() -> None:
        if gone():
            raise RequestError(499, "client_gone", "the client closed the connection")
        if time.monotonic() > deadline:
            raise RequestError(
                503,
                "timeout",
                "the request took too long; send less or later",
                {"Retry-After": "5"},
            )

    return check
