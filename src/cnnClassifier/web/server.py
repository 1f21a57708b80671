"""Serve the app with waitress: one process, several threads, no development server."""

import errno
import json
import logging
import signal
import socket
import sys
from typing import Any

from flask import Flask
from waitress.channel import HTTPChannel
from waitress.server import create_server
from waitress.task import ErrorTask

from cnnClassifier.utils.errors import ConfigError
from cnnClassifier.web.problems import content_of

_THREADS = 8


class _JsonErrorTask(ErrorTask):
    """Say in JSON what waitress refuses before the app sees it."""

    def execute(self) -> None:
        error = self.request.error
        code = "too_large" if error.code == 413 else error.reason.lower().replace(" ", "_")
        body = json.dumps(content_of(code, f"{error.reason}: {error.body}")).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Channel(HTTPChannel):
    error_task_class = _JsonErrorTask


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


def serve(app: Flask, listener: socket.socket) -> None:
    """Answer requests until Ctrl-C or a SIGTERM."""
    # Several requests that wait for the model are no reason to warn.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    signal.signal(signal.SIGTERM, _stop)
    server: Any = create_server(
        app,
        sockets=[listener],
        threads=_THREADS,
        ident=None,
        # Above the app's own limit, so that the app can answer a body that is somewhat too large.
        max_request_body_size=2 * app.config["MAX_CONTENT_LENGTH"],
    )
    server.channel_class = _Channel
    server.run()


def _stop(*_: object) -> None:
    sys.exit(0)
