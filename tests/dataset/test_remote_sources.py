"""Kaggle, the Hugging Face Hub and object stores, each by its own client and a local server."""

import json
import logging
import os
import re
import shutil
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest
from pyarrow import fs

from cnnClassifier.dataset import remote_sources
from cnnClassifier.dataset.sources import fetch_images
from cnnClassifier.entity.config_entity import DataIngestionConfig
from cnnClassifier.utils.errors import UserError
from tests.archives import IMAGES, ingestion_options, read_files, write_files, zip_of
from tests.object_stores import SECRET, s3_server

COMMIT = "c" * 40
KAGGLE_PORT = 7777  # the client's own, for tests


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    """Credentials that must show nowhere, and a home folder for the clients' own files."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "HF_", "KAGGLE")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "KAGGLE_API_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def fetch(tmp_path):
    """Fetch a source and return its images by their path."""

    def run(url: str, **changes) -> dict[str, bytes]:
        config = DataIngestionConfig(**ingestion_options(tmp_path, url, retries=0, **changes))
        files = read_files(fetch_images(config, tmp_path / "temp"))
        return {name: content for name, content in files.items() if not name.startswith(".")}

    return run


@pytest.fixture
def error_of(fetch, capfd, caplog):
    def run(url: str, **changes) -> str:
        with caplog.at_level(logging.DEBUG), pytest.raises(UserError) as raised:
            fetch(url, **changes)
        message = str(raised.value)
        assert "\n" not in message
        assert SECRET not in message + caplog.text
        return message

    return run


@contextmanager
def serving(respond, port=0):
    """Serve on loopback: `respond(path, headers)` returns status, headers and body."""
    requested = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            requested.append(f"{self.command} {self.path}")
            status, headers, body = respond(unquote(urlsplit(self.path).path))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_POST = answer

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", requested
        finally:
            server.shutdown()


# ---- Hugging Face Hub


def hub_of(files: dict[str, bytes]):
    """Return the responses of a hub with one data set, `me/scans`."""
    siblings = [{"rfilename": name} for name in files]
    info = {"id": "me/scans", "sha": COMMIT, "siblings": siblings}
    tree = []
    for name, content in files.items():
        tree.append({"type": "file", "path": name, "size": len(content), "oid": "0" * 40})

    def respond(path):
        if re.fullmatch(r"/api/datasets/me/scans(/revision/(v1|c+))?", path):
            return 200, {"Content-Type": "application/json"}, json.dumps(info).encode()
        if path == f"/api/datasets/me/scans/tree/{COMMIT}":
            return 200, {"Content-Type": "application/json"}, json.dumps(tree).encode()
        name = path.removeprefix(f"/datasets/me/scans/resolve/{COMMIT}/")
        if files.get(name):
            return 200, {"ETag": '"0123abcd"', "X-Repo-Commit": COMMIT}, files[name]
        return 404, {}, b""

    return respond


@pytest.fixture
def set_hub(monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")

    def run(url):  # what HF_ENDPOINT sets when the package is imported
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    return run


@pytest.mark.parametrize("revision", ["", "@v1"])
def test_a_data_set_of_hugging_face_is_downloaded_once(fetch, set_hub, revision):
    with serving(hub_of(IMAGES)) as (url, requested):
        set_hub(url)
        assert fetch(f"hf:me/scans{revision}") == IMAGES
        count = len(requested)
        assert fetch(f"hf:me/scans{revision}") == IMAGES
        assert len(requested) == count


def test_errors_of_hugging_face_and_an_incomplete_folder(error_of, fetch, set_hub, tmp_path):
    files = IMAGES | {"scans/normal/lost.png": b""}
    with serving(hub_of(files)) as (url, _):
        set_hub(url)
        assert "404" in error_of("hf:me/absent")
        assert "expected hf:owner/name" in error_of("hf:me/scans/too/long")
        assert "hf:me/scans: " in error_of("hf:me/scans")
    # The hub is down, and the folder of the interrupted download isn't taken for the data set.
    assert "hf:me/scans: " in error_of("hf:me/scans")
    assert [path.suffix for path in (tmp_path / "downloads").glob("[!.]*")] == [".part"]
    assert "only an archive has a sha256" in error_of("hf:me/scans", source_sha256="0" * 64)


# ---- Kaggle


def test_a_data_set_of_kaggle_is_downloaded_once(fetch, error_of, monkeypatch, tmp_path):
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "TEST")
    monkeypatch.setenv("KAGGLE_LOGGING_ENABLED", "0")
    pytest.importorskip("kagglehub")
    statuses = [404, 401, 200, 500, 200]

    def respond(path):
        if statuses and statuses[0] != 200:
            return statuses.pop(0), {}, b""
        if path.endswith("/GetDataset"):
            del statuses[:1]
            return 200, {}, json.dumps({"currentVersionNumber": 1}).encode()
        return 200, {"Content-Type": "application/zip"}, zip_of(IMAGES)

    try:
        with serving(respond, KAGGLE_PORT) as (_, requested):
            assert "404 Client Error" in error_of("kaggle:me/scans")
            assert "a private data set needs KAGGLE_API_TOKEN" in error_of("kaggle:me/scans")
            assert "Invalid dataset handle" in error_of("kaggle:scans")
            assert "500 Server Error" in error_of("kaggle:me/scans")
            write_files(next((tmp_path / "downloads").glob("*.part")), {"old/rest.png": b"x"})
            assert fetch("kaggle:me/scans") == IMAGES
            count = len(requested)
            assert fetch("kaggle:me/scans") == IMAGES
            assert len(requested) == count
    except OSError as error:
        pytest.skip(f"port {KAGGLE_PORT}: {error}")


# ---- Object stores


@pytest.fixture(scope="module")
def s3():
    """Return the address of moto's S3, which has a bucket."""
    objects = {
        **IMAGES,
        "scans/normal/": b"",
        "scans/notes.txt": b"x",
        "scans/labels.csv": b"path,label",
        "texts/a.txt": b"x",
        "scans.zip": zip_of(IMAGES),
    }
    with s3_server(objects) as url:
        yield url


