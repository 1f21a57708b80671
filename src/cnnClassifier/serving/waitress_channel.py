"""What waitress does for each connection, and what it refuses before the app sees it."""

import json
import time
from collections.abc import Iterable
from typing import Any

from waitress.channel import HTTPChannel
from waitress.task import ErrorTask
from waitress.utilities import Error

from cnnClassifier.serving.errors import content_of
from cnnClassifier.serving.request_logging import HEADERS, ID_HEADER, new_id
from cnnClassifier.utils.log import logger

# How long a request may take to arrive: one that drips in byte by byte must not hold its connection for ever.
RECEIVE_S = 120.0
# Bodies wait in memory for their turn; more than this all together, and the newest that still arrive are refused.
HELD_BYTES = 256_000_000


class _TooSlowError(Error):
    code, reason = 408, "Request Timeout"


class _OverloadedError(Error):
    code, reason = 503, "Busy"


class _JsonErrorTask(ErrorTask):
    """Say in JSON what waitress refuses."""

    def execute(self) -> None:
        error = self.request.error
        code = "too_large" if error.code == 413 else error.reason.lower().replace(" ", "_")
        # Of faults of its own waitress says nothing that helps anybody.
        message = error.reason if error.code == 500 else f"{error.reason}: {error.body}"
        identifier = new_id()
        body = json.dumps(content_of(code, message) | {"request_id": identifier}).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers += [
            ("Content-Type", "application/json"),
            (ID_HEADER, identifier),
            *HEADERS.items(),
        ]
        if error.code == 503:
            self.response_headers.append(("Retry-After", "5"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)
        logger.info("method=- path=- status=%d request=%s code=%s", error.code, identifier, code)


class Channel(HTTPChannel):
    """A connection that knows since when a request has been arriving."""

    error_task_class = _JsonErrorTask
    began = 0.0
    request: Any = None

    def received(self, data: bytes) -> bool:
        """Take what has arrived."""
        if self.request is None:
            self.began = time.monotonic()
        return super().received(data)

    @property
    def held_bytes(self) -> int:
        """How much of bodies lies in memory."""
        every = [*self.requests, self.request]
        return sum(
            request.body_bytes_received for request in every if request and not request.error
        )

    @property
    def is_busy(self) -> bool:
        """Whether a request arrives, is worked on, or its answer is still leaving."""
        return bool(self.requests or self.total_outbufs_len or self.request is not None)

    def give_up(self, error: Error) -> None:
        """Answer the request that is arriving, and wait for no more of it."""
        with self.requests_lock:
            request, self.request = self.request, None
            request.error = error
            self.requests.append(request)
            if len(self.requests) == 1:
                self.server.add_task(self)

    def refuse(self, error: Error) -> None:
        """Keep nothing of the body that is arriving; a client that is cut off would never read why."""
        self.request.error = error
        self.request.body_rcv.buf = _Nowhere()


class _Nowhere:
    """Takes the place of a buffer whose content nobody wants."""

    def append(self, _: bytes) -> None:
        pass

    def __len__(self) -> int:
        return 0

    def close(self) -> None:
        pass


def tend(channels: Iterable[Channel], most_bytes: int) -> None:
    """Refuse what arrives too slowly, and the newest where too much lies in memory; call it in the thread that reads.

    Args:
        channels: all connections.
        most_bytes: of bodies, all together.
    """
    every = list(channels)
    arriving = sorted((one for one in every if one.request is not None), key=lambda one: one.began)
    while arriving and time.monotonic() - arriving[0].began > RECEIVE_S:
        arriving.pop(0).give_up(_TooSlowError(f"the request didn't arrive within {RECEIVE_S:g} s"))
    filling = [one for one in arriving if one.request.body_rcv and not one.request.error]
    held = sum(one.held_bytes for one in every) if filling else 0
    while filling and held > most_bytes:
        newest = filling.pop()
        held -= newest.request.body_bytes_received
        newest.refuse(_OverloadedError("too many uploads at once; try again"))
