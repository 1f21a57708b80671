import logging
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import cnnClassifier
from cnnClassifier.components.data_ingestion import DataIngestion
from cnnClassifier.dataset.feedback import read_feedback
from cnnClassifier.dataset.layout import image_files, read_groups
from cnnClassifier.entity.config_entity import DataIngestionConfig
from cnnClassifier.utils.errors import UserError
from cnnClassifier.utils.source_files import read_bytes
from tests.archives import IMAGES, ingestion_options, read_files, write_files, zip_of
from tests.loopback import Site, serving
from tests.waiting import until

INGESTED = {name.removeprefix("scans/"): content for name, content in IMAGES.items()}
OLD = {"old/before.png": b"old"}
LARGE = {
    f"w/{label}/{n}.png": random.Random(f"{label}{n}").randbytes(100_000)
    for label in "ab"
    for n in range(5)
}
LARGE_INGESTED = {name.removeprefix("w/"): content for name, content in LARGE.items()}
SRC = Path(cnnClassifier.__file__).parents[1]
SCRIPT = """
import sys
from pathlib import Path
from cnnClassifier.components.data_ingestion import DataIngestion
from cnnClassifier.entity.config_entity import DataIngestionConfig
options = eval(sys.argv[1], {"PosixPath": Path, "WindowsPath": Path})
DataIngestion(DataIngestionConfig(**options)).run()
"""


@pytest.fixture
def data_dir(tmp_path):
    """Return a data folder with the output of an earlier run."""
    write_files(tmp_path / "artifacts/data", OLD)
    return tmp_path / "artifacts/data"


@pytest.fixture
def ingest(tmp_path):
    def run(source, **changes):
        options = ingestion_options(tmp_path, source, **changes)
        return DataIngestion(DataIngestionConfig(**options)).run()

    return run


def leftovers(data_dir: Path) -> set[str]:
    return {path.name for path in data_dir.parent.iterdir()} - {"data", ".data.lock"}


def start(options) -> subprocess.Popen:
    command = [sys.executable, "-c", SCRIPT, repr(options)]
    quiet = {**os.environ, "TQDM_DISABLE": "1"}  # progress appears on a busy machine
    return subprocess.Popen(command, cwd=SRC, env=quiet, stderr=subprocess.PIPE)


@pytest.mark.parametrize("kind", ["folder", "http"])
def test_the_output_is_replaced_and_logged_in_one_line(tmp_path, ingest, data_dir, caplog, kind):
    caplog.set_level(logging.INFO, logger="cnnClassifier")
    write_files(tmp_path / "scans", IMAGES)
    with serving(Site(zip_of(IMAGES))) as site:
        source = tmp_path / "scans" if kind == "folder" else site.url
        assert ingest(source) == data_dir
    assert read_files(data_dir) == INGESTED
    assert leftovers(data_dir) == set()
    assert caplog.messages == [
        f"data_ingestion: 3 images in 2 classes (adenocarcinoma 1, normal 2) from {source}"
    ]


def test_splits_are_kept_and_folders_merged_by_pattern(tmp_path, ingest, data_dir):
    files = ["train/adeno_T1/1.png", "train/normal/1.png", "train/x/1.png", "test/normal/2.png"]
    write_files(tmp_path / "k/Data", dict.fromkeys(files, b"x"))
    ingest(tmp_path / "k", class_patterns={"adeno": "ADENO*", "normal": "normal"})
    assert set(read_files(data_dir)) == {"train/adeno/1.png", "train/normal/1.png", files[3]}


def test_a_table_gives_classes_and_groups(tmp_path, ingest, data_dir):
    write_files(tmp_path / "mine", INGESTED)
    rows = "normal/a.png,well,p1\nnormal/patient7/slice1.png,Well,\nadenocarcinoma/c.jpg,ill,p2\n"
    write_files(tmp_path / "mine", {"labels.csv": f"path,label,group\n{rows}".encode()})
    ingest(tmp_path / "mine/labels.csv")
    files = read_files(data_dir)
    assert files.pop("groups.csv").startswith(b"path,group")
    images = ["normal/a.png", "normal/patient7/slice1.png", "adenocarcinoma/c.jpg"]
    targets = ["Well/normal/a.png", "Well/normal/patient7/slice1.png", "ill/adenocarcinoma/c.jpg"]
    assert files == {new: INGESTED[old] for old, new in zip(images, targets, strict=True)}
    assert read_groups(data_dir) == {"Well/normal/a.png": "p1", "ill/adenocarcinoma/c.jpg": "p2"}
    assert set(read_files(tmp_path / "mine")) == {*INGESTED, "labels.csv"}


