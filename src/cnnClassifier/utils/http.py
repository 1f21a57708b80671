"""Download files over HTTP: resumed, retried and checked. Needs only the standard library."""

import base64
import http.client
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, Request, build_opener

from cnnClassifier.utils.common import format_size, sha256_of
from cnnClassifier.utils.errors import DownloadError
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.redaction import redact_url

RETRY_DELAY_S = 1.0  # before the first retry; doubled for each further one
MAX_RETRY_DELAY_S = 30.0
_CHUNK_BYTES = 1 << 16
_TRANSIENT_STATUSES = (408, 416, 425, 429)  # as well as 5xx; after 416 the download starts again


class _TransientError(DownloadError):
    """A retry may succeed."""


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    max_bytes: int | None = None,
    timeout: tuple[float, float] = (10, 60),
    retries: int = 3,
    on_progress: Callable[[int, int | None], None] = lambda received, total: None,
) -> None:
    """Download a file to `target`, which appears only when it is complete and checked.

    Received bytes are kept in `<target>.part`, the server's version of the file (ETag or date) in
    `<target>.part.version`. A retry and the next call request only the rest of the same version.

    Args:
        url: http or https; may contain a user name and password.
        target: a path in an existing folder.
        sha256: expected hash in hex; None: not checked.
        max_bytes: fail if the file is larger.
        timeout: seconds to connect, and seconds without a byte.
        retries: number of failures in a row before the download fails; new bytes reset the count.
        on_progress: called with the number of received bytes, and the total if it is known.

    Raises:
        DownloadError: no network, an error status, a timeout, too large, or another sha256.
        OSError: the file can't be written.
    """
    transfer = _Transfer(url, target.with_name(f"{target.name}.part"), max_bytes, on_progress)
    opener = _build_opener(timeout[1])
    failures, max_size = 0, transfer.size()
    while True:
        try:
            transfer.request_rest(opener, timeout[0])
            break
        except _TransientError as error:
            if transfer.size() > max_size:
                failures, max_size = 0, transfer.size()
            if failures == retries:
                raise
            delay = min(RETRY_DELAY_S * 2**failures, MAX_RETRY_DELAY_S)
            failures += 1
            logger.warning("%s (retry in %.0f s)", error, delay)
            time.sleep(delay)
    check_sha256(transfer.part, sha256, redact_url(url))
    os.replace(transfer.part, target)
    transfer.discard()


def check_sha256(path: Path, expected: str | None, name: object) -> None:
    """Compare the hash of a file.

    Args:
        path: path of the file.
        expected: sha256 in hex; None: not checked.
        name: name of the file in the message.

    Raises:
        DownloadError: the hash differs.
    """
    if expected is None:
        return
    actual = sha256_of(path)
    if actual != expected.lower():
        raise DownloadError(
            f"{name}: its sha256 is {actual}, expected {expected}; "
            "correct the expected one or get the right file"
        )


