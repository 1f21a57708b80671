"""Get the images from `source_URL`: a generator, a download, an archive, a folder or a table."""

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from cnnClassifier.dataset.extraction import archive_error, extract_images
from cnnClassifier.dataset.image_table import is_table
from cnnClassifier.dataset.remote_sources import HUBS, download_dataset, is_hub
from cnnClassifier.entity.config_entity import DataIngestionConfig
from cnnClassifier.entity.disclaimers import is_synthetic
from cnnClassifier.utils import http
from cnnClassifier.utils.common import sha256_of
from cnnClassifier.utils.errors import SourceError
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.object_store import STORES, RemoteFolder, has_password, is_store
from cnnClassifier.utils.progress import progress
from cnnClassifier.utils.redaction import redact_url
from cnnClassifier.utils.storage import disk_errors, exclusive_lock

Options = TypeVar("Options")
_DRIVE_URL = re.compile(r"https?://(drive|docs|drive\.usercontent)\.google\.com/", re.IGNORECASE)


def fetch_images(
    config: DataIngestionConfig, temp_dir: Path, replaced_dir: Path | None = None
) -> Path:
    """Bring the images of `source_URL` to a local folder.

    Downloads are kept in `config.download_dir`, so that a second run downloads nothing.

    Args:
        config: source, hash, folders, timeouts and limits.
        temp_dir: for extracted or generated images; created if needed, removed by the caller.
        replaced_dir: the caller replaces it by the images: it must not overlap with the source.

    Returns:
        The folder with the images: `temp_dir`, or a folder or a table of the user, which must not
        be changed.

    Raises:
        SourceError: the source is unknown, missing, damaged or not allowed, or needs a package.
        DownloadError: the download fails, or the archive has another sha256.
        StorageError: a file can't be read or written.
    """
    url = config.source_URL.strip()
    if is_synthetic(url) or _is_drive_folder(url) or is_hub(url):
        _refuse_sha256(url, config)
    if is_synthetic(url):
        _generate(url, temp_dir)
        return temp_dir
    is_remote = url.lower().startswith(("http://", "https://")) or is_hub(url) or is_store(url)
    path = _download(url, config) if is_remote else _find_local(url, replaced_dir)
    with disk_errors(path):
        if path.is_dir() or (is_table(path) and not is_remote):
            _refuse_sha256(url, config)
            return path
        reason = archive_error(path)
        if reason:
            raise SourceError(
                f"{path}: it {reason}; set data_ingestion.source_URL to an archive (for a "
                "download: its direct link), a folder of class folders, or a .csv or .parquet file"
            )
        if config.source_sha256:
            http.check_sha256(path, config.source_sha256, path)
        extract_images(path, temp_dir, config.max_unpacked_bytes)
    return temp_dir


def locate_images(config: DataIngestionConfig, replaced_dir: Path) -> Path | RemoteFolder:
    """Return the folder or the table of `source_URL`, whose images stay where they are.

    Args:
        config: source and hash.
        replaced_dir: the caller replaces it: it must not overlap with the source.

    Raises:
        SourceError: the source is missing, or its images have to be copied.
    """
    url = config.source_URL.strip()
    name = redact_url(url)
    _refuse_sha256(url, config)
    if is_store(url):
        if has_password(url):  # the list of the files has the URL
            raise SourceError(f"{name}: set the password in the environment, not in the URL")
        return RemoteFolder(url)
    hint = "only a folder, or a table of local files, can be used in place; set it to true"
    if is_hub(url) or url.lower().startswith(("http://", "https://")):
        raise SourceError(f"{name}: data_ingestion.copy is false: {hint}")
    path = _find_local(url, replaced_dir)
    if path.is_file() and not is_table(path):
        raise SourceError(f"{name}: data_ingestion.copy is false: {hint}")
    return path


def _refuse_sha256(url: str, config: DataIngestionConfig) -> None:
    if config.source_sha256:
        raise SourceError(
            f"{redact_url(url)}: only an archive has a sha256; "
            "set data_ingestion.source_sha256 to null"
        )


def _generate(url: str, folder: Path) -> None:
    """Write synthetic images. A generator is a package of its own, which may have been deleted."""
    try:
        _GENERATORS[url.partition(":")[0]](url, folder)
    except ModuleNotFoundError as error:
        raise SourceError(
            f"{url}: its generator is not installed; set data_ingestion.source_URL to your data"
        ) from error


