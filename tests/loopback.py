"""A real HTTP server on loopback that can misbehave."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What the server gives; tests change it between requests."""

    content: bytes
    version: dict[str, str] = field(default_factory=lambda: {"ETag": '"one"'})
    statuses: list[int] = field(default_factory=list)  # answered first, one each
    cuts: list[int] = field(
        default_factory=list
    )  # bytes after which each of the first connections breaks
    ranges: bool = True
    heeds_if_range: bool = True
    stall_at: int | None = None  # bytes after which it goes silent
    pause_s: float = 0.0  # between blocks of 16 kB
    url: str = ""
    asked: list[str] = field(default_factory=list)  # the Range of each request
    sent: int = 0  # bytes of bodies


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    done = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            site.asked.append(self.headers.get("Range", ""))
            if site.statuses:
                self.send_error(site.statuses.pop(0))
                return
            start = self.start()
            if start and start >= len(site.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(site.content)}")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            for name, value in site.version.items():
                self.send_header(name, value)
            if start:
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(site.content) - 1}/{len(site.content)}"
                )
            self.send_header("Content-Length", str(len(site.content) - start))
            self.end_headers()
            self.send_body(site.content[start:])

        def start(self):
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            known = self.headers.get("If-Range")
            fresh = known in (None, *site.version.values()) or not site.heeds_if_range
            return int(wanted[1]) if wanted and site.ranges and fresh else 0

        def send_body(self, body):
            end = min(len(body), site.cuts.pop(0)) if site.cuts else len(body)
            for at in range(0, end, 16384):
                if site.stall_at is not None and at >= site.stall_at:
                    done.wait()
                    return
                block = body[at : min(at + 16384, end)]
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
        done.set()
        server.shutdown()
        thread.join()
        server.server_close()
