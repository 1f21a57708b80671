"""Connections of the waitress server: limits, JSON errors and a graceful stop.

waitress has no public interface for these. This is the only module that uses its internals, so its
version is pinned, and a test fails when another version is installed.
"""

import json
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.task import ErrorTask, WSGITask
from waitress.utilities import Error, RequestEntityTooLarge

from cnnClassifier.serving.errors import error_body
from cnnClassifier.serving.monitoring import ID_HEADER, SECURITY_HEADERS, new_request_id
from cnnClassifier.utils.log import logger

# A request that arrives byte by byte must not hold its connection for ever.
RECEIVE_TIMEOUT_S = 120.0
# One of which nothing arrives has a shorter time, as after `Expect: 100-continue`.
STALL_TIMEOUT_S = 20.0
# Up to this size the body of a refused request is read, so that its client reads the response.
MAX_DISCARDED_BYTES = 500_000_000
DISCARD_TIMEOUT_S = 1.0  # without any of it
# Bodies that wait for a slot are in memory; beyond this sum the newest uploads are refused.
MAX_BUFFERED_BYTES = 256_000_000
# With more connections than this, those that have been idle or sending longest are closed.
MAX_CONNECTIONS = 300
# While stopping: connections that are already accepted by the system still get their answer.
ACCEPT_S = 0.2
# A client that has just connected or received an answer may be sending a request.
IDLE_S = 1.0
DRAIN_TIMEOUT_S = 7.0
# The last part of that time: who still waits for a slot then is refused rather than cut off.
REFUSAL_S = 1.5


class _RequestTimeoutError(Error):
    code, reason = 408, "Request Timeout"


class _BusyError(Error):
    code, reason = 503, "Busy"


class _RequestParser(HTTPRequestParser):
    """Refuse ambiguous lengths and large bodies, and ask for no body that isn't wanted."""

    error: Error | None
    completed: bool
    expect_continue: bool

    def received(self, data: bytes) -> int:
        consumed = int(super().received(data))
        limit = self.adj.inbuf_overflow - self.adj.recv_bytes  # beyond it, a disk would be used
        if max(self.content_length, self.body_bytes_received) > limit and not self.error:
            self.error = RequestEntityTooLarge("it exceeds this server's limit")
            self.completed = self.completed or self.expect_continue
            self.expect_continue = False
            self.discard_body()
        return consumed

    def discard_body(self) -> None:
        """Keep nothing of the body; a client that is cut off wouldn't read the response."""
        self.body_rcv.buf = _DiscardBuffer(maxlen=0)

    def parse_header(self, header_plus: bytes) -> None:
        super().parse_header(header_plus)
        has_encoding = self.chunked or "TRANSFER_ENCODING" in self.headers
        if has_encoding and "CONTENT_LENGTH" in self.headers:
            raise ParsingError("Transfer-Encoding and Content-Length exclude each other")
        if self.body_rcv is None:
            self.expect_continue = False


class _Task(WSGITask):
    """Close the connection after the response while the server stops."""

    def build_response_header(self) -> bytes:
        # With another request behind this one, that one's response closes the connection.
        if not self.channel.server.accepting and len(self.channel.requests) == 1:
            self.set_close_on_finish()
        return super().build_response_header()


class _JsonErrorTask(ErrorTask):
    """Answer in JSON where waitress itself refuses a request."""

    def execute(self) -> None:
        error = self.request.error
        code = "too_large" if error.code == 413 else error.reason.lower().replace(" ", "_")
        # The body of an internal error holds nothing that helps the client.
        message = error.reason if error.code == 500 else f"{error.reason}: {error.body}"
        request_id = new_request_id()
        body = json.dumps(error_body(code, message) | {"request_id": request_id}).encode()
        headers = SECURITY_HEADERS | {"Content-Type": "application/json", ID_HEADER: request_id}
        if error.code == 503:
            headers["Retry-After"] = "5"
        self.status = f"{error.code} {error.reason}"
        self.response_headers += headers.items()
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)
        logger.info("method=- path=- status=%d request=%s code=%s", error.code, request_id, code)


class _DiscardBuffer(deque[bytes]):
    """A body buffer that keeps nothing: made with `maxlen=0`."""

    def close(self) -> None:
        self.clear()


