"""Serve the app with waitress: one process, several threads, no development server."""

import contextlib
import ctypes
import errno
import logging
import signal
import socket
import sys
import time
from ipaddress import ip_address
from typing import Any

from flask import Flask
from waitress import wasyncore
from waitress.server import create_server

from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.serving import waitress_channel as channels
from cnnClassifier.utils.errors import ConfigError
from cnnClassifier.utils.log import logger

# For what needn't wait for a turn: the page, health, metrics, refusals.
_SPARE_THREADS = 6
_CONNECTIONS = 400
_GRACE_S = 0.2
_DRAIN_S = 7.0
_M_ARENA_MAX = -8  # of malloc.h


def share_memory() -> None:
    """Let all threads to come allocate from two arenas, where the C library is glibc; elsewhere nothing is done.

    It gives each of dozens of threads an arena of its own, which keeps what pictures took there: 120 MB more.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def bind(host: str, port: int) -> socket.socket:
    """Take the port.

    Raises:
        ConfigError: it is in use, isn't allowed, or the host is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, UnicodeError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} of {host} is in use; stop what runs there or choose another with --port"
            ) from None
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"can't listen on {host}, port {port}: {reason}; choose others with --host and --port"
        ) from None


def url_of(listener: socket.socket) -> str:
    """Return the address to open in a browser on this machine."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "127.0.0.1", "::", "::1"):  # noqa: S104 - compared, not bound
        host = "localhost"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def is_public(listener: socket.socket) -> bool:
    """Return whether other machines may reach it."""
    return not ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def serve(app: Flask, listener: socket.socket, config: ServingConfig) -> None:
    """Answer requests until Ctrl-C or a SIGTERM; then finish what has begun, for a few seconds at most."""
    # Several requests that wait for the model are no reason to warn.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    body = 2 * app.config["MAX_CONTENT_LENGTH"]
    proxy: dict[str, Any] = {}
    if config.trusted_proxy:
        proxy = {
            "trusted_proxy": config.trusted_proxy,
            "trusted_proxy_headers": {"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"},
            "clear_untrusted_proxy_headers": True,
        }
    server: Any = create_server(
        app,
        sockets=[listener],
        threads=config.max_concurrent_requests + config.max_queued_requests + _SPARE_THREADS,
        ident=None,
        # Above the app's own limit, so that the app can answer a body that is somewhat too large.
        max_request_body_size=body,
        # Bodies and answers stay in memory: pictures of patients are never written to a disk.
        inbuf_overflow=body,
        outbuf_overflow=1 << 30,
        # Read on while a request is worked on: that is how a client is noticed that goes away.
        channel_request_lookahead=1,
        connection_limit=_CONNECTIONS,
        asyncore_use_poll=True,
        **proxy,
    )
    server.channel_class = channels.Channel
    stopping: list[int] = []

    def stop(number: int, _: object) -> None:
        if stopping:  # asked twice: at once
            sys.exit(0)
        stopping.append(number)
        server.pull_trigger()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    most_bytes = max(channels.HELD_BYTES, 4 * body)
    while not stopping:
        _turn(server)
        channels.tend(server.active_channels.values(), most_bytes)
    _drain(server)


def _turn(server: Any, timeout_s: float = 1.0) -> None:
    """Wait for something to happen on the sockets, and do what is to be done."""
    wasyncore.loop(
        timeout=timeout_s, use_poll=server.adj.asyncore_use_poll, map=server._map, count=1
    )


def _drain(server: Any) -> None:
    """Take no new connections, and wait until every request that has begun is answered."""
    grace = time.monotonic() + _GRACE_S
    while time.monotonic() < grace:  # what the system has accepted already counts as begun
        _turn(server, _GRACE_S / 4)
    server.accepting = False
    server.del_channel()
    server.socket.close()
    until = time.monotonic() + _DRAIN_S
    while (rest := until - time.monotonic()) > 0 and any(
        one.is_busy for one in server.active_channels.values()
    ):
        _turn(server, min(rest, 1.0))
    left = sum(channel.is_busy for channel in server.active_channels.values())
    if left:
        logger.warning("stopped with %d requests unanswered", left)
