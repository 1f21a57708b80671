import hashlib
import importlib
import sys
from pathlib import Path

import gdown
import pytest
import requests

from cnnClassifier.dataset.sources import fetch_images
from cnnClassifier.entity.config_entity import DataIngestionConfig
from cnnClassifier.utils.common import sha256_of
from cnnClassifier.utils.errors import UserError
from tests.archives import IMAGES, ingestion_options, read_files, tar_of, write_files, zip_of
from tests.loopback import Site, serving
from tests.project import ROOT

FILE_LINK = "https://drive.google.com/file/d/1AbC-d_9/view?usp=sharing"
FOLDER_LINK = "https://drive.google.com/drive/folders/1AbC-d_9"
WRONG_SHA256 = "0" * 64


@pytest.fixture
def fetch(tmp_path):
    """Fetch a source and return its files."""

    def run(url: str, **changes) -> dict[str, bytes]:
        config = DataIngestionConfig(**ingestion_options(tmp_path, url, retries=0, **changes))
        return read_files(fetch_images(config, tmp_path / "temp", config.data_dir))

    return run


def error_of(fetch, url: str, **changes) -> str:
    with pytest.raises(UserError) as raised:
        fetch(url, **changes)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_path_of_an_archive(tmp_path, fetch):
    path = tmp_path / "my scans.tgz"
    path.write_bytes(tar_of(IMAGES, "gz"))
    for url in (str(path), f" {path} ", path.as_uri()):
        assert fetch(url, source_sha256=sha256_of(path).upper()) == IMAGES


def test_a_local_folder_is_used_in_place(tmp_path, fetch):
    write_files(tmp_path / "mine", {"a/1.png": b"x"})
    assert fetch(str(tmp_path / "mine")) == {"a/1.png": b"x"}
    assert not (tmp_path / "temp").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{}/absent.zip", "absent.zip: No such file or directory"),
        ("{}/notes.txt", "is not a complete archive"),
        ("{}/page.zip", "is a web page"),
        ("{}/artifacts", "contains data_ingestion.data_dir"),
        ("{}/artifacts/data/deeper", "or is inside of it"),
        ("{}/artifacts/data/kept.zip", "or is inside of it"),
        ("ftp://host/scans.zip", "unknown scheme; data_ingestion.source_URL takes "),
        ("http://[broken/scans.zip", "Invalid IPv6 URL; check the URL"),
    ],
)
def test_an_error_says_what_to_correct(tmp_path, fetch, source, message):
    write_files(tmp_path / "artifacts/data", {"deeper/a.png": b"x", "kept.zip": b"x"})
    write_files(tmp_path, {"notes.txt": b"x", "page.zip": b"<html>"})
    assert message in error_of(fetch, source.format(tmp_path))


@pytest.mark.parametrize("source", ["{}/mine", FOLDER_LINK, "phantom:", "patterns:"])
def test_only_an_archive_has_a_sha256(tmp_path, fetch, source):
    (tmp_path / "mine").mkdir()
    message = error_of(fetch, source.format(tmp_path), source_sha256=WRONG_SHA256)
    assert "only an archive has a sha256" in message


@pytest.mark.parametrize(
    ("scheme", "package", "key"),
    [("phantom", "ct_phantom", "patients"), ("patterns", "image_patterns", "groups")],
)
def test_images_are_generated_if_the_package_is_installed(fetch, monkeypatch, scheme, package, key):
    if not (ROOT / "src" / package).is_dir():
        pytest.skip("a project without this generator")
    module = importlib.import_module(package)

    def write(folder, options, **callback):
        write_files(folder, {"normal/a.png": b"%d" % getattr(options, key)})
        for on_step in callback.values():
            on_step()

    monkeypatch.setattr(module, f"write_{scheme}", write)
    assert fetch(f" {scheme}:{key}=4") == {"normal/a.png": b"4"}
    assert f"{scheme}: {key}: expected a whole number" in error_of(fetch, f"{scheme}:{key}=1")
    monkeypatch.setitem(sys.modules, package, None)
    assert f"{scheme}:: its generator is not installed" in error_of(fetch, f"{scheme}:")


def test_a_second_run_downloads_nothing(fetch, tmp_path):
    with serving(Site(zip_of(IMAGES))) as site:
        assert fetch(site.url) == IMAGES
        assert fetch(site.url) == IMAGES
        assert len(site.requested) == 1
        fetch(site.url + "?other")
        assert len(site.requested) == 2
    names = [path.name for path in (tmp_path / "downloads").glob("[!.]*")]
    assert len(names) == 2
    assert all(name.endswith("-scans.zip") for name in names)


def test_a_web_page_and_a_file_with_another_sha256_are_downloaded_again(fetch, tmp_path):
    with serving(Site(b"<!DOCTYPE html>log in first")) as site:
        assert "is a web page, not an archive" in error_of(fetch, site.url)
        site.content = zip_of({"old/a.png": b"x"})
        fetch(site.url)
        site.content = zip_of(IMAGES)
        (tmp_path / "temp/old/a.png").unlink()
        assert fetch(site.url, source_sha256=hashlib.sha256(site.content).hexdigest()) == IMAGES
        assert WRONG_SHA256 in error_of(fetch, site.url, source_sha256=WRONG_SHA256)
        assert len(site.requested) == 4
        assert fetch(site.url) == IMAGES
        assert len(site.requested) == 4


def test_downloads_are_not_kept_where_the_output_is_replaced(fetch, tmp_path):
    download_dir = tmp_path / "artifacts/data/downloads"
    message = error_of(fetch, "http://127.0.0.1:9/x.zip", download_dir=download_dir)
    assert "download_dir is inside of data_dir" in message


def test_a_google_drive_file_is_downloaded_once(fetch, monkeypatch):
    calls = []

    def download(url, output, **options):
        calls.append((url, options))
        Path(output).write_bytes(zip_of(IMAGES))

    monkeypatch.setattr(gdown, "download", download)
    for _ in range(2):
        assert fetch(FILE_LINK) == IMAGES
    assert calls == [(FILE_LINK, {"resume": True, "timeout": (600, 600), "retries": 0})]


def test_a_google_drive_folder_appears_when_it_is_complete(fetch, monkeypatch, tmp_path):
    errors = [gdown.exceptions.DownloadError("Failed to download the following files:\n- a")]

    def download_folder(url, output, **options):
        write_files(Path(output), {f"a/{len(errors)}.png": b"x"})
        if errors:
            raise errors.pop()

    monkeypatch.setattr(gdown, "download_folder", download_folder)
    assert "Failed to download the following files: - a" in error_of(fetch, FOLDER_LINK)
    assert [path.suffix for path in (tmp_path / "downloads").glob("[!.]*")] == [".part"]
    for _ in range(2):
        assert fetch(FOLDER_LINK) == {"a/0.png": b"x", "a/1.png": b"x"}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (gdown.exceptions.FileURLRetrievalError("Failed:\n\n\tToo many users"), "share it with"),
        (requests.HTTPError("404 Client Error"), "404 Client Error; check the network, and share"),
        (requests.ConnectTimeout("timed out"), "timed out; check the network"),
        (OSError(28, "No space left on device"), "No space left on device; free some space"),
    ],
)
@pytest.mark.parametrize("link", [FILE_LINK, FOLDER_LINK])
def test_an_error_of_google_drive_says_what_to_do(fetch, monkeypatch, link, error, message):
    def fail(**options):
        raise error

    monkeypatch.setattr(gdown, "download", fail)
    monkeypatch.setattr(gdown, "download_folder", fail)
    assert message in error_of(fetch, link)