class Channel(HTTPChannel):
    """A connection that knows since when a request has been arriving."""

    parser_class = _RequestParser
    task_class = _Task
    error_task_class = _JsonErrorTask
    receiving_since = 0.0
    request: Any = None

    def received(self, data: bytes) -> bool:
        """Take what has arrived."""
        if self.request is None:
            self.receiving_since = time.monotonic()
        return super().received(data)

    @property
    def buffered_bytes(self) -> int:
        """Return how many bytes of bodies are in memory."""
        requests = filter(None, [*self.requests, self.request])
        return sum(request.body_bytes_received for request in requests if not request.error)

    @property
    def is_busy(self) -> bool:
        """Return whether a request is arriving or processed, or its response not yet sent."""
        return bool(self.requests or self.total_outbufs_len or self.request is not None)

    @property
    def has_timed_out(self) -> bool:
        """Return whether the request that is arriving takes too long."""
        if time.monotonic() - self.receiving_since > RECEIVE_TIMEOUT_S:
            return True
        limit_s = DISCARD_TIMEOUT_S if self.request.error else STALL_TIMEOUT_S
        # While earlier requests are answered nothing is read. This is the clock of waitress.
        return not self.requests and time.time() - self.last_activity > limit_s

    def abort_request(self, error: Error) -> None:
        """Answer the request that is arriving with an error at once."""
        with self.requests_lock:
            request, self.request = self.request, None
            request.error = request.error or error
            self.requests.append(request)
            if len(self.requests) == 1:
                self.server.add_task(self)


def poll(server: Any, timeout_s: float = 1.0) -> None:
    """Wait for events on the server's sockets and handle them."""
    wasyncore.loop(timeout=timeout_s, use_poll=True, map=server._map, count=1)


def enforce_limits(server: Any, max_buffered_bytes: int) -> None:
    """Answer slow requests, refuse uploads that exceed the memory, close surplus connections.

    Call it in the thread that polls.
    """
    channels = list(server.active_channels.values())
    idle = [channel for channel in channels if not channel.is_busy]
    idle.sort(key=lambda channel: channel.last_activity)
    receiving = [channel for channel in channels if channel.request is not None]
    receiving.sort(key=lambda channel: channel.receiving_since)
    # Those that have just connected are about to send a request.
    fresh = [channel for channel in idle if channel.last_activity > time.time() - IDLE_S]
    candidates = [*idle[: len(idle) - len(fresh)], *receiving, *fresh]
    for channel in candidates[: max(0, len(channels) - MAX_CONNECTIONS)]:
        channel.handle_close()
    receiving = [channel for channel in receiving if channel.connected]
    for channel in receiving:
        if channel.has_timed_out:
            channel.abort_request(_RequestTimeoutError("the request didn't arrive in time"))
    receiving = [channel for channel in receiving if channel.request is not None]
    buffered = sum(channel.buffered_bytes for channel in channels)
    for channel in reversed(receiving):  # the newest first
        request = channel.request
        if buffered > max_buffered_bytes and request.body_rcv and not request.error:
            buffered -= request.body_bytes_received
            request.error = _BusyError("too many uploads at once; try again")
            request.discard_body()


def drain(server: Any, refuse_waiting: Callable[[], None]) -> int:
    """Accept no more connections and answer every request that has been sent.

    From here on each response closes its connection, so that clients that send request after
    request come to an end.

    Args:
        server: of waitress.
        refuse_waiting: answers the requests that can't begin any more before the end.

    Returns:
        The number of connections whose request is still unanswered after `DRAIN_TIMEOUT_S`.
    """
    server.accepting = False  # only marks the state: the socket is still listening
    end = time.monotonic() + ACCEPT_S
    while time.monotonic() < end:
        poll(server, ACCEPT_S / 10)
        while select.select([server.socket], [], [], 0)[0]:
            server.handle_accept()
    server.del_channel()
    server.socket.close()
    end = time.monotonic() + DRAIN_TIMEOUT_S
    while time.monotonic() < end and _has_active(server):
        if time.monotonic() > end - REFUSAL_S:
            refuse_waiting()
        poll(server, 0.1)
    # A request that arrives later must find a closed connection, not one that nobody reads.
    for channel in list(server.active_channels.values()):
        if not channel.is_busy:
            channel.handle_close()
    return len(server.active_channels)


def _has_active(server: Any) -> bool:
    idle_since = time.time() - IDLE_S  # waitress notes activity on this clock
    channels = server.active_channels.values()
    return any(channel.is_busy or channel.last_activity > idle_since for channel in channels)
