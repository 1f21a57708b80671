import hashlib
import os
from pathlib import Path

import gdown
import pytest
import requests
from gdown.download import GoogleDriveFileToDownload

from cnnClassifier.dataset import download
from cnnClassifier.dataset.sources import obtain, source_name
from cnnClassifier.entity.config_entity import DataIngestionConfig
from cnnClassifier.utils.errors import SourceError
from tests.archives import IMAGES, tar_of, zip_of
from tests.loopback import Site, serving
from tests.waiting import PATIENCE_S

FILE_LINK = "https://drive.google.com/file/d/1AbC-d_9/view?usp=sharing"
FOLDER_LINK = "https://drive.google.com/drive/folders/1AbC-d_9"
SHA = "0" * 64


@pytest.fixture
def config(tmp_path):
    return DataIngestionConfig(
        source_URL="unused",
        source_sha256=None,
        class_patterns=None,
        class_count=2,
        download_dir=tmp_path / "downloads",
        data_dir=tmp_path / "artifacts/data",
        max_unpacked_bytes=10**8,
        connect_timeout_s=2,
        read_timeout_s=PATIENCE_S,
        retries=0,
    )


@pytest.fixture
def fetch(tmp_path, config):
    """Obtain a source as the component does; returns what was received."""

    def run(url: str, **changes) -> dict[str, bytes]:
        scratch = tmp_path / "scratch"
        received = obtain(config.model_copy(update={"source_URL": url, **changes}), scratch)
        return {
            p.relative_to(received).as_posix(): p.read_bytes()
            for p in received.rglob("*")
            if p.is_file()
        }

    return run


def refusal(fetch, url: str, **changes) -> str:
    with pytest.raises(SourceError) as caught:
        fetch(url, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("form", ["{}", "file://{}", " {} "])
def test_a_path_of_an_archive(tmp_path, fetch, form):
    path = tmp_path / "my scans.tgz"
    path.write_bytes(tar_of(IMAGES, "gz"))
    url = form.format(path.as_uri().removeprefix("file://") if "file" in form else path)
    assert fetch(url, source_sha256=hashlib.sha256(path.read_bytes()).hexdigest().upper()) == IMAGES


def test_a_folder_is_left_as_it_is(tmp_path, fetch):
    (tmp_path / "mine/a").mkdir(parents=True)
    (tmp_path / "mine/a/1.png").write_bytes(b"x")
    assert fetch(str(tmp_path / "mine")) == {"a/1.png": b"x"}
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{}/absent.zip", "no such file or folder; correct data_ingestion.source_URL"),
        ("{}/notes.txt", "is not an archive"),
        ("{}/page.zip", "is a web page"),
        ("{}/empty.zip", "is empty"),
        ("{}/artifacts", "holds data_ingestion.data_dir"),
        ("{}/artifacts/data/deeper", "or lies in it"),
        ("{}/artifacts/data/kept.zip", "or lies in it"),
        (
            "s3://bucket/scans.zip",
            "s3:// is not supported; data_ingestion.source_URL takes phantom:",
        ),
        ("http://[broken/scans.zip", "no valid address"),
        ("https://drive.google.com/drive/my-drive", "no Google Drive link of a file or a folder"),
    ],
)
def test_refusals_name_cause_and_mend(tmp_path, fetch, source, message):
    (tmp_path / "artifacts/data/deeper").mkdir(parents=True)
    for name, text in {
        "notes.txt": "x",
        "page.zip": "<html>",
        "empty.zip": "",
        "artifacts/data/kept.zip": "x",
    }.items():
        (tmp_path / name).write_text(text)
    assert message in refusal(fetch, source.format(tmp_path))


def test_a_wrong_sha256_shows_both(tmp_path, fetch):
    path = tmp_path / "scans.zip"
    path.write_bytes(zip_of(IMAGES))
    message = refusal(fetch, str(path), source_sha256=SHA)
    assert SHA in message
    assert hashlib.sha256(path.read_bytes()).hexdigest() in message
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("source", ["{}", FOLDER_LINK, "phantom:"])
def test_sha256_is_for_archives_only(tmp_path, fetch, source):
    if source == "phantom:":
        pytest.importorskip("cnnClassifier.imaging.phantom")
    (tmp_path / "mine").mkdir()
    assert "only archives do" in refusal(fetch, source.format(tmp_path / "mine"), source_sha256=SHA)


def test_no_permission(tmp_path, fetch, monkeypatch):
    path = tmp_path / "scans.zip"
    path.write_bytes(zip_of(IMAGES))

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("cnnClassifier.dataset.sources.archive_trouble", refuse)
    assert f"{path}: no permission" in refusal(fetch, str(path))


def test_phantom(fetch):
    pytest.importorskip("cnnClassifier.imaging.phantom")
    files = fetch("phantom:patients=4,slices=1,size=64")
    assert {Path(name).parts[0] for name in files} == {"adenocarcinoma", "normal"}


