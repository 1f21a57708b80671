import hashlib
import os
import random
import resource

import pytest

from cnnClassifier.utils import http
from cnnClassifier.utils.errors import DownloadError
from cnnClassifier.utils.http import download
from cnnClassifier.utils.redaction import redact_url
from tests.loopback import Site, serving
from tests.waiting import PATIENCE_S, reserved_port, until

CONTENT = random.Random(0).randbytes(400_000)
NEW_CONTENT = random.Random(1).randbytes(300_000)
TIMEOUT = (PATIENCE_S, PATIENCE_S)


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(http, "RETRY_DELAY_S", 0.0)
    with serving(Site(CONTENT)) as running:
        yield running


@pytest.fixture
def target(tmp_path):
    return tmp_path / "file.zip"


def interrupt(site, target):
    """Leave a partial file as an interrupted run does."""
    site.cuts = [200_000]
    with pytest.raises(DownloadError, match=r"the connection broke after|reset; check"):
        download(site.url, target, timeout=TIMEOUT, retries=0)
    assert not target.exists()
    site.requested.clear()
    site.sent = 0
    return target.with_name("file.zip.part").stat().st_size


def test_a_download_is_resumed_in_the_next_run_and_after_a_broken_connection(site, target):
    size = interrupt(site, target)
    assert size > 100_000
    site.cuts = [50_000]
    progress = []
    download(site.url, target, timeout=TIMEOUT, on_progress=lambda *sizes: progress.append(sizes))
    assert target.read_bytes() == CONTENT
    assert site.requested[0] == f"bytes={size}-"
    assert len(site.requested) == 2
    assert site.sent < len(CONTENT) - size + 65_536
    assert progress[-1] == (len(CONTENT), len(CONTENT))
    assert os.listdir(target.parent) == ["file.zip"]


@pytest.mark.parametrize(
    "change",
    [
        {"version": {"ETag": '"two"'}},
        {"version": {"ETag": '"two"'}, "if_range": False},
        {"version": {}},
        {"ranges": False},
    ],
    ids=["changed", "changed and If-Range ignored", "no version now", "Range ignored"],
)
def test_bytes_of_two_versions_are_never_joined(site, target, change):
    interrupt(site, target)
    site.content = NEW_CONTENT
    for name, value in change.items():
        setattr(site, name, value)
    download(site.url, target, timeout=TIMEOUT)
    assert target.read_bytes() == NEW_CONTENT


@pytest.mark.parametrize(
    ("version", "resumed"),
    [
        ({}, False),
        ({"ETag": 'W/"weak"'}, False),
        ({"ETag": 'W/"weak"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}, True),
    ],
)
def test_only_a_known_version_is_resumed(site, target, version, resumed):
    site.version = version
    interrupt(site, target)
    download(site.url, target, timeout=TIMEOUT)
    assert [requested.startswith("bytes=") for requested in site.requested] == [resumed]
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT, NEW_CONTENT[:200]], ids=["complete", "too long"])
def test_a_part_beyond_the_end_is_complete_or_discarded(site, target, content):
    interrupt(site, target)
    site.content = content
    target.with_name("file.zip.part").write_bytes(CONTENT)
    download(site.url, target, timeout=TIMEOUT)
    assert target.read_bytes() == content
    assert site.sent == (0 if content == CONTENT else 200)


def test_new_bytes_reset_the_count_of_failures(site, target):
    site.cuts = [66_000] * 5
    download(site.url, target, timeout=TIMEOUT, retries=1)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("change", "options", "message", "requests"),
    [
        ({"statuses": [404] * 9}, {}, "HTTP status 404 Not Found; check the URL", 1),
        ({"statuses": [403] * 9}, {}, "HTTP status 403 .* permissions", 1),
        ({"statuses": [500] * 9}, {}, "HTTP status 500 .* try again later", 3),
        ({"statuses": [429] * 9}, {}, "HTTP status 429 .* try again later", 3),
        ({"cuts": [20_000] * 9, "version": {}}, {}, "the connection broke after|reset", 3),
        ({"stall_at": 0}, {"timeout": (PATIENCE_S, 0.2)}, "timed out; check the URL and the n", 3),
        ({}, {"max_bytes": 399_999}, r"larger than 400\.0 kB", 1),
        ({}, {"sha256": "0" * 64}, f"its sha256 is {hashlib.sha256(CONTENT).hexdigest()}", 1),
    ],
)
def test_an_error_is_one_line_without_secrets(site, target, change, options, message, requests):
    for name, value in change.items():
        setattr(site, name, value)
    with pytest.raises(DownloadError, match=message) as raised:
        download(f"{site.url}?token=secret", target, **{"timeout": TIMEOUT, "retries": 2} | options)
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)
    until(lambda: len(site.requested) >= requests)  # the server may notice a timeout later
    assert len(site.requested) == requests
    assert not target.exists()


def test_a_wrong_sha256_costs_no_second_download(site, target):
    with pytest.raises(DownloadError, match="expected 0000"):
        download(site.url, target, sha256="0" * 64, timeout=TIMEOUT)
    download(site.url, target, sha256=hashlib.sha256(CONTENT).hexdigest().upper(), timeout=TIMEOUT)
    assert target.read_bytes() == CONTENT
    assert site.sent == len(CONTENT)


def test_the_host_must_exist_and_the_url_must_be_valid(target, monkeypatch):
    monkeypatch.setattr(http, "RETRY_DELAY_S", 0.0)
    with reserved_port() as port:
        for url, message in (
            (f"http://127.0.0.1:{port}/x.zip", "refused; check the URL and the network"),
            ("http://nowhere.invalid/x.zip", "check the URL and the network"),
            ("http://", "no host given"),
            ("http://host:word/", "check the URL"),
            ("ftp://host/x.zip", "expected http:// or https://"),
            ("file:///etc/passwd", "expected http:// or https://"),
        ):
            with pytest.raises(DownloadError, match=message):
                download(url, target, timeout=TIMEOUT, retries=0)


def test_credentials_are_sent_to_the_host_of_the_url_alone(site, target):
    with serving(Site(NEW_CONTENT)) as other:
        url = site.url.replace("http://", "http://jane:p%40ss@")
        download(url, target, timeout=TIMEOUT)
        site.redirect_to = other.url
        download(url, target, timeout=TIMEOUT)
        assert site.authorization == ["Basic amFuZTpwQHNz"] * 2
        assert other.authorization == [None]
    assert target.read_bytes() == NEW_CONTENT


def test_a_full_disk_is_not_reported_as_a_network_error(site, target):
    _, maximum = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, maximum))  # like a full disk
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            download(site.url, target, timeout=TIMEOUT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (maximum, maximum))
    assert not isinstance(raised.value, DownloadError)
    assert len(site.requested) == 1


def test_urls_in_messages_have_no_secrets():
    assert redact_url("https://me:word@host:8/a/b.zip?key=1") == "https://host:8/a/b.zip?…"
    assert redact_url("phantom:seed=3") == "phantom:seed=3"
