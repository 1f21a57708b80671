"""An HTTP server on loopback that supports ranges, and that can misbehave."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """Behaviour of the server; tests change it between requests."""

    content: bytes
    version: dict[str, str] = field(default_factory=lambda: {"ETag": '"one"'})
    statuses: list[int] = field(default_factory=list)  # of the first responses
    cuts: list[int] = field(default_factory=list)  # bytes until the first connections break
    ranges: bool = True
    if_range: bool = True
    stall_at: int | None = None  # bytes until the server stalls
    pause_s: float = 0.0  # between blocks of 16 kB
    url: str = ""
    requested: list[str] = field(default_factory=list)  # Range of each request
    authorization: list[str | None] = field(default_factory=list)  # of each request
    redirect_to: str = ""
    sent: int = 0  # bytes of all bodies


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    stopped = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            site.requested.append(self.headers.get("Range", ""))
            site.authorization.append(self.headers.get("Authorization"))
            if site.statuses:
                self.send_error(site.statuses.pop(0))
                return
            if site.redirect_to:
                self.reply(302, Location=site.redirect_to)
                return
            start, size = self.start(), len(site.content)
            if start and start >= size:
                self.reply(416, **{"Content-Range": f"bytes */{size}"})
                return
            headers = site.version | {"Content-Length": str(size - start)}
            if start:
                headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
            self.reply(206 if start else 200, **headers)
            self.send_body(site.content[start:])

        def reply(self, status, **headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def start(self):
            match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            known = self.headers.get("If-Range")
            same = known in (None, *site.version.values()) or not site.if_range
            return int(match[1]) if match and site.ranges and same else 0

        def send_body(self, body):
            end = min(len(body), site.cuts.pop(0)) if site.cuts else len(body)
            for start in range(0, end, 16384):
                if site.stall_at is not None and start >= site.stall_at:
                    stopped.wait()
                    return
                block = body[start : min(start + 16384, end)]
                self.wfile.write(block)
                site.sent += len(block)
                time.sleep(site.pause_s)

        def log_message(self, *args):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request, client_address):
            pass  # a client that was killed

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}/scans.zip"
    try:
        yield site
    finally:
        stopped.set()
        server.shutdown()
        thread.join()
        server.server_close()