@dataclass
class _Transfer:
    """A file that is being downloaded to `part`."""

    url: str
    part: Path
    max_bytes: int | None
    on_progress: Callable[[int, int | None], None]

    def __post_init__(self) -> None:
        self.version_path = self.part.with_name(f"{self.part.name}.version")

    def size(self) -> int:
        """Return the number of bytes received so far."""
        return self.part.stat().st_size if self.part.exists() else 0

    def discard(self) -> None:
        """Remove what has been received."""
        self.part.unlink(missing_ok=True)
        self.version_path.unlink(missing_ok=True)

    def request_rest(self, opener: OpenerDirector, connect_timeout_s: float) -> None:
        """Complete the file with one request."""
        offset, version = self.size(), ""
        if offset and self.version_path.exists():
            version = self.version_path.read_text(encoding="utf-8")
        try:
            request = _make_request(self.url, offset, version)
            response = opener.open(request, timeout=connect_timeout_s)
        except HTTPError as error:
            if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{offset}":
                return  # an earlier run was killed after the last byte
            if error.code == 416:
                self.discard()
            transient = error.code >= 500 or error.code in _TRANSIENT_STATUSES
            hint = "try again later" if transient else "check the URL and its permissions"
            message = f"HTTP status {error.code} {error.reason}; {hint}"
            raise self._error(message, transient) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise self._network_error(error) from error
        with response:
            if response.status == 206 and not _is_rest(response, offset, version):
                self.discard()
                raise self._error("the file has changed on the server", transient=True)
            if response.status == 200:
                # Bytes of an old version must never be kept with the new version's ETag.
                self.discard()
                offset = 0
            self.version_path.write_text(_version(response), encoding="utf-8")
            self._save(response, offset)

    def _save(self, response: http.client.HTTPResponse, received: int) -> None:
        total = None if response.length is None else received + response.length
        with self.part.open("ab") as file:
            for chunk in self._chunks(response):
                file.write(chunk)
                received += len(chunk)
                self.on_progress(received, total)
                if self.max_bytes is not None and max(received, total or 0) > self.max_bytes:
                    raise self._error(f"larger than {format_size(self.max_bytes)}; check the URL")
        if total is not None and received != total:
            message = f"the connection broke after {received:,} of {total:,} bytes"
            raise self._error(f"{message}; run it again to resume", transient=True)

    def _chunks(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        """Yield the received bytes. An error of the consumer isn't reported as the network's."""
        try:
            while chunk := response.read1(_CHUNK_BYTES):
                yield chunk
        except (OSError, http.client.HTTPException) as error:
            raise self._network_error(error) from error

    def _network_error(self, error: Exception) -> DownloadError:
        reason = getattr(error, "reason", error)
        # An untrusted certificate is a ValueError too.
        permanent = isinstance(reason, (str, ValueError, http.client.InvalidURL))
        return self._error(f"{reason}; check the URL and the network", transient=not permanent)

    def _error(self, message: str, transient: bool = False) -> DownloadError:
        error_class = _TransientError if transient else DownloadError
        return error_class(f"{redact_url(self.url)}: {message}")


def _make_request(url: str, offset: int, version: str) -> Request:
    """Return a request for the whole file, or for the rest of a version of it."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError("expected http:// or https://")
    credentials, _, host = parts.netloc.rpartition("@")
    request = Request(parts._replace(netloc=host).geturl())  # noqa: S310 - checked above
    request.add_header("Accept-Encoding", "identity")
    if credentials:
        token = base64.b64encode(unquote(credentials).encode()).decode()
        # Unredirected: another host must not receive the password.
        request.add_unredirected_header("Authorization", f"Basic {token}")
    if version:
        request.add_header("Range", f"bytes={offset}-")
        request.add_header("If-Range", version)
    return request


def _version(response: http.client.HTTPResponse) -> str:
    """Return a value for If-Range: a strong ETag or a date; empty if there is neither."""
    etag = response.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    return response.headers.get("Last-Modified", "")


def _is_rest(response: http.client.HTTPResponse, offset: int, version: str) -> bool:
    """Tell whether the bytes continue the same version, also if the server ignores If-Range."""
    content_range = response.headers.get("Content-Range", "")
    return content_range.startswith(f"bytes {offset}-") and _version(response) in (version, "")


def _build_opener(read_timeout_s: float) -> OpenerDirector:
    """Return an opener whose sockets change to another timeout once they are connected."""

    def connect(base: Any, *args: Any, **options: Any) -> http.client.HTTPConnection:
        class Connection(base):
            def connect(self) -> None:
                super().connect()
                self.sock.settimeout(read_timeout_s)

        return Connection(*args, **options)

    class Handler(HTTPSHandler, HTTPHandler):
        def http_open(self, request: Request) -> Any:
            return self.do_open(partial(connect, http.client.HTTPConnection), request)

        def https_open(self, request: Request) -> Any:
            return self.do_open(partial(connect, http.client.HTTPSConnection), request)

    return build_opener(Handler)
