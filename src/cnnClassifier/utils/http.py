"""Download files over HTTP: resumed and retried. Needs only the standard library."""

import base64
import os
import time
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path
from ssl import SSLError
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from cnnClassifier.utils.common import format_size, sha256_of
from cnnClassifier.utils.errors import DownloadError
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.redaction import redact_url

RETRY_DELAY_S = 1.0  # before the first retry; doubled for each further one
_MAX_RETRY_DELAY_S = 30.0
_CHUNK_BYTES = 1 << 16
_TRANSIENT_STATUSES = (408, 416, 425, 429)  # as well as 5xx
# Other subclasses of OSError are errors of the disk.
_NETWORK_ERRORS = (URLError, HTTPException, ConnectionError, TimeoutError, SSLError, ValueError)


def download(
    url: str,
    target: Path,
    *,
    max_bytes: float = float("inf"),
    timeout_s: float = 60,
    retries: int = 3,
    on_progress: Callable[[int, int | None], None] = lambda received, total: None,
) -> None:
    """Download a file to `target`, which appears only when it is complete.

    Received bytes are kept in `<target>.part`, the server's version of the file (ETag or date) in
    `<target>.part.version`. A retry and the next call request only the rest of the same version.

    Args:
        url: http or https; may contain a user name and password.
        target: a path in an existing folder.
        max_bytes: fail if the file is larger.
        timeout_s: seconds to connect, and seconds without a byte.
        retries: number of retries after errors of the network or of the server.
        on_progress: called with the number of received bytes, and the total if it is known.

    Raises:
        DownloadError: no network, an error status, a timeout, or too large.
        OSError: the file can't be written.
    """
    name = redact_url(url)
    part = target.with_name(f"{target.name}.part")
    version_path = target.with_name(f"{target.name}.part.version")
    for attempt in range(retries + 1):
        try:
            with _request_rest(url, part, version_path, timeout_s) as response:
                _save(response, part, max_bytes, on_progress)
            break
        except _NETWORK_ERRORS as error:
            message, is_transient = _explain(error)
            if attempt == retries or not is_transient:
                raise DownloadError(f"{name}: {message}") from error
            delay = min(RETRY_DELAY_S * 2**attempt, _MAX_RETRY_DELAY_S)
            logger.warning("%s: %s (retry in %.0f s)", name, message, delay)
            time.sleep(delay)
    os.replace(part, target)
    version_path.unlink(missing_ok=True)


def check_sha256(path: Path, expected: str, name: object) -> None:
    """Compare the hash of a file.

    Args:
        path: path of the file.
        expected: sha256 in hex.
        name: name of the file in the message.

    Raises:
        DownloadError: the hash differs.
    """
    actual = sha256_of(path)
    if actual != expected.lower():
        raise DownloadError(
            f"{name}: its sha256 is {actual}, expected {expected}; "
            "correct the expected one or get the right file"
        )


def _request_rest(url: str, part: Path, version_path: Path, timeout_s: float) -> HTTPResponse:
    """Request what `part` lacks, or the whole file, for which the part is removed."""
    offset, version = 0, ""
    if part.exists() and version_path.exists():
        offset, version = part.stat().st_size, version_path.read_text(encoding="utf-8")
    try:
        response = urlopen(_make_request(url, offset, version), timeout=timeout_s)  # noqa: S310
    except HTTPError as error:
        if error.code == 416:  # the file isn't longer than the part
            part.unlink()
        raise
    is_same_version = _version(response) == version
    if response.status == 206 and is_same_version:
        return response
    # Bytes of an old version must never be kept with the new version's ETag.
    part.unlink(missing_ok=True)
    if response.status == 206:
        raise ConnectionError("the file has changed on the server")
    version_path.write_text(_version(response), encoding="utf-8")
    return response


def _make_request(url: str, offset: int, version: str) -> Request:
    """Return a request for the whole file, or for the rest of a version of it."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError("expected http:// or https://")
    credentials, _, host = parts.netloc.rpartition("@")
    request = Request(parts._replace(netloc=host).geturl())  # noqa: S310 - checked above
    if credentials:
        token = base64.b64encode(unquote(credentials).encode()).decode()
        # Unredirected: another host must not receive the password.
        request.add_unredirected_header("Authorization", f"Basic {token}")
    if version:
        request.add_header("Range", f"bytes={offset}-")
        request.add_header("If-Range", version)
    return request


def _version(response: HTTPResponse) -> str:
    """Return a value for If-Range: a strong ETag or a date; empty if there is neither."""
    etag = response.headers.get("ETag", "W/")
    return response.headers.get("Last-Modified", "") if etag.startswith("W/") else etag


def _save(
    response: HTTPResponse,
    part: Path,
    max_bytes: float,
    on_progress: Callable[[int, int | None], None],
) -> None:
    """Append the body of a response to a file."""
    with part.open("ab") as file:
        received = file.tell()
        total = None if response.length is None else received + response.length
        while chunk := response.read1(_CHUNK_BYTES):
            file.write(chunk)
            received += len(chunk)
            on_progress(received, total)
            if max(received, total or 0) > max_bytes:
                name = redact_url(response.url)
                raise DownloadError(f"{name}: larger than {format_size(max_bytes)}; check the URL")
    if total not in (None, received):
        raise ConnectionError(f"the connection broke after {received:,} of {total:,} bytes")


def _explain(error: Exception) -> tuple[str, bool]:
    """Return the message for an error, and whether a retry may succeed."""
    if isinstance(error, HTTPError):
        message = f"HTTP status {error.code} {error.reason}"
        if error.code >= 500 or error.code in _TRANSIENT_STATUSES:
            return f"{message}; try again later", True
        return f"{message}; check the URL and its permissions", False
    reason = getattr(error, "reason", error)
    # An untrusted certificate is a ValueError.
    is_transient = not isinstance(reason, (str, ValueError, InvalidURL))
    return f"{reason}; check the URL and the network", is_transient
