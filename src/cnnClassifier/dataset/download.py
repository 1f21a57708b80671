"""Download archives over HTTP and from Google Drive; what was begun is resumed, what is whole is kept."""

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3

from cnnClassifier.dataset.extraction import archive_trouble, safe_path
from cnnClassifier.dataset.layout import is_image
from cnnClassifier.dataset.storage import check_free, write_all
from cnnClassifier.utils.common import create_directories
from cnnClassifier.utils.errors import SourceError
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.progress import progress

FIRST_PAUSE_S = 1.0  # before the first retry; each further one takes twice as long
LONGEST_PAUSE_S = 30.0
_CHUNK = 1 << 16  # what is lost at most when the connection breaks
_LATER = (408, 425, 429)  # these and 5xx may pass
_SHARE = (
    "share it with 'Anyone with the link'; if its download quota is used up, wait a day, or download it in a browser "
    "and name the file in data_ingestion.source_URL"
)
_START_AFRESH = "delete its .part folder in data_ingestion.download_dir and run it again"

Result = TypeVar("Result")


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server, in seconds, and how often to try again."""

    connect_s: float
    read_s: float
    retries: int

    @property
    def timeout(self) -> tuple[float, float]:
        """The pair that requests takes."""
        return self.connect_s, self.read_s


class _TransientError(SourceError):
    """Another try may go better."""


def without_secrets(url: str) -> str:
    """Return a URL for messages: no user, password or query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" + ("?…" if parts.query else "")


def download_http(url: str, target: Path, patience: Patience) -> None:
    """Download an archive to `target`, which appears only once it is whole.

    The part that came is kept as `<target>.part`, with the server's mark of the version in `<target>.part.version`.
    The next try, or the next run, asks for the rest; where the file has changed meanwhile it starts again.

    Raises:
        SourceError: no network, refused, timed out, cut short, not there, a web page, not an archive, or a full disk.
    """
    part = _part_of(target)
    _retry(lambda: _transfer(url, part, patience), patience.retries, lambda: _size(part))
    trouble = archive_trouble(part)
    if trouble:
        _forget(part)
        raise SourceError(
            f"{without_secrets(url)}: what came {trouble}; set data_ingestion.source_URL to the archive's direct link"
        )
    os.replace(part, target)
    _forget(part)


def drive_id(url: str) -> tuple[str, bool]:
    """Return a Google Drive link's id, and whether it is a folder's.

    Raises:
        SourceError: the link holds no id.
    """
    folder = re.search(r"/folders/([-\w]+)", url)
    found = folder or re.search(r"/d/([-\w]+)", url) or re.search(r"[?&]id=([-\w]+)", url)
    if found is None:
        raise SourceError(
            f"{url}: no Google Drive link of a file or a folder; copy it with Share → Copy link in Google Drive"
        )
    return found[1], folder is not None


def download_drive_file(identifier: str, target: Path, patience: Patience) -> None:
    """Download an archive from Google Drive to `target`, which appears only once it is whole.

    Raises:
        SourceError: Drive gives a page instead (permission, quota), no network, not an archive, or a full disk.
    """
    part = _part_of(target)
    create_directories(part)
    file = part / "archive"
    with progress(desc="Google Drive", unit="B", unit_scale=True) as bar:

        def shown(count: int, total: int | None) -> None:
            bar.total = total
            bar.update(count - bar.n)

        _drive_download(identifier, file, patience, shown)
    trouble = archive_trouble(file) if file.exists() else "is nothing"
    if trouble:
        shutil.rmtree(part)
        raise SourceError(f"Google Drive file {identifier}: what came {trouble}; {_SHARE}")
    os.replace(file, target)
    shutil.rmtree(part)


