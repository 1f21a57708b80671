"""Object stores: Amazon S3, Google Cloud, Azure, and the memory of this process, for tests."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from errno import EIO, ENOENT
from functools import lru_cache
from textwrap import shorten
from typing import TYPE_CHECKING

import numpy as np

from cnnClassifier.utils.errors import SourceError
from cnnClassifier.utils.redaction import redact_credentials, redact_url

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

STORES = ("s3://", "gs://", "az://")
CONNECTIONS = 16  # requests at a time: each waits for the network most of its time
_MEMORY = "memory://"
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS; gs://anonymous@… for a public bucket",
    "az": "AZURE_STORAGE_ACCOUNT, and AZURE_STORAGE_KEY or `az login`",
    "me": "none are needed",
}
# Without these, an upload takes three requests, and Google's client retries for 15 minutes.
_OPTIONS = {"s3": "allow_delayed_open=true", "gs": "retry_limit_seconds=20"}
_MAX_REASON_LENGTH = 300


def is_store(url: object) -> bool:
    """Return whether a URL names a file or a folder in an object store."""
    return isinstance(url, str) and url.lower().startswith((*STORES, _MEMORY))


def has_password(url: str) -> bool:
    """Return whether a URL has a password, which must not be written to a file."""
    user = url.partition("://")[2].partition("/")[0].rpartition("@")[0]
    return ":" in user


@contextmanager
def one_line_errors(name: str, hint: str) -> Iterator[None]:
    """Turn every error into a `SourceError`, except those of the disk, which name a file."""
    try:
        yield
    except Exception as error:  # the clients raise dozens of types, those of their HTTP libraries
        is_of_disk = isinstance(error, OSError) and error.errno and error.filename
        if isinstance(error, SourceError) or is_of_disk:
            raise
        reason = _reason(error)
        raise SourceError(f"{name}: {reason}; {hint}") from error


def store_hint(url: str) -> str:
    """Return what to check where a store refuses its service."""
    return f"check the address and the credentials ({_CREDENTIALS[url[:2].lower()]})"


def open_store(url: str) -> "tuple[FileSystem, str]":
    """Return the file system of a URL, opened once in each process, and the path in it.

    Raises:
        SourceError: the address or the credentials are incomplete.
    """
    with one_line_errors(redact_url(url), store_hint(url)):
        # A forked process must not use the connections of its parent.
        return _open_store(url, os.environ.get("AWS_ENDPOINT_URL", ""), os.getpid())


@lru_cache
def _open_store(url: str, endpoint: str, process: int) -> "tuple[FileSystem, str]":
    from pyarrow import fs

    scheme, _, path = url.partition("://")
    scheme = scheme.lower()
    if scheme == "memory":
        import fsspec

        memory = fs.FSSpecHandler(fsspec.filesystem("memory"))
        return fs.PyFileSystem(memory), f"/{path.strip('/')}"
    if scheme != "az":
        option = _OPTIONS[scheme]
        if option.partition("=")[0] not in url:
            url += f"{'&' if '?' in url else '?'}{option}"
        store, path = fs.FileSystem.from_uri(url)
        return store, path.rstrip("/")
    account = os.environ.get("AZURE_STORAGE_ACCOUNT")
    if not account:
        raise SourceError(
            f"{redact_url(url)}: set AZURE_STORAGE_ACCOUNT to the name of the storage account"
        )
    store = fs.AzureFileSystem(
        account,
        account_key=os.environ.get("AZURE_STORAGE_KEY"),
        sas_token=os.environ.get("AZURE_STORAGE_SAS_TOKEN"),
    )
    return store, path.rstrip("/")


@dataclass(frozen=True)
class RemoteFolder:
    """A folder in an object store. It can be sent to other processes, each of which connects anew.

    Attributes:
        url: of the folder.
    """

    url: str

    def list_files(self) -> "dict[str, FileInfo]":
        """Return all files below the folder by their relative path; none if there is no folder.

        Raises:
            SourceError: the store doesn't answer, or not to these credentials.
        """
        from pyarrow import fs

        with self._errors():
            store, folder = open_store(self.url)
            infos = store.get_file_info(
                fs.FileSelector(folder, allow_not_found=True, recursive=True)
            )
        start = len(folder) + 1
        return {info.path[start:]: info for info in infos if info.type == fs.FileType.File}

    def read(self, path: str, size: int = -1) -> bytes:
        """Return the content of a file, or its first bytes.

        Raises:
            OSError: there is no such file, or it can't be read while others can.
            SourceError: the store doesn't answer.
        """
        with self._errors_of_file(path):
            store, folder = open_store(self.url)
            # `compression` would unpack files that are named .gz.
            with store.open_input_stream(f"{folder}/{path}", compression=None) as stream:
                return bytes(stream.read(None if size < 0 else size))

    def read_into(self, path: str, target: np.ndarray, offset: int) -> None:
        """Fill an array with the bytes of a file that begin at an offset.

        Raises:
            OSError: there is no such file, or it is too short.
            SourceError: the store doesn't answer.
        """
        with self._errors_of_file(path):
            store, folder = open_store(self.url)
            with store.open_input_file(f"{folder}/{path}") as file:
                content = file.read_at(target.nbytes, offset)
            target[...] = np.frombuffer(content, target.dtype).reshape(target.shape)

    def write(self, path: str, content: np.ndarray) -> None:
        """Write a file, which others see once it is complete.

        Raises:
            SourceError: the store doesn't answer, or not to these credentials.
        """
        with self._errors():
            store, folder = open_store(self.url)
            with store.open_output_stream(f"{folder}/{path}", compression=None) as stream:
                stream.write(content)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with one_line_errors(redact_url(self.url), store_hint(self.url)):
            yield

    @contextmanager
    def _errors_of_file(self, path: str) -> Iterator[None]:
        """Tell a file that can't be read from a store that doesn't answer: ask for the folder."""
        from pyarrow import fs

        name = f"{redact_url(self.url).removesuffix('?…').rstrip('/')}/{path}"
        try:
            yield
        except (OSError, ValueError) as error:
            with self._errors():
                store, folder = open_store(self.url)
                if store.get_file_info(folder).type == fs.FileType.NotFound:
                    raise SourceError(
                        f"{redact_url(self.url)}: no such folder; {store_hint(self.url)}"
                    ) from error
            if isinstance(error, FileNotFoundError):
                raise FileNotFoundError(ENOENT, os.strerror(ENOENT), name) from error
            raise OSError(EIO, _reason(error), name) from error


def _reason(error: Exception) -> str:
    text = redact_credentials(" ".join(str(error).split()))
    return shorten(text, _MAX_REASON_LENGTH, placeholder=" …") or type(error).__name__