# begin: medical projects
def _write_phantom(url: str, folder: Path) -> None:
    from ct_phantom import parse_phantom, write_phantom

    options = _parse(parse_phantom, url)
    with progress(desc="phantom", total=options.patients, unit="patient") as bar:
        write_phantom(folder, options, on_patient=bar.update)


# end: medical projects


def _write_patterns(url: str, folder: Path) -> None:
    from image_patterns import parse_patterns, write_patterns

    options = _parse(parse_patterns, url)
    total = len(options.classes) * options.groups
    with progress(desc="patterns", total=total, unit="group") as bar:
        write_patterns(folder, options, on_group=bar.update)


def _parse(parse: Callable[[str], Options], url: str) -> Options:
    try:
        return parse(url)
    except ValueError as error:
        raise SourceError(str(error)) from None


# Keys: the schemes of `is_synthetic`. To remove a generator, delete its package and its line.
_GENERATORS = {
    # begin: medical projects
    "phantom": _write_phantom,
    # end: medical projects
    "patterns": _write_patterns,
}


def _find_local(url: str, replaced_dir: Path | None) -> Path:
    """Return an existing file or folder that doesn't overlap with `replaced_dir`."""
    path = Path(url).expanduser()
    if url.lower().startswith("file://"):
        path = Path(url2pathname(urlsplit(url).path))
    elif "://" in url:
        schemes = ", ".join([*(f"{name}:" for name in _GENERATORS), *HUBS, *STORES])
        raise SourceError(
            f"{redact_url(url)}: unknown scheme; data_ingestion.source_URL takes {schemes}, a "
            "Google Drive link, an http(s) URL, or the path of an archive, a folder or a table"
        )
    with disk_errors(path):
        source = path.resolve(strict=True)
    if replaced_dir is None:
        return path
    target = replaced_dir.resolve()
    if source.is_relative_to(target) or target.is_relative_to(source):
        raise SourceError(
            f"{path}: it contains data_ingestion.data_dir ({replaced_dir}), or is inside of it, "
            "and that folder is replaced; change one of them"
        )
    return path


def _download(url: str, config: DataIngestionConfig) -> Path:
    """Return the downloaded archive or folder."""
    # A readable name that is unique for the URL.
    name = re.sub(r"[^\w.-]+", "_", url.partition("?")[0].rpartition("/")[2])[-80:] or "download"
    target = config.download_dir / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}"
    if target.resolve().is_relative_to(config.data_dir.resolve()):
        raise SourceError(
            f"{config.download_dir}: data_ingestion.download_dir is inside of data_dir, which is "
            "replaced; change one of them"
        )
    with disk_errors(target), exclusive_lock(target):
        if _is_valid(target, config.source_sha256):
            logger.info("using the downloaded %s", target)
            return target
        target.unlink(missing_ok=True)  # gdown keeps an existing file
        part = target.with_name(f"{target.name}.part")
        if _DRIVE_URL.match(url):
            _download_from_drive(url, part, config)
            os.replace(part, target)
            return target
        if is_hub(url) or is_store(url):
            download_dataset(url, part)
            os.replace(part, target)
            return target
        with progress(desc="download", unit="B", unit_scale=True) as bar:

            def update(received: int, total: int | None) -> None:
                bar.total = total
                bar.update(received - bar.n)

            http.download(
                url,
                target,
                timeout_s=config.read_timeout_s,
                retries=config.retries,
                on_progress=update,
            )
    return target


def _is_valid(path: Path, sha256: str | None) -> bool:
    """Tell whether a download is already there."""
    if not path.is_file():
        return path.is_dir()
    return not archive_error(path) and (sha256 is None or sha256_of(path) == sha256.lower())


def _download_from_drive(url: str, part: Path, config: DataIngestionConfig) -> None:
    """Download a file or a folder; gdown resumes it and shows the progress."""
    import gdown
    import requests

    fetch = gdown.download_folder if _is_drive_folder(url) else gdown.download
    try:
        fetch(
            url=url,
            output=str(part),
            resume=True,
            timeout=(config.connect_timeout_s, config.read_timeout_s),
            retries=config.retries,
        )
    except (gdown.exceptions.DownloadError, requests.RequestException) as error:
        raise SourceError(
            f"{url}: {' '.join(str(error).split())}; check the network, and share it with 'Anyone "
            "with the link'; if its download quota is used up, wait a day, or download it in a "
            "browser and set data_ingestion.source_URL to the file"
        ) from error


def _is_drive_folder(url: str) -> bool:
    return _DRIVE_URL.match(url) is not None and "/folders/" in url
