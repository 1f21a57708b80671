"""Download files over HTTP: resumed, retried and checked."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import requests

from cnnClassifier.utils.common import format_size, sha256_of
from cnnClassifier.utils.errors import DownloadError
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.redaction import redact_url

RETRY_DELAY_S = 1.0  # before the first retry; doubled for each further one, at most 30 s


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
    part = target.with_name(f"{target.name}.part")
    version_path = part.with_name(f"{part.name}.version")
    failures, max_size = 0, _size(part)
    while True:
        try:
            _request_rest(url, part, version_path, max_bytes, timeout, on_progress)
            break
        except _TransientError as error:
            if _size(part) > max_size:
                failures, max_size = 0, _size(part)
            if failures == retries:
                raise
            delay = min(RETRY_DELAY_S * 2**failures, 30.0)
            failures += 1
            logger.warning("%s (retry in %.0f s)", error, delay)
            time.sleep(delay)
    check_sha256(part, sha256, redact_url(url))
    os.replace(part, target)
    version_path.unlink(missing_ok=True)


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


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _request_rest(
    url: str,
    part: Path,
    version_path: Path,
    max_bytes: int | None,
    timeout: tuple[float, float],
    on_progress: Callable[[int, int | None], None],
) -> None:
    """Complete the file with one request."""
    name = redact_url(url)
    received = _size(part)
    headers = {"Accept-Encoding": "identity"}
    version = version_path.read_text(encoding="utf-8") if received and version_path.exists() else ""
    if version:
        headers |= {"Range": f"bytes={received}-", "If-Range": version}
    try:
        with requests.get(url, headers=headers, timeout=timeout, stream=True) as response:
            if response.headers.get("Content-Range") == f"bytes */{received}":
                return  # an earlier run stopped after the last byte
            _check_status(name, response)
            if not _is_rest(response, received, version):
                # Bytes of an old version must never be kept with the new version's ETag.
                part.unlink(missing_ok=True)
                if response.status_code != 200:
                    raise _TransientError(f"{name}: the file has changed on the server")
                received = 0
            version_path.write_text(_version(response), encoding="utf-8")
            length = response.headers.get("Content-Length")
            total = received + int(length) if length else None
            with part.open("ab") as file:
                for chunk in response.iter_content(65536):
                    file.write(chunk)
                    received += len(chunk)
                    on_progress(received, total)
                    if max_bytes is not None and max(received, total or 0) > max_bytes:
                        limit = format_size(max_bytes)
                        raise DownloadError(f"{name}: larger than {limit}; check the URL")
    except requests.RequestException as error:
        # The cause alone: the error's own message contains the URL with its secrets.
        cause = redact_url(str(getattr(error.args[0], "reason", error.args[0])))
        # A wrong URL is a ValueError.
        permanent = isinstance(error, (ValueError, requests.exceptions.SSLError))
        error_class = DownloadError if permanent else _TransientError
        raise error_class(f"{name}: {cause}; check the URL and the network") from error


def _check_status(name: str, response: requests.Response) -> None:
    status = response.status_code
    if status in (408, 425, 429) or status >= 500:
        raise _TransientError(f"{name}: HTTP status {status} {response.reason}; try again later")
    if status >= 400 and status != 416:
        hint = "check the URL and its permissions"
        raise DownloadError(f"{name}: HTTP status {status} {response.reason}; {hint}")


def _version(response: requests.Response) -> str:
    """Return a value for If-Range: a strong ETag or a date; empty if there is neither."""
    etag = response.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    return response.headers.get("Last-Modified", "")


def _is_rest(response: requests.Response, offset: int, version: str) -> bool:
    """Tell whether the bytes continue the same version, also if the server ignores If-Range."""
    content_range = response.headers.get("Content-Range", "")
    return content_range.startswith(f"bytes {offset}-") and _version(response) in (version, "")