def test_a_second_run_downloads_nothing(fetch, tmp_path):
    with serving(Site(zip_of(IMAGES))) as site:
        assert fetch(site.url) == IMAGES
        assert fetch(site.url) == IMAGES
        assert len(site.asked) == 1
        fetch(site.url + "?other")
        assert len(site.asked) == 2
    kept = [path.name for path in (tmp_path / "downloads").glob("[!.]*")]
    assert len(kept) == 2
    assert all(name.endswith("-scans.zip") for name in kept)


def test_a_kept_file_with_another_sha256_is_downloaded_again(fetch, tmp_path, caplog):
    with serving(Site(zip_of({"old/a.png": b"x"}))) as site:
        fetch(site.url)
        site.content = zip_of(IMAGES)
        (tmp_path / "scratch/old/a.png").unlink()
        assert fetch(site.url, source_sha256=hashlib.sha256(site.content).hexdigest()) == IMAGES
        assert SHA in refusal(fetch, site.url, source_sha256=SHA)
        assert len(site.asked) == 3
        assert fetch(site.url) == IMAGES  # what the server gave is kept
        assert len(site.asked) == 3


def test_downloads_do_not_go_where_the_output_is_replaced(fetch, config):
    message = refusal(fetch, "http://127.0.0.1:9/x.zip", download_dir=config.data_dir / "downloads")
    assert "download_dir lies in data_dir" in message


def test_a_google_drive_file(fetch, monkeypatch, tmp_path):
    asked = []

    def give(id, output, progress, **options):
        asked.append((id, options))
        Path(output).write_bytes(zip_of(IMAGES))
        progress(10, 10)
        return output

    monkeypatch.setattr(gdown, "download", give)
    assert fetch(FILE_LINK) == IMAGES
    assert fetch("https://drive.google.com/uc?id=1AbC-d_9") == IMAGES
    assert asked == [
        ("1AbC-d_9", {"quiet": True, "resume": True, "timeout": (2, PATIENCE_S), "retries": 0})
    ]
    assert [path.name for path in (tmp_path / "downloads").glob("[!.]*")] == [
        "google-drive-1AbC-d_9"
    ]


def test_a_google_drive_folder_goes_on_where_it_stopped(fetch, monkeypatch):
    given = []

    def listing(id, output, **options):
        assert options["skip_download"]
        return [
            GoogleDriveFileToDownload(n, n, os.path.join(output, n))
            for n in ("a/1.png", "b/2.png", "readme.txt")
        ]

    def give(id, output, resume, **options):
        if len(given) == 1 and not resume_works:
            raise gdown.exceptions.DownloadError(
                "Download failed after 0 retries: x"
            ) from requests.ConnectionError("x")
        if not Path(output).exists():
            given.append(id)
            Path(output).write_text(id)

    monkeypatch.setattr(gdown, "download_folder", listing)
    monkeypatch.setattr(gdown, "download", give)
    resume_works = False
    assert "the connection broke" in refusal(fetch, FOLDER_LINK)
    resume_works = True
    for _ in range(2):
        assert fetch(FOLDER_LINK) == {"a/1.png": b"a/1.png", "b/2.png": b"b/2.png"}
    assert given == ["a/1.png", "b/2.png"]


RAISED = [
    (
        gdown.exceptions.FileURLRetrievalError("Failed:\n\n\tToo many users"),
        "Failed: Too many users; share it with",
    ),
    (
        gdown.exceptions.DownloadError("Server did not honor the requested byte range"),
        "delete its .part folder",
    ),
    (requests.HTTPError("404 Client Error"), "404 Client Error; share it"),
    (requests.ConnectTimeout("x"), "no connection within 2 s"),
    (requests.ConnectionError("x"), "the connection broke"),
    (OSError(28, "No space left on device"), "the disk is full"),
]
GIVEN = [
    (b"<!DOCTYPE html>quota", "what came is a web page, not an archive; share it"),
    (None, "what came is nothing; share it"),
]


@pytest.mark.parametrize(
    ("link", "outcome", "message"),
    [(FOLDER_LINK, *case) for case in RAISED] + [(FILE_LINK, *case) for case in RAISED + GIVEN],
)
def test_google_drive_refusals_name_cause_and_mend(
    fetch, monkeypatch, tmp_path, link, outcome, message
):
    def give(output, **options):
        if isinstance(outcome, Exception):
            raise outcome
        if outcome:
            Path(output).write_bytes(outcome)

    monkeypatch.setattr(gdown, "download", give)
    monkeypatch.setattr(gdown, "download_folder", give)
    assert message in refusal(fetch, link)
    assert not (tmp_path / "downloads/google-drive-1AbC-d_9").exists()


def test_the_folder_list_is_retried(fetch, monkeypatch):
    monkeypatch.setattr(download, "FIRST_PAUSE_S", 0.0)
    troubles = [requests.ConnectionError("x"), requests.ReadTimeout("x")]

    def listing(**options):
        if troubles:
            raise troubles.pop()
        return []

    monkeypatch.setattr(gdown, "download_folder", listing)
    assert fetch(FOLDER_LINK, retries=2) == {}


def test_source_names_hold_no_secrets():
    assert source_name("https://me:word@host/x.zip?key=1") == "https://host/x.zip?…"
    assert source_name("phantom:seed=3") == "phantom:seed=3"