def download_drive_folder(identifier: str, target: Path, patience: Patience) -> None:
    """Download the images of a Google Drive folder to the folder `target`, which appears only once it is whole.

    Raises:
        SourceError: as for a file.
    """
    import gdown

    part = _part_of(target)

    def list_files() -> list[Any]:
        with _drive_errors(f"folder {identifier}", patience):
            return gdown.download_folder(
                id=identifier,
                output=str(part),
                skip_download=True,
                quiet=True,
                timeout=patience.timeout,
            )

    files = [file for file in _retry(list_files, patience.retries) if is_image(Path(file.path))]
    create_directories(part)
    for file in progress(files, desc="Google Drive", unit="file"):
        path = safe_path(file.path)
        if path is None:
            raise SourceError(
                f"Google Drive folder {identifier}: the name {file.path!r} leads elsewhere; rename it"
            )
        create_directories((part / path).parent)
        _drive_download(file.id, part / path, patience)
    os.replace(part, target)


def _drive_download(
    identifier: str,
    file: Path,
    patience: Patience,
    progress: Callable[[int, int | None], None] | None = None,
) -> None:
    import gdown

    with _drive_errors(f"file {identifier}", patience):
        gdown.download(
            id=identifier,
            output=str(file),
            quiet=True,
            resume=True,
            timeout=patience.timeout,
            retries=patience.retries,
            progress=progress,
        )


@contextlib.contextmanager
def _drive_errors(what: str, patience: Patience) -> Iterator[None]:
    import gdown

    try:
        yield
    except gdown.exceptions.DownloadError as error:
        if isinstance(error.__cause__, requests.RequestException):
            raise _explain(error.__cause__, f"Google Drive {what}", patience) from error
        mend = _START_AFRESH if "byte range" in str(error) else _SHARE
        raise SourceError(f"Google Drive {what}: {' '.join(str(error).split())}; {mend}") from error
    except requests.HTTPError as error:
        raise SourceError(f"Google Drive {what}: {error}; {_SHARE}") from error
    except requests.RequestException as error:
        raise _explain(error, f"Google Drive {what}", patience) from error


def _retry(
    work: Callable[[], Result], retries: int, received: Callable[[], int] = lambda: 0
) -> Result:
    """Call `work` until it succeeds; the count of failures starts anew whenever more was received than ever before."""
    failures, most = 0, received()
    while True:
        try:
            return work()
        except _TransientError as error:
            if received() > most:
                failures, most = 0, received()
            if failures == retries:
                raise
            pause = min(FIRST_PAUSE_S * 2**failures, LONGEST_PAUSE_S)
            failures += 1
            logger.warning("%s (trying again in %.0f s)", error, pause)
            time.sleep(pause)


def _transfer(url: str, part: Path, patience: Patience) -> None:
    """Bring `part` from what it holds to the whole file, with one request."""
    offset, version = _size(part), _version_file(part)
    headers = {"Accept-Encoding": "identity"}
    known = version.read_text(encoding="utf-8") if offset and version.exists() else ""
    if known:
        headers |= {"Range": f"bytes={offset}-", "If-Range": known}
    shown = without_secrets(url)
    try:
        with requests.get(url, headers=headers, stream=True, timeout=patience.timeout) as response:
            if known and _range_is_spent(response, offset):
                return
            if (
                known
                and response.status_code in (206, 416)
                and not _continues(response, offset, known)
            ):
                logger.info("%s: the server can't go on at byte %d; starting again", shown, offset)
                _forget(part)
                _transfer(url, part, patience)
                return
            _refuse_status(response, shown)
            if (
                response.status_code == 200
            ):  # bytes of an older version must never stand beside the new version's mark
                _forget(part)
                offset = 0
            version.write_text(_version(response), encoding="utf-8")
            _save(response, part, offset, shown)
    except requests.RequestException as error:
        raise _explain(error, shown, patience) from error


