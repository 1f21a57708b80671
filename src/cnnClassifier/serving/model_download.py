"""Fetch a trained bundle from the web, for a server that comes without one."""

import atexit
import hashlib
import http.client
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from cnnClassifier.utils.common import format_size
from cnnClassifier.utils.errors import BundleError
from cnnClassifier.utils.log import logger

MAX_BYTES = 2_000_000_000  # of the zip, and of what it unpacks to
_TIMEOUT_S = 60.0  # without a byte
_CHUNK = 1 << 20
# Damaged, cut off, in a compression that zipfile lacks, encrypted (both RuntimeErrors), or what `_unpack` refuses.
_NO_BUNDLE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError)


def fetch_bundle(url: str, sha256: str | None) -> Path:
    """Download a zip of a bundle folder, check it, and unpack it.

    Args:
        url: http or https; of a private S3 bucket a presigned one.
        sha256: of the zip, in hex.

    Returns:
        A temporary folder with the bundle; it goes away when the process ends.

    Raises:
        BundleError: no or another sha256, nothing to download, no room for it, or not a zip of a bundle.
    """
    shown = url.partition("?")[0]
    if not sha256:
        raise BundleError(
            f"{shown}: say which model you expect: --model-sha256, as `sha256sum` prints it of the zip"
        )
    try:
        folder = Path(tempfile.mkdtemp(prefix="model-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        with tempfile.TemporaryFile() as packed:
            found = _download(url, shown, packed)
            if found != sha256.lower():
                raise BundleError(
                    f"{shown}: its sha256 is {found}, --model-sha256 says {sha256}; say that one if it is right"
                )
            try:
                _unpack(packed, folder)
            except _NO_BUNDLE as error:
                raise BundleError(
                    f"{shown}: not a zip of a bundle ({error}); zip the folder artifacts/training"
                ) from None
    except OSError as error:
        raise BundleError(
            f"{tempfile.gettempdir()}: can't keep the model there ({error.strerror or error}); free some space, or set "
            "TMPDIR to a folder on another disk"
        ) from None
    return folder


def _download(url: str, shown: str, target: IO[bytes]) -> str:
    logger.info("downloading the model from %s", shown)
    digest, size = hashlib.sha256(), 0
    for chunk in _chunks(url, shown):
        size += len(chunk)
        if size > MAX_BYTES:
            raise BundleError(f"{shown}: larger than {format_size(MAX_BYTES)}: that is no bundle")
        digest.update(chunk)
        target.write(chunk)
    target.flush()
    return digest.hexdigest()


def _chunks(url: str, shown: str) -> Iterator[bytes]:
    """Yield what the server sends; a fault of whoever takes it isn't the network's."""
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - app.py lets http(s) alone pass
            while chunk := answer.read(_CHUNK):
                yield chunk
    except urllib.error.HTTPError as error:
        raise BundleError(
            f"{shown}: the server answers {error.code} {error.reason}; check --model"
        ) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise BundleError(
            f"{shown}: can't be downloaded ({reason}); check --model and the network"
        ) from None


def _unpack(packed: IO[bytes], folder: Path) -> None:
    """Unpack the files without their folders: a bundle has none, and a zip of it at most the one around it."""
    with zipfile.ZipFile(packed) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        if sum(member.file_size for member in members) > MAX_BYTES:
            raise ValueError(f"unpacks to more than {format_size(MAX_BYTES)}")
        for member in members:
            target = folder / PurePosixPath(member.filename).name
            if target.exists():
                raise ValueError(f"two files are called {target.name}")
            with archive.open(member) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file)
