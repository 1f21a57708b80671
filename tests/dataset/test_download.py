import io
import os
import random
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from cnnClassifier.dataset import download
from cnnClassifier.dataset.download import Patience, download_http, drive_id, without_secrets
from cnnClassifier.utils.errors import SourceError
from tests.archives import zip_of
from tests.loopback import Site, serving
from tests.waiting import PATIENCE_S, until

CONTENT = zip_of(
    {f"{label}/{n}.png": random.Random(n).randbytes(100_000) for label in "ab" for n in range(2)}
)
PATIENCE = Patience(connect_s=PATIENCE_S, read_s=PATIENCE_S, retries=2)


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(download, "FIRST_PAUSE_S", 0.0)
    with serving(Site(CONTENT)) as running:
        yield running


@pytest.fixture
def target(tmp_path):
    return tmp_path / "kept.zip"


def interrupted(site: Site, target: Path, after: int) -> None:
    """Leave a partial file as an earlier run does."""
    site.cuts = [after]
    with pytest.raises(SourceError, match=r"the connection broke|cut short"):
        download_http(site.url, target, replace(PATIENCE, retries=0))
    assert not target.exists()
    site.asked.clear()
    site.sent = 0


def test_resumes_within_one_run_and_across_runs(site, target):
    interrupted(site, target, 200_000)
    part = target.with_name("kept.zip.part").stat().st_size
    assert part > 100_000
    site.cuts = [50_000]
    download_http(site.url, target, PATIENCE)
    assert target.read_bytes() == CONTENT
    assert site.asked[0] == f"bytes={part}-"
    assert len(site.asked) == 2
    assert site.sent < len(CONTENT) - part + 65_536
    assert [path.name for path in target.parent.iterdir()] == ["kept.zip"]


@pytest.mark.parametrize(
    "change",
    [
        {"version": {"ETag": '"two"'}},
        {"version": {"ETag": '"two"'}, "heeds_if_range": False},
        {"version": {}},
        {"ranges": False},
    ],
    ids=["changed", "changed and If-Range ignored", "no version now", "Range ignored"],
)
def test_starts_again_rather_than_splice(site, target, change):
    interrupted(site, target, 200_000)
    site.content = zip_of({"a/new.png": bytes(range(256)) * 2000, "b/new.png": b"n"}, 0)
    for name, value in change.items():
        setattr(site, name, value)
    download_http(site.url, target, PATIENCE)
    assert target.read_bytes() == site.content


def test_a_changed_file_that_does_not_fit_leaves_nothing_to_splice(site, target, monkeypatch):
    interrupted(site, target, 200_000)
    site.version, site.content = (
        {"ETag": '"two"'},
        zip_of({"a/new.png": bytes(range(256)) * 2000}, 0),
    )
    with monkeypatch.context() as patch, pytest.raises(SourceError, match="the disk is full"):
        patch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1}))
        download_http(site.url, target, PATIENCE)
    download_http(site.url, target, PATIENCE)
    assert target.read_bytes() == site.content


@pytest.mark.parametrize("version", [{}, {"ETag": 'W/"weak"'}])
def test_never_resumes_what_has_no_version(site, target, version):
    site.version = version
    interrupted(site, target, 200_000)
    download_http(site.url, target, PATIENCE)
    assert site.asked == [""]
    assert target.read_bytes() == CONTENT


