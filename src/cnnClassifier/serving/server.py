"""Serve the app with waitress: one process, several threads."""

import contextlib
import ctypes
import errno
import logging
import signal
import socket
import struct
import sys
from ipaddress import ip_address
from typing import Any

from flask import Flask
from waitress.server import create_server

from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.serving import waitress_channel
from cnnClassifier.utils.errors import ConfigError
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.memory import keep_trimming

# For requests that need no slot: the page, health checks, metrics, refusals.
_EXTRA_THREADS = 6
_SEND_BYTES = 18_000
# Sockets, the listening one included; see waitress_channel.MAX_CONNECTIONS.
_MAX_SOCKETS = 400
_SO_ATTACH_FILTER = 26  # of Linux' socket.h
# A program for the kernel: of the packets to a socket, drop those with SYN and without ACK.
_DROP_SYN = (
    (0x30, 0, 0, 13),  # load the flags of the TCP header
    (0x54, 0, 0, 0x12),  # keep SYN and ACK
    (0x15, 0, 1, 0x02),  # unless only SYN is set, skip the next line
    (0x06, 0, 0, 0),  # drop the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # pass it on
)


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        ConfigError: the port is in use or not allowed, or the host isn't one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, UnicodeError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            message = f"port {port} of {host} is in use; stop the other program or choose --port"
        else:
            reason = getattr(error, "strerror", None) or error
            message = f"can't listen on {host}, port {port}: {reason}; choose --host and --port"
        raise ConfigError(message) from None


def drop_new_connections(listener: socket.socket) -> None:
    """Ignore clients that connect from now on, where the system is Linux.

    Closing a listening socket resets the connections that wait to be accepted. So first no new ones
    may come, then those that wait are accepted, then it is closed. The clients that are ignored try
    again after a second, and are refused.
    """
    if sys.platform == "linux":
        steps = b"".join(struct.pack("HBBI", *step) for step in _DROP_SYN)
        buffer = ctypes.create_string_buffer(steps)
        program = struct.pack("HP", len(_DROP_SYN), ctypes.addressof(buffer))
        with contextlib.suppress(OSError):  # a sandbox may not know filters
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def url_of(listener: socket.socket) -> str:
    """Return the address to open in a browser on this machine."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "127.0.0.1", "::", "::1"):  # noqa: S104 - compared, not bound
        host = "localhost"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def is_public(listener: socket.socket) -> bool:
    """Return whether other machines can reach the socket."""
    return not ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def serve(app: Flask, listener: socket.socket, config: ServingConfig) -> int:
    """Answer requests until SIGINT or SIGTERM, then finish those that have begun.

    Returns:
        The number of requests that were still unanswered after a few seconds.
    """
    # Requests that wait for a slot are no reason for a warning.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    # Above the app's own limit, so that the app can answer a body that is slightly too large.
    max_body_bytes = 2 * app.config["MAX_CONTENT_LENGTH"]
    proxy: dict[str, Any] = {}
    if config.trusted_proxy:
        proxy = {
            "trusted_proxy": config.trusted_proxy,
            "trusted_proxy_headers": {"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"},
            "clear_untrusted_proxy_headers": True,
        }
    server = create_server(
        app,
        sockets=[listener],
        threads=config.max_concurrent_requests + config.max_queued_requests + _EXTRA_THREADS,
        ident=None,
        max_request_body_size=waitress_channel.MAX_DISCARDED_BYTES,
        # Bodies and responses stay in memory: private images are never written to a disk.
        inbuf_overflow=max_body_bytes,
        outbuf_overflow=1 << 30,
        # Header and body of a prediction leave together: once a proxy has the header of a process
        # that is killed, it can't ask another replica.
        send_bytes=_SEND_BYTES,
        # Keep reading while a request is processed: only so is a disconnected client noticed.
        channel_request_lookahead=1,
        connection_limit=_MAX_SOCKETS,
        asyncore_use_poll=True,
        **proxy,
    )
    server.channel_class = waitress_channel.Channel
    received: list[int] = []

    def stop(number: int, _: object) -> None:
        if received:  # a second signal stops at once
            sys.exit(0)
        received.append(number)
        server.pull_trigger()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    keep_trimming()
    max_buffered_bytes = max(waitress_channel.MAX_BUFFERED_BYTES, 4 * max_body_bytes)
    while not received:
        waitress_channel.poll(server)
        waitress_channel.enforce_limits(server, max_buffered_bytes)
    drop_new_connections(listener)
    limiter = app.extensions["concurrency_limiter"]
    unanswered = waitress_channel.drain(server, limiter.refuse_waiting)
    if unanswered:
        logger.warning("stopped with %d requests unanswered", unanswered)
    return unanswered
