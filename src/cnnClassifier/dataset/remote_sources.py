"""Download data sets from Kaggle, the Hugging Face Hub, Amazon S3, Google Cloud and Azure."""

import importlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import joblib

from cnnClassifier.dataset.extraction import safe_path
from cnnClassifier.dataset.image_table import is_table
from cnnClassifier.imaging.dicom_header import MAGIC_BYTES, is_dicom
from cnnClassifier.imaging.file_names import has_suffix, is_image
from cnnClassifier.utils.common import create_directories
from cnnClassifier.utils.errors import SourceError
from cnnClassifier.utils.object_store import (
    CONNECTIONS,
    RemoteFolder,
    is_store,
    one_line_errors,
    open_store,
    store_hint,
)
from cnnClassifier.utils.progress import progress
from cnnClassifier.utils.redaction import redact_url
from cnnClassifier.utils.source_files import SourceFile

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

HUBS = ("kaggle:", "hf:")
_CHUNK_BYTES = 1 << 20


def is_hub(url: str) -> bool:
    """Return whether a URL names a data set of Kaggle or of the Hugging Face Hub."""
    return url.lower().startswith(HUBS)


def download_dataset(url: str, target: Path) -> None:
    """Download a data set to a folder, or the single file that the URL of a store names.

    Files that an interrupted download left in `target` are kept, except for Kaggle.

    Args:
        url: `kaggle:owner/name`, `hf:owner/name`, or one of an object store.
        target: path in an existing folder.

    Raises:
        SourceError: a package is missing, or the data set can't be downloaded.
        OSError: a file can't be written.
    """
    scheme, _, name = url.partition(":")
    if is_store(url):
        _download_from_store(url, target)
    elif scheme.lower() == "kaggle":
        _download_from_kaggle(name, target)
    else:
        _download_from_hugging_face(name, target)


def _download_from_kaggle(name: str, target: Path) -> None:
    kagglehub = _import("kagglehub", "kaggle:")
    hint = "expected kaggle:owner/name; a private data set needs KAGGLE_API_TOKEN"
    with one_line_errors(f"kaggle:{name}", hint):
        # It continues no partial download, but refuses a folder that has files.
        kagglehub.dataset_download(name, output_dir=str(target), force_download=True)


def _download_from_hugging_face(name: str, target: Path) -> None:
    """Download the data set `owner/name`, or one revision of it, `owner/name@revision`."""
    hub = _import("huggingface_hub", "hf:")
    repository, _, revision = name.partition("@")
    hint = "expected hf:owner/name or hf:owner/name@revision; a private data set needs HF_TOKEN"
    with one_line_errors(f"hf:{name}", hint):
        # Without a connection `snapshot_download` returns a partial folder and no error.
        info = hub.HfApi().dataset_info(repository, revision=revision or None)
        hub.snapshot_download(
            repository, repo_type="dataset", revision=info.sha, local_dir=str(target)
        )
        for file in info.siblings:
            if not (target / file.rfilename).is_file():
                raise SourceError(f"hf:{name}: {file.rfilename} wasn't received; run it again")


def _download_from_store(url: str, target: Path) -> None:
    """Download a file, or the images and tables below a folder, several at a time."""
    from pyarrow import fs

    name = redact_url(url)
    hint = store_hint(url)
    with one_line_errors(name, hint):
        store, path = open_store(url)
        info = store.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            raise SourceError(f"{name}: no such file or folder; {hint}")
        if info.type == fs.FileType.File:
            _copy(store, info, target)
            return
        jobs = []
        for file in store.get_file_info(fs.FileSelector(path, recursive=True)):
            relative = safe_path(file.path[len(path) :].lstrip("/"), name)
            is_needed = is_image(relative) or is_table(relative)
            if file.type == fs.FileType.File and is_needed:
                jobs.append(joblib.delayed(_copy)(store, file, target / relative))
        if not jobs:
            raise SourceError(f"{name}: contains no image; check the folder")
        copies = joblib.Parallel(CONNECTIONS, backend="threading", return_as="generator")(jobs)
        for _ in progress(copies, total=len(jobs), desc="download", unit="file"):
            pass


def list_remote_images(folder: RemoteFolder) -> dict[PurePosixPath, SourceFile]:
    """Return the images below a folder of an object store by their relative path, sorted.

    Of a file without a suffix the first bytes are read: it is an image if it is a DICOM file.

    Raises:
        SourceError: the store doesn't answer, or there is no image.
    """
    name, hint = redact_url(folder.url), store_hint(folder.url)
    infos = folder.list_files()
    if not infos:
        raise SourceError(
            f"{name}: no such folder, or an empty one; {hint}; of an archive or a table "
            "data_ingestion.copy has to be true"
        )
    images = {}
    unknown = []
    for path, info in infos.items():
        image = safe_path(path, name)
        if is_image(image):
            images[image] = SourceFile(str(image), path, info.size, info.mtime_ns or 0)
            if not has_suffix(image):
                unknown.append(image)
    with one_line_errors(name, hint), ThreadPoolExecutor(CONNECTIONS) as pool:
        starts = pool.map(lambda image: folder.read(images[image].source, MAGIC_BYTES), unknown)
        for image, start in zip(unknown, list(starts), strict=True):
            if not is_dicom(start):
                del images[image]
    return dict(sorted(images.items()))


def _copy(store: "FileSystem", info: "FileInfo", target: Path) -> None:
    """Copy a file, unless an interrupted download has copied it."""
    if target.is_file() and target.stat().st_size == info.size:
        return
    create_directories(target.parent)
    with store.open_input_stream(info.path) as source, target.open("wb") as file:
        while chunk := source.read(_CHUNK_BYTES):
            file.write(chunk)


def _import(package: str, scheme: str) -> Any:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise SourceError(
            f"{scheme} needs the package {package}; run `pip install -r requirements-sources.txt`"
        ) from error