def test_a_last_modified_date_is_a_version_too(site, target):
    site.version = {"ETag": 'W/"weak"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
    interrupted(site, target, 200_000)
    download_http(site.url, target, PATIENCE)
    assert site.asked[0].startswith("bytes=1")
    assert target.read_bytes() == CONTENT


def test_a_whole_partial_file_needs_no_more_bytes(site, target):
    interrupted(site, target, 200_000)
    target.with_name("kept.zip.part").write_bytes(CONTENT)
    download_http(site.url, target, PATIENCE)
    assert site.sent == 0
    assert target.read_bytes() == CONTENT


def test_passing_troubles_are_retried(site, target, caplog):
    site.statuses = [503, 429]
    download_http(site.url, target, PATIENCE)
    assert target.read_bytes() == CONTENT
    assert len(site.asked) == 3


def test_a_slow_line_that_moves_on_is_never_given_up(site, target):
    site.cuts = [66_000] * 5
    download_http(site.url, target, replace(PATIENCE, retries=1))
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("trouble", "message", "tries"),
    [
        (
            {"statuses": [404] * 9},
            "answers 404 .* no such file; correct data_ingestion.source_URL",
            1,
        ),
        ({"statuses": [403] * 9}, "answers 403 .* needs no login", 1),
        ({"statuses": [418] * 9}, "answers 418", 1),
        ({"statuses": [500] * 9}, "answers 500 .* try again later", 3),
        ({"cuts": [20_000] * 9}, "the connection broke .* run it again to go on", 3),
        ({"stall_at": 0}, "sent nothing for 0.2 s; .* data_ingestion.read_timeout_s", 3),
        (
            {"content": b"<!doctype html><title>Quota exceeded"},
            "what came is a web page, not an archive; .* direct",
            1,
        ),
        ({"content": b"weights"}, "what came is not an archive", 1),
        ({"content": b""}, "what came is empty", 1),
    ],
)
def test_refusals_name_cause_and_mend(site, target, trouble, message, tries):
    for name, value in trouble.items():
        setattr(site, name, value)
    with pytest.raises(SourceError, match=message) as caught:
        patience = replace(PATIENCE, read_s=0.2) if "stall_at" in trouble else PATIENCE
        download_http(site.url + "?token=secret", target, patience)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    until(lambda: len(site.asked) >= tries)  # of one who gave up waiting the server may hear later
    assert len(site.asked) == tries
    assert not target.exists()


def test_no_server(target, monkeypatch):
    monkeypatch.setattr(download, "FIRST_PAUSE_S", 0.0)
    with socket.socket() as taken:  # bound but not listening: refused
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(
            SourceError, match=r"no connection \(Failed to .*refused\); check the network"
        ):
            download_http(f"http://127.0.0.1:{taken.getsockname()[1]}/x.zip", target, PATIENCE)
    with pytest.raises(SourceError, match="name can't be resolved; check the network"):
        download_http("http://nowhere.invalid/x.zip", target, PATIENCE)
    with pytest.raises(SourceError, match=r"correct data_ingestion\.source_URL"):
        download_http("http://", target, PATIENCE)


def test_a_full_disk(site, target, monkeypatch):
    def full(path, mode="r", *args, **options):
        return io.FileIO("/dev/full", "wb") if mode == "wb" else real(path, mode, *args, **options)

    real = Path.open
    if os.path.exists("/dev/full"):
        with (
            monkeypatch.context() as patch,
            pytest.raises(SourceError, match="the disk is full; free some space"),
        ):
            patch.setattr(Path, "open", full)
            download_http(site.url, target, PATIENCE)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1}))
    with pytest.raises(SourceError, match=r"the disk is full: 40\d.\d kB needed, 1 B free"):
        download_http(site.url, target, PATIENCE)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://drive.google.com/file/d/1AbC-d_9/view?usp=sharing", ("1AbC-d_9", False)),
        ("https://drive.google.com/uc?export=download&id=1AbC-d_9", ("1AbC-d_9", False)),
        (
            "https://drive.usercontent.google.com/download?id=1AbC-d_9&export=download",
            ("1AbC-d_9", False),
        ),
        ("https://drive.google.com/drive/u/0/folders/1AbC-d_9?usp=sharing", ("1AbC-d_9", True)),
    ],
)
def test_reads_google_drive_links(url, found):
    assert drive_id(url) == found


def test_messages_hold_no_secrets():
    assert without_secrets("https://me:word@host:8/a/b.zip?key=1") == "https://host:8/a/b.zip?…"
    with pytest.raises(SourceError, match="copy it with Share"):
        drive_id("https://drive.google.com/drive/my-drive")
