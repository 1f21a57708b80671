"""Download a trained bundle, for a server that comes without one."""

import atexit
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from cnnClassifier.utils.common import format_size
from cnnClassifier.utils.errors import BundleError
from cnnClassifier.utils.http import check_sha256, download
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.redaction import redact_url
from cnnClassifier.utils.storage import disk_errors

MAX_BYTES = 2_000_000_000  # of the zip, and of its extracted files
# Damaged or truncated; an unknown compression or encrypted (RuntimeError); too large; two files of
# one name, which for `..` is a folder's.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    RuntimeError,
    ValueError,
    FileExistsError,
)


def download_bundle(url: str, sha256: str | None) -> Path:
    """Download a zip of a bundle folder, check it and extract it.

    Args:
        url: http or https; for a private S3 bucket a presigned one.
        sha256: expected hash of the zip, in hex.

    Returns:
        A temporary folder with the bundle; it is removed when the process ends.

    Raises:
        BundleError: the sha256 is missing, or the file is no zip of a bundle.
        DownloadError: the download fails, or the zip has another sha256.
        StorageError: the temporary folder is full.
    """
    name = redact_url(url)
    if not sha256:
        raise BundleError(
            f"{name}: --model-sha256 is missing (for --compare: --compare-sha256); set it to the "
            "hash that `sha256sum` prints for the zip of the expected model"
        )
    logger.info("downloading the model from %s", name)
    with (
        disk_errors(Path(tempfile.gettempdir())),
        tempfile.TemporaryDirectory(prefix="download-") as temp_dir,
    ):
        archive = Path(temp_dir, "bundle.zip")
        download(url, archive, max_bytes=MAX_BYTES)
        check_sha256(archive, sha256, name)
        folder = Path(tempfile.mkdtemp(prefix="model-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        try:
            _extract(archive, folder)
        except _ZIP_ERRORS as error:
            raise BundleError(
                f"{name}: not a zip of a bundle ({error}); zip the folder artifacts/training"
            ) from None
    return folder


def _extract(archive: Path, folder: Path) -> None:
    """Extract the files without their folders: a bundle has none but, at most, its own."""
    with zipfile.ZipFile(archive) as bundle:
        members = [member for member in bundle.infolist() if not member.is_dir()]
        if sum(member.file_size for member in members) > MAX_BYTES:
            raise ValueError(f"extracts to more than {format_size(MAX_BYTES)}")
        for member in members:
            target = folder / PurePosixPath(member.filename).name
            with bundle.open(member) as source, target.open("xb") as file:
                shutil.copyfileobj(source, file)
