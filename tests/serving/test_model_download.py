import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import urllib.request

import pytest

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.serving import model_download
from cnnClassifier.serving.model_download import download_bundle
from cnnClassifier.utils.errors import StorageError, UserError
from tests.archives import read_files, zip_of
from tests.loopback import Site, serving
from tests.project import ROOT, write_project
from tests.waiting import PATIENCE_S


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.parametrize("top", ["", "training/"])
def test_a_zip_of_a_bundle_is_downloaded_and_extracted(tiny_bundle, tmp_path, top):
    content = zip_of({top + name: data for name, data in read_files(tiny_bundle).items()})
    with serving(Site(content)) as site:
        folder = download_bundle(f"{site.url}?signature=secret", sha256(content).upper())
    assert ModelBundle.read(folder).file_hashes == ModelBundle.read(tiny_bundle).file_hashes
    assert list(tmp_path.iterdir()) == [folder]


def test_no_member_is_written_outside_of_the_folder(tmp_path):
    content = zip_of({"../../escaped": b"1", "/absolute": b"2", "a/b/deep": b"3"})
    with serving(Site(content)) as site:
        folder = download_bundle(site.url, sha256(content))
    assert set(read_files(tmp_path)) == {
        f"{folder.name}/{n}" for n in ("escaped", "absolute", "deep")
    }


@pytest.mark.parametrize(
    ("content", "digest", "statuses", "message"),
    [
        (b"x", None, [], "--model-sha256 is missing"),
        (b"x", "0" * 64, [], f"its sha256 is {sha256(b'x')}"),
        (b"x", sha256(b"x"), [404], "HTTP status 404"),
        (b"x", sha256(b"x"), [], "not a zip of a bundle"),
        (b"x" * 2001, "1", [], "larger than 2.0 kB"),
        (zip_of({"a": bytes(3000)}), None, [], "extracts to more than 2.0 kB"),
        (zip_of({"a/n": b"1", "b/n": b"2"}), None, [], "not a zip of a bundle .*File exists"),
        (zip_of({"a/..": b"1"}), None, [], "not a zip of a bundle .*File exists"),
    ],
)
def test_an_error_is_one_line_without_the_signature(
    monkeypatch, content, digest, statuses, message
):
    monkeypatch.setattr(model_download, "MAX_BYTES", 2000)
    if digest is None and "missing" not in message:
        digest = sha256(content)
    with (
        serving(Site(content, statuses=list(statuses))) as site,
        pytest.raises(UserError, match=message) as error,
    ):
        download_bundle(f"{site.url}?signature=secret", digest)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("limit", [1 << 16, 1 << 19], ids=["downloading", "extracting"])
def test_a_full_disk_is_named(tmp_path, limit):
    content = zip_of({"model.json": bytes(1 << 20), "model.keras": os.urandom(1 << 18)})
    _, maximum = resource.getrlimit(resource.RLIMIT_FSIZE)
    with serving(Site(content)) as site:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, maximum))  # like a full disk
        try:
            with pytest.raises(StorageError, match="File too large") as raised:
                download_bundle(site.url, sha256(content))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (maximum, maximum))
    assert str(raised.value).startswith(str(tmp_path))


@pytest.mark.slow
def test_the_server_downloads_a_model_and_leaves_no_files(tiny_bundle, tmp_path):
    content = zip_of(read_files(tiny_bundle))
    project, temporary = tmp_path / "project", tmp_path / "temporary"
    write_project(project)
    temporary.mkdir()
    with serving(Site(content)) as site:
        options = ["--port", "0", "--model-sha256", sha256(content), "--model", site.url]
        with subprocess.Popen(
            [sys.executable, str(ROOT / "app.py"), *options],
            cwd=project,
            env={**os.environ, "TMPDIR": str(temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            try:
                address = re.search(r"http://\S+", process.stdout.readline()).group()
                with urllib.request.urlopen(f"{address}/model", timeout=PATIENCE_S) as response:
                    model_id = json.load(response)["model"]
            finally:
                process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
    assert model_id == ModelBundle.read(tiny_bundle).model_id
    assert list(temporary.iterdir()) == []