def test_images_of_users_are_added_while_they_are_there(tmp_path, ingest, data_dir, caplog):
    caplog.set_level(logging.INFO, logger="cnnClassifier")
    write_files(tmp_path / "scans", IMAGES)
    ingest(tmp_path / "scans", feedback_dir=tmp_path / "feedback")
    assert read_files(data_dir) == INGESTED
    write_files(tmp_path / "feedback", {"normal/f.png": b"f", ".gitignore": b"*"})
    ingest(tmp_path / "scans", feedback_dir=tmp_path / "feedback")
    files = read_files(data_dir)
    assert read_feedback(data_dir) == {"normal/feedback-f.png"}
    assert files.pop("feedback.csv") == b"path\nnormal/feedback-f.png\n"
    assert files == INGESTED | {"normal/feedback-f.png": b"f"}
    assert caplog.messages[-1].startswith("feedback of users: 1 images from ")
    assert (tmp_path / "feedback/normal/f.png").exists()


@pytest.mark.parametrize("kind", ["folder", "http"])
def test_dicom_files_without_a_suffix_get_one(tmp_path, ingest, data_dir, kind):
    dicom = bytes(128) + b"DICM"
    files = {
        "ill/study1/series2/IM000001": dicom,
        "ill/study1/series2/1.2.840.55": dicom,
        "ill/study1/DICOMDIR": dicom,
        "ill/README": b"no image",
        "well/study2/IM000001.dcm": dicom,
    }
    write_files(tmp_path / "scans", files)
    (tmp_path / "scans/ill/gone").symlink_to("nowhere")
    with serving(Site(zip_of({"scans/": b""} | files))) as site:
        ingest(tmp_path / "scans" if kind == "folder" else site.url)
    series = "ill/study1/series2"
    expected = [f"{series}/1.2.840.55.dcm", f"{series}/IM000001.dcm", "well/study2/IM000001.dcm"]
    assert sorted(read_files(data_dir)) == expected


@pytest.mark.parametrize("kind", ["folder", "table", "memory"])
def test_images_stay_in_their_source(tmp_path, ingest, data_dir, memory_store, kind):
    dicom, archive = bytes(128) + b"DICM", {"train/ill/IM1": bytes(128) + b"DICM"}
    files = {f"train/{name}": content for name, content in INGESTED.items()} | archive
    write_files(tmp_path / "scans", files | {"train/ill/README": b"no image", ".x/a.png": b""})
    rows = "".join(f"{path},{path.split('/')[1]}\n" for path in files)
    write_files(tmp_path / "scans", {"labels.csv": f"path,label\n{rows}".encode()})
    memory_store.put(str(tmp_path / "scans"), "/clinic/scans", recursive=True)
    source = {"table": tmp_path / "scans/labels.csv", "memory": "memory://clinic/scans/"}.get(
        kind, tmp_path / "scans"
    )
    changes = {"class_count": 3, "feedback_dir": tmp_path / "feedback"}
    write_files(tmp_path / "feedback", {"normal/f.png": b"f"})
    ingest(source, **changes)
    copied = {path: (data_dir / path).read_bytes() for path, _ in image_files(data_dir)}
    expected = image_files(data_dir)
    assert len(copied) == 5
    assert dicom in copied.values()
    ingest(source, copy_images=False, **changes)
    assert image_files(data_dir) == expected
    assert {path: read_bytes(data_dir, path) for path in copied} == copied
    assert set(read_files(data_dir)) - {"groups.csv", "feedback.csv"} == {
        "source_files.feather",
        next(path for path in copied if path.endswith("feedback-f.png")),
    }


def test_a_change_in_the_source_changes_the_list(tmp_path, ingest, data_dir):
    write_files(tmp_path / "scans", IMAGES)
    ingest(tmp_path / "scans", copy_images=False)
    listed = read_files(data_dir)
    ingest(tmp_path / "scans", copy_images=False)
    assert read_files(data_dir) == listed
    os.utime(tmp_path / "scans/scans/normal/a.png", ns=(1, 1))
    ingest(tmp_path / "scans", copy_images=False)
    assert read_files(data_dir) != listed
    write_files(tmp_path / "scans", {"scans/normal/a.png": b"another"})
    with pytest.raises(OSError, match="changed since data_ingestion listed it"):
        read_bytes(data_dir, "normal/a.png")
    (tmp_path / "scans/scans/normal/a.png").unlink()
    with pytest.raises(FileNotFoundError):
        read_bytes(data_dir, "normal/a.png")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("scans.zip", "only a folder, or a table of local files"),
        ("https://x.org/scans.zip", "only a folder, or a table of local files"),
        ("memory://clinic/absent", "no such folder, or an empty one"),
        ("memory://me:password@clinic/scans", "set the password in the environment"),
    ],
)
def test_what_cannot_stay_in_the_source(
    tmp_path, ingest, data_dir, memory_store, monkeypatch, source, message
):
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path, {"scans.zip": zip_of(IMAGES)})
    with pytest.raises(UserError, match=message) as raised:
        ingest(source, copy_images=False)
    assert "password@" not in str(raised.value)
    assert read_files(data_dir) == OLD


