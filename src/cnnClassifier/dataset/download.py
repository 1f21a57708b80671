"""Download an archive over HTTP, or a file or folder from Google Drive; all are resumed."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cnnClassifier.utils import http
from cnnClassifier.utils.errors import SourceError
from cnnClassifier.utils.progress import progress

_DRIVE_URL = re.compile(r"https?://(drive|docs|drive\.usercontent)\.google\.com/", re.IGNORECASE)


def is_drive_folder(url: str) -> bool:
    """Tell whether a URL is the link to a Google Drive folder."""
    return _DRIVE_URL.match(url) is not None and "/folders/" in url


def download(url: str, target: Path, timeout: tuple[float, float], retries: int) -> None:
    """Download a file or a Google Drive folder to `target`, which appears only when it is complete.

    Args:
        url: http or https.
        target: a path in an existing folder; partial downloads are kept beside it.
        timeout: seconds to connect, and seconds without a byte.
        retries: number of failures in a row before the download fails.

    Raises:
        DownloadError: the download failed.
        SourceError: Google Drive refuses it, or there is no network to it.
        OSError: a file can't be written.
    """
    if is_drive_folder(url):
        part = target.with_name(f"{target.name}.part")
        with _drive_errors(url) as gdown:
            # Not quiet: gdown shows its own progress.
            gdown.download_folder(
                url=url, output=str(part), resume=True, timeout=timeout, retries=retries
            )
        os.replace(part, target)
        return
    with progress(desc="download", unit="B", unit_scale=True) as bar:

        def update(received: int, total: int | None) -> None:
            bar.total = total
            bar.update(received - bar.n)

        if not _DRIVE_URL.match(url):
            http.download(url, target, timeout=timeout, retries=retries, on_progress=update)
            return
        with _drive_errors(url) as gdown:
            gdown.download(
                url=url,
                output=str(target),
                quiet=True,
                resume=True,
                timeout=timeout,
                retries=retries,
                progress=update,
            )


@contextmanager
def _drive_errors(url: str) -> Iterator:
    """Yield the module gdown; turn its errors into a `SourceError`."""
    import gdown
    import requests

    try:
        yield gdown
    except (gdown.exceptions.DownloadError, requests.RequestException) as error:
        raise SourceError(
            f"{url}: {' '.join(str(error).split())}; check the network, and share it with 'Anyone "
            "with the link'; if its download quota is used up, wait a day, or download it in a "
            "browser and set data_ingestion.source_URL to the file"
        ) from error