def test_a_folder_and_an_archive_in_s3(s3, fetch, error_of, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    in_folder = {name.removeprefix("scans/"): content for name, content in IMAGES.items()}
    in_folder["labels.csv"] = b"path,label"
    assert fetch("s3://clinic/scans") == in_folder
    assert fetch("s3://clinic/scans.zip") == IMAGES
    assert "no such file or folder" in error_of("s3://clinic/absent")
    assert "contains no image" in error_of("s3://clinic/texts")
    assert "only an archive has a sha256" in error_of("s3://clinic/scans", source_sha256="0" * 64)
    # The second run needs no server.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert fetch("s3://clinic/scans") == in_folder
    shutil.rmtree(tmp_path / "temp")
    assert fetch("s3://clinic/scans.zip") == IMAGES
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    message = error_of(f"s3://id:{SECRET}@clinic/other?scheme=http")
    assert message.startswith("s3://clinic/other?…: ")
    assert "AWS_ACCESS_KEY_ID" in message


def test_a_folder_in_google_cloud(fetch, error_of):
    items = []
    for name, content in IMAGES.items():
        items.append({"kind": "storage#object", "name": name, "bucket": "clinic"})
        items[-1]["size"] = str(len(content))

    def respond(path):
        if path == "/storage/v1/b/clinic/o":
            return 200, {"Content-Type": "application/json"}, json.dumps({"items": items}).encode()
        name = path.removeprefix("/storage/v1/b/clinic/o/")
        return (200, {}, IMAGES[name]) if name in IMAGES else (404, {}, b"{}")

    with serving(respond) as (url, _):
        query = f"scheme=http&endpoint_override={url.removeprefix('http://')}"
        in_folder = {name.removeprefix("scans/"): content for name, content in IMAGES.items()}
        assert fetch(f"gs://anonymous@clinic/scans?{query}") == in_folder
        assert fetch(f"gs://anonymous@clinic/scans?{query}") == in_folder
    message = error_of(
        "gs://anonymous@clinic/x?endpoint_override=127.0.0.1:9&retry_limit_seconds=1"
    )
    assert message.startswith("gs://clinic/x?…: ")


def test_an_interrupted_download_copies_the_rest(monkeypatch, fetch, error_of, tmp_path):
    write_files(tmp_path / "store/bucket", IMAGES)
    store = fs.SubTreeFileSystem(str(tmp_path / "store"), fs.LocalFileSystem())
    copied = []

    class Store:
        get_file_info = store.get_file_info

        def open_input_stream(self, path):
            copied.append(path)
            if len(copied) == 2:
                raise OSError("AWS Error NETWORK_CONNECTION: the connection broke")
            return store.open_input_stream(path)

    monkeypatch.setattr(remote_sources, "CONNECTIONS", 1)
    monkeypatch.setattr(remote_sources, "open_store", lambda url: (Store(), "bucket"))
    assert "the connection broke; check the address" in error_of("gs://bucket")
    assert fetch("gs://bucket") == IMAGES
    assert sorted({*copied}) == sorted(f"bucket/{name}" for name in IMAGES)
    assert len(copied) == len(IMAGES) + 1


def test_azure_takes_the_account_from_the_environment(monkeypatch, fetch, error_of, tmp_path):
    assert "set AZURE_STORAGE_ACCOUNT to" in error_of("az://clinic/scans")
    write_files(tmp_path / "clinic", IMAGES)
    options = {}

    def open_azure(account, **given):
        options.update(given, account=account)
        return fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())

    monkeypatch.setattr(fs, "AzureFileSystem", open_azure)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "hospital")
    monkeypatch.setenv("AZURE_STORAGE_KEY", SECRET)
    assert fetch("az://clinic/scans/") == {
        name.removeprefix("scans/"): content for name, content in IMAGES.items()
    }
    assert options == {"account": "hospital", "account_key": SECRET, "sas_token": None}


@pytest.mark.parametrize(
    ("url", "package"), [("kaggle:me/scans", "kagglehub"), ("hf:me/scans", "huggingface_hub")]
)
def test_a_missing_package_is_named(error_of, monkeypatch, url, package):
    monkeypatch.setitem(sys.modules, package, None)
    message = error_of(url)
    assert f"needs the package {package}; run `pip install -r requirements-sources.txt`" in message