@pytest.mark.parametrize("copied", [True, False])
def test_paths_of_a_table_with_a_relative_path(tmp_path, ingest, data_dir, monkeypatch, copied):
    rows = "".join(f"{path},{path.split('/')[0]}\n" for path in INGESTED)
    write_files(tmp_path / "mine", INGESTED | {"labels.csv": f"path,label\n{rows}".encode()})
    monkeypatch.chdir(tmp_path)
    ingest("mine/labels.csv", copy_images=copied)
    contents = {read_bytes(data_dir, path) for path, _ in image_files(data_dir)}
    assert contents == set(INGESTED.values())


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        (zip_of({"../normal/a.png": b"x"}), {}, "outside of the folder"),
        (zip_of({"a/1.png": bytes(3_000_000)}), {}, "200 times"),
        (zip_of(IMAGES), {"max_unpacked_bytes": 1_000}, "max_unpacked_bytes"),
        (zip_of(IMAGES), {"source_sha256": "0" * 64}, "sha256 is"),
        (zip_of({"notes.txt": b"x"}), {}, "no image in a class folder"),
        (zip_of({"normal/1.png": b"x"}), {}, "1 instead of 2 classes"),
        (None, {}, "404"),
    ],
)
def test_after_an_error_the_last_good_output_remains(ingest, data_dir, content, changes, message):
    with (
        serving(Site(content or b"", statuses=[] if content else [404])) as site,
        pytest.raises(UserError, match=message) as raised,
    ):
        ingest(site.url, **changes)
    assert "\n" not in str(raised.value)
    assert read_files(data_dir) == OLD
    assert leftovers(data_dir) == set()


@pytest.mark.parametrize("call", ["os.replace", "shutil.copyfile", "tempfile.mkdtemp"])
@pytest.mark.parametrize(
    ("code", "message"),
    [(28, "free some space"), (13, "change its permissions"), (5, "check the path and the disk")],
)
def test_after_a_disk_error_the_last_good_output_remains(
    tmp_path, ingest, data_dir, monkeypatch, call, code, message
):
    write_files(tmp_path / "mine", INGESTED)

    def fail(*args, **options):
        raise OSError(code, "disk error")

    with monkeypatch.context() as patch:
        patch.setattr(call, fail)
        with pytest.raises(UserError, match=message):
            ingest(tmp_path / "mine")
    assert read_files(data_dir) == OLD
    assert leftovers(data_dir) == set()


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_run_leaves_the_last_good_output_and_its_download_is_resumed(
    ingest, data_dir, tmp_path
):
    def is_stalled():
        parts = (tmp_path / "downloads").glob("*.part")
        return any(part.stat().st_size > 300_000 for part in parts)

    with serving(Site(zip_of(LARGE), stall_at=400_000)) as site:
        process = start(ingestion_options(tmp_path, site.url))
        until(is_stalled)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert read_files(data_dir) == OLD
        assert leftovers(data_dir) != set()
        site.stall_at, site.sent = None, 0
        ingest(site.url)
    assert site.requested[1].startswith("bytes=")
    assert 0 < site.sent < len(site.content) - 150_000
    assert read_files(data_dir) == LARGE_INGESTED
    assert leftovers(data_dir) == set()


def test_a_run_killed_between_two_renames_is_undone(ingest, tmp_path):
    artifacts = tmp_path / "artifacts"
    write_files(artifacts / ".data.unfinished-x/old", OLD)
    with pytest.raises(UserError, match="No such file"):
        ingest("absent")
    assert read_files(artifacts / "data") == OLD
    assert leftovers(artifacts / "data") == set()


def test_concurrent_runs_share_one_download(tmp_path):
    other = tmp_path / "artifacts/other"
    with serving(Site(zip_of(LARGE), pause_s=0.005)) as site:
        options = ingestion_options(tmp_path, site.url)
        processes = [start(options), start(options), start(options | {"data_dir": other})]
        for process in processes:
            assert process.communicate()[1] == b""
            assert process.returncode == 0
    assert len(site.requested) == 1
    assert read_files(options["data_dir"]) == read_files(other) == LARGE_INGESTED
