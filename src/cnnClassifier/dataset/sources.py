"""Obtain the images from whatever `source_URL` names."""

import hashlib
import re
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from cnnClassifier.dataset.download import (
    Patience,
    download_drive_file,
    download_drive_folder,
    download_http,
    drive_id,
    without_secrets,
)
from cnnClassifier.dataset.extraction import archive_trouble, unpack
from cnnClassifier.dataset.storage import disk_errors, exclusive
from cnnClassifier.entity.config_entity import DataIngestionConfig
from cnnClassifier.utils.common import sha256_of
from cnnClassifier.utils.errors import SourceError
from cnnClassifier.utils.log import logger

DRIVE_HOSTS = ("drive.google.com", "docs.google.com", "drive.usercontent.google.com")


class _WrongSha256Error(SourceError):
    """The archive isn't the one that was asked for."""


def obtain(config: DataIngestionConfig, scratch: Path) -> Path:
    """Bring the source to this disk.

    Archives are unpacked into `scratch`; downloads are kept in `config.download_dir`, so that a second run downloads
    nothing.

    Args:
        config: its `source_URL`, `source_sha256`, `download_dir`, timeouts and limits are used.
        scratch: a folder to make, that the caller removes.

    Returns:
        The folder with the images: `scratch`, or one that belongs to the user and must stay as it is.

    Raises:
        SourceError: in one line, what is wrong with the source and how to mend it.
    """
    url = config.source_URL.strip()
    kind = _kind(url)
    if kind == "phantom":
        return _phantom(url, config, scratch)
    source = _local(url, config.data_dir) if kind == "path" else _kept_download(url, kind, config)
    if source.is_dir():
        _refuse_sha256(config, "folder")
        return source
    if kind == "path":
        _check_local_archive(source, config.source_sha256)
    unpack(source, scratch, config.max_unpacked_bytes)
    return scratch


def source_name(url: str) -> str:
    """Return the source as messages name it, without secrets."""
    url = url.strip()
    return without_secrets(url) if _kind(url) in ("http", "drive") else url


def _kind(url: str) -> str:
    """Return `phantom`, `drive`, `http` or `path`."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        raise SourceError(
            f"{url}: no valid address ({error}); correct data_ingestion.source_URL"
        ) from None
    scheme = parts.scheme.lower()
    if scheme == "phantom":
        return "phantom"
    if scheme in ("http", "https"):
        return "drive" if host in DRIVE_HOSTS else "http"
    if scheme in ("", "file") or len(scheme) == 1 or "://" not in url:
        return "path"
    raise SourceError(
        f"{url}: {scheme}:// is not supported; data_ingestion.source_URL takes phantom:, a Google Drive link, "
        "an http(s) URL, or the path of an archive or a folder"
    )


def _phantom(url: str, config: DataIngestionConfig, scratch: Path) -> Path:
    try:
        from ct_phantom import parse_phantom, write_phantom
    except ModuleNotFoundError as error:
        raise SourceError(f"{url}: the phantom is not installed") from error
    _refuse_sha256(config, "phantom")
    try:
        options = parse_phantom(url)
    except ValueError as error:
        raise SourceError(str(error)) from None
    with disk_errors(scratch.parent):
        write_phantom(scratch, options)
    return scratch


def _local(url: str, data_dir: Path) -> Path:
    path = Path(
        url2pathname(urlsplit(url).path) if url.lower().startswith("file://") else url
    ).expanduser()
    with disk_errors(path):
        if not (path.is_file() or path.is_dir()):
            raise SourceError(f"{path}: no such file or folder; correct data_ingestion.source_URL")
        _refuse_overlap(path, data_dir)
    return path


def _refuse_overlap(source: Path, data_dir: Path) -> None:
    one, other = source.resolve(), data_dir.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise SourceError(
            f"{source}: it holds data_ingestion.data_dir ({data_dir}), or lies in it, and that folder is replaced; "
            "set one of them elsewhere"
        )


def _check_local_archive(path: Path, expected: str | None) -> None:
    with disk_errors(path):
        trouble = archive_trouble(path)
        if trouble:
            raise SourceError(
                f"{path}: it {trouble}; name an archive, or a folder of class folders, in data_ingestion.source_URL"
            )
        _check_sha256(path, expected)


def _kept_download(url: str, kind: str, config: DataIngestionConfig) -> Path:
    """Return the kept file or folder of this URL, downloaded if need be."""
    patience = Patience(config.connect_timeout_s, config.read_timeout_s, config.retries)
    identifier, is_folder = drive_id(url) if kind == "drive" else ("", False)
    if is_folder:
        _refuse_sha256(config, "folder")
    target = config.download_dir / (f"google-drive-{identifier}" if identifier else _file_name(url))
    if config.data_dir.resolve() in target.resolve().parents:
        raise SourceError(
            f"{config.download_dir}: data_ingestion.download_dir lies in data_dir, which is replaced; set it elsewhere"
        )
    with disk_errors(config.download_dir), exclusive(target):
        if target.exists():
            try:
                _check_sha256(target, config.source_sha256)
                logger.info("%s was downloaded before", target)
                return target
            except _WrongSha256Error as error:
                logger.warning("%s; downloading it again", error)
        if is_folder:
            download_drive_folder(identifier, target, patience)
        elif identifier:
            download_drive_file(identifier, target, patience)
        else:
            download_http(url, target, patience)
        _check_sha256(target, config.source_sha256)
    return target


def _file_name(url: str) -> str:
    """Return a name for the download that is this URL's own, and tells people what it is."""
    stem = re.sub(r"[^\w.-]+", "_", urlsplit(url).path.rpartition("/")[2])[-80:] or "download"
    return f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{stem}"


def _refuse_sha256(config: DataIngestionConfig, what: str) -> None:
    if config.source_sha256:
        raise SourceError(
            f"{config.source_URL}: a {what} has no sha256, only archives do; set data_ingestion.source_sha256 to null"
        )


def _check_sha256(path: Path, expected: str | None) -> None:
    if expected is None or path.is_dir():
        return
    found = sha256_of(path)
    if found != expected.lower():
        raise _WrongSha256Error(
            f"{path}: its sha256 is {found}, data_ingestion.source_sha256 says {expected}; correct that, or get the "
            "right archive"
        )