def _save(response: requests.Response, part: Path, offset: int, shown: str) -> None:
    coded = response.headers.get("Content-Encoding", "identity") != "identity"
    length = response.headers.get("Content-Length", "")
    total = offset + int(length) if length.isdecimal() and not coded else None
    if total is not None:
        check_free(part.parent, total - offset)
    with (
        part.open("ab" if offset else "wb", buffering=0) as file,
        progress(total=total, initial=offset, desc="download", unit="B", unit_scale=True) as bar,
    ):
        for chunk in response.iter_content(_CHUNK):
            write_all(file, chunk)
            bar.update(len(chunk))
    if total is not None and _size(part) != total:
        raise _TransientError(
            f"{shown}: cut short: {_size(part):,} of {total:,} bytes came; run it again to go on"
        )


def _version(response: requests.Response) -> str:
    """Return what marks this version of the file, fit for If-Range; empty where a resumed file could be spliced."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        return ""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


def _continues(response: requests.Response, offset: int, known: str) -> bool:
    start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    same = _version(response) in (known, "")
    return response.status_code == 206 and start is not None and int(start[1]) == offset and same


def _range_is_spent(response: requests.Response, offset: int) -> bool:
    """Tell whether all bytes had come already: a run was killed before it could rename the file."""
    return (
        response.status_code == 416 and response.headers.get("Content-Range") == f"bytes */{offset}"
    )


def _refuse_status(response: requests.Response, shown: str) -> None:
    code = response.status_code
    answer = f"{shown}: the server answers {code} {response.reason}".rstrip()
    if code >= 500 or code in _LATER:
        raise _TransientError(f"{answer}; try again later")
    if code in (404, 410):
        raise SourceError(f"{answer}: no such file; correct data_ingestion.source_URL")
    if code in (401, 403):
        raise SourceError(
            f"{answer}: it refuses you; use a link that needs no login, or download the file in a browser"
        )
    if code not in (200, 206):
        raise SourceError(f"{answer}; set data_ingestion.source_URL to the archive's direct link")


def _explain(error: requests.RequestException, shown: str, patience: Patience) -> SourceError:
    """Say in one line what went wrong on the network; transient where another try may help."""
    cause = error.args[0] if error.args else None
    reason = getattr(cause, "reason", cause)
    if isinstance(error, requests.exceptions.SSLError):
        return SourceError(
            f"{shown}: no trusted connection ({_short(reason)}); check the address and the clock"
        )
    if isinstance(error, requests.exceptions.ProxyError):
        return SourceError(
            f"{shown}: the proxy fails ({_short(reason)}); check HTTP_PROXY and HTTPS_PROXY"
        )
    if isinstance(error, requests.ConnectTimeout):
        return _TransientError(
            f"{shown}: no connection within {patience.connect_s:g} s; check the network, or raise "
            "data_ingestion.connect_timeout_s"
        )
    if isinstance(error, requests.ReadTimeout) or isinstance(
        cause, urllib3.exceptions.ReadTimeoutError
    ):
        return _TransientError(
            f"{shown}: the server sent nothing for {patience.read_s:g} s; run it again to go on, or raise "
            "data_ingestion.read_timeout_s"
        )
    if isinstance(reason, urllib3.exceptions.NameResolutionError):
        return _TransientError(
            f"{shown}: the host's name can't be resolved; check the network and the address"
        )
    if isinstance(reason, urllib3.exceptions.NewConnectionError):
        return _TransientError(
            f"{shown}: no connection ({_short(reason)}); check the network and the address"
        )
    if isinstance(error, (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        return _TransientError(
            f"{shown}: the connection broke ({_short(reason)}); run it again to go on"
        )
    return SourceError(f"{shown}: {_short(error)}; correct data_ingestion.source_URL")


def _short(reason: object) -> str:
    """Return an error's text on one line, without the connection object that urllib3 names first."""
    return re.sub(r"^\S*Connection\(.*?\): ", "", " ".join(str(reason).split()))


def _part_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _version_file(part).unlink(missing_ok=True)
