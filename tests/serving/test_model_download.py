import hashlib
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.serving import model_download
from cnnClassifier.serving.model_download import fetch_bundle
from cnnClassifier.utils.errors import BundleError
from tests.loopback import Site, serving
from tests.waiting import PATIENCE_S, reserved_port

ROOT = Path(__file__).resolve().parents[2]


def packed(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return buffer.getvalue()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(model_download.tempfile, "tempdir", str(tmp_path))


@pytest.mark.parametrize("top", ["", "training/"])
def test_a_zip_of_a_bundle_is_the_bundle(tiny_bundle, top):
    content = packed([(f"{top}{path.name}", path.read_bytes()) for path in tiny_bundle.iterdir()])
    with serving(Site(content)) as site:
        folder = fetch_bundle(f"{site.url}?signature=secret", sha256(content).upper())
    assert ModelBundle.read(folder).file_hashes == ModelBundle.read(tiny_bundle).file_hashes


def test_no_member_lands_outside(tmp_path):
    content = packed([("../../escaped", b"1"), ("/absolute", b"2"), ("a/b/deep", b"3")])
    with serving(Site(content)) as site:
        folder = fetch_bundle(site.url, sha256(content))
    assert {path.name for path in folder.iterdir()} == {"escaped", "absolute", "deep"}
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("content", "given", "statuses", "message"),
    [
        (b"x", None, [], "say which model you expect"),
        (b"x", "0" * 64, [], f"its sha256 is {sha256(b'x')}"),
        (b"x", sha256(b"x"), [404], "answers 404"),
        (b"x", sha256(b"x"), [], "not a zip of a bundle"),
        (b"x" * 2001, "", [], "say which"),
        (b"x" * 2001, "1", [], "larger than 2.0 kB"),
        (large := packed([("a", bytes(3000))]), sha256(large), [], "unpacks to more than 2.0 kB"),
        (
            twice := packed([("a/n", b"1"), ("b/n", b"2")]),
            sha256(twice),
            [],
            "two files are called n",
        ),
        (odd := packed([("a/..", b"1")]), sha256(odd), [], "two files are called .."),
    ],
)
def test_anything_else_is_refused_in_one_line_without_the_signature(
    monkeypatch, content, given, statuses, message
):
    monkeypatch.setattr(model_download, "MAX_BYTES", 2000)
    with (
        serving(Site(content, statuses=list(statuses))) as site,
        pytest.raises(BundleError, match=message) as error,
    ):
        fetch_bundle(f"{site.url}?signature=secret", given)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("room", [1 << 16, 1 << 19], ids=["downloading", "unpacking"])
def test_a_disk_without_room_is_named(tmp_path, room):
    content = packed([("model.json", bytes(1 << 20)), ("model.keras", os.urandom(1 << 18))])
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    with serving(Site(content)) as site:
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (room, most)
        )  # as a full disk, but for this process alone
        try:
            with pytest.raises(BundleError, match="can't keep the model there") as refused:
                fetch_bundle(site.url, sha256(content))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert str(refused.value).startswith(str(tmp_path))


def test_a_server_that_is_not_there_is_named():
    with reserved_port() as port, pytest.raises(BundleError, match="can't be downloaded"):
        fetch_bundle(f"http://127.0.0.1:{port}/bundle.zip", "0")


@pytest.mark.slow
def test_the_server_takes_a_model_from_the_web_and_leaves_nothing_behind(tiny_bundle, tmp_path):
    content = packed([(path.name, path.read_bytes()) for path in tiny_bundle.iterdir()])
    place, temporary = tmp_path / "place", tmp_path / "temporary"
    shutil.copytree(ROOT / "config", place / "config")
    shutil.copy(ROOT / "params.yaml", place)
    temporary.mkdir()
    command = [
        sys.executable,
        str(ROOT / "app.py"),
        "--port",
        "0",
        "--model-sha256",
        sha256(content),
        "--model",
    ]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with (
        serving(Site(content)) as site,
        subprocess.Popen(
            [*command, site.url],
            cwd=place,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process,
    ):
        assert ModelBundle.read(tiny_bundle).model_id in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    assert list(temporary.iterdir()) == []
