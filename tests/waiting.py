"""Wait for events, not for a time: the timeout only guards against waiting forever."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

PATIENCE_S = 600
Found = TypeVar("Found")


def until(condition: Callable[[], Found], every_s: float = 0.02) -> Found:
    """Ask again and again; return the first answer that is true."""
    end = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        if time.monotonic() > end:
            pytest.fail(f"it didn't come to that within {PATIENCE_S} s; at the end: {found!r}")
        time.sleep(every_s)
    return found


def wait_for(url: str, process: subprocess.Popen, refusal: bool = False) -> None:
    """Wait until a process answers; a status of 400 or more counts only as a `refusal`."""

    def answers() -> bool:
        assert process.poll() is None, "it has ended"
        try:
            urllib.request.urlopen(url, timeout=PATIENCE_S).close()
        except urllib.error.HTTPError:
            return refusal
        except OSError:
            return False
        return True

    until(answers, 0.1)


@contextmanager
def app_in(folder: Path) -> Iterator[str]:
    """Run app.py in the folder of a project; yield its URL once it is ready."""
    command = [sys.executable, "app.py", "--port", "0"]
    with (
        (folder / "server.log").open("w") as log,
        subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True
        ) as server,
    ):
        try:
            url = server.stdout.readline().split()[1]
            wait_for(f"{url}/readyz", server)
            yield url
        finally:
            server.terminate()


@contextmanager
def reserved_port() -> Iterator[int]:
    """Yield a port where nobody listens and which nobody is given.

    A server that asks for it by number and sets SO_REUSEADDR can listen there.
    """
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        yield kept.getsockname()[1]
