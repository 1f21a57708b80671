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
from cnnClassifier.dataset import download
from cnnClassifier.entity.config_entity import DataIngestionConfig
from cnnClassifier.utils.errors import SourceError
from tests.archives import IMAGES, tar_of, zip_of
from tests.loopback import Site, serving
from tests.waiting import PATIENCE_S, until

GOOD = {
    "normal/a.png": b"a" * 900,
    "normal/patient7/slice1.png": b"b" * 700,
    "adenocarcinoma/c.jpg": b"c" * 800,
}
LARGE = {
    f"w/{label}/{n}.png": random.Random(f"{label}{n}").randbytes(100_000)
    for label in "ab"
    for n in range(5)
}
SRC = Path(cnnClassifier.__file__).parents[1]
OLD = {"old/before.png": b"old"}
RUN = """
import sys
from pathlib import Path
from cnnClassifier.components.data_ingestion import DataIngestion
from cnnClassifier.entity.config_entity import DataIngestionConfig
fields = eval(sys.argv[1], {"PosixPath": Path, "WindowsPath": Path})
DataIngestion(DataIngestionConfig(**fields)).run()
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "FIRST_PAUSE_S", 0.0)
    return DataIngestionConfig(
        source_URL="unused",
        source_sha256=None,
        class_patterns=None,
        class_count=2,
        download_dir=tmp_path / "downloads",
        data_dir=tmp_path / "artifacts/data",
        max_unpacked_bytes=10**8,
        connect_timeout_s=PATIENCE_S,
        read_timeout_s=PATIENCE_S,
        retries=1,
    )


@pytest.fixture
def old_output(config):
    write(config.data_dir, OLD)


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def output(config: DataIngestionConfig) -> dict[str, bytes]:
    folder = config.data_dir
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def litter(config: DataIngestionConfig) -> list[Path]:
    return [
        path
        for path in config.data_dir.parent.iterdir()
        if path not in (config.data_dir, _lock(config))
    ]


def _lock(config: DataIngestionConfig) -> Path:
    return config.data_dir.parent / ".data.lock"


def start(config: DataIngestionConfig) -> subprocess.Popen:
    command = [sys.executable, "-c", RUN, repr(config.model_dump())]
    quiet = {**os.environ, "TQDM_DISABLE": "1"}  # or it tells of progress when the machine is busy
    return subprocess.Popen(command, cwd=SRC, env=quiet, stderr=subprocess.PIPE)


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "folder", "http"])
def test_replaces_the_output_and_logs_one_line(tmp_path, config, old_output, caplog, kind):
    source = tmp_path / f"scans.{kind}"
    with (
        serving(Site(zip_of(IMAGES))) as site,
        caplog.at_level(logging.INFO, logger="cnnClassifier"),
    ):
        if kind == "folder":
            write(source, IMAGES)
        elif kind != "http":
            source.write_bytes(zip_of(IMAGES) if kind == "zip" else tar_of(IMAGES, "gz"))
        config = config.model_copy(
            update={"source_URL": site.url if kind == "http" else str(source)}
        )
        assert DataIngestion(config).run() == config.data_dir
    assert output(config) == GOOD
    assert litter(config) == []
    origin = site.url if kind == "http" else source
    assert caplog.messages == [
        f"data_ingestion: 3 images in 2 classes (adenocarcinoma 1, normal 2) from {origin}"
    ]


def test_keeps_splits_and_merges_by_pattern(tmp_path, config):
    write(
        tmp_path / "k/Data",
        {f"{s}/{c}/{s}.png": b"x" for s in ("train", "test") for c in ("normal", "adeno_T1", "x")},
    )
    config = config.model_copy(
        update={
            "source_URL": str(tmp_path / "k"),
            "class_patterns": {"adeno": "ADENO*", "normal": "normal"},
        }
    )
    DataIngestion(config).run()
    assert sorted(output(config)) == [
        f"{s}/{c}/{s}.png" for s in ("test", "train") for c in ("adeno", "normal")
    ]


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        (b"<!DOCTYPE html>quota", {}, "web page"),
        (zip_of({"../normal/a.png": b"x"}), {}, "outside the folder"),
        (zip_of({"a/1.png": bytes(3_000_000)}), {}, "200 times"),
        (zip_of(IMAGES), {"max_unpacked_bytes": 1_000}, "max_unpacked_bytes"),
        (zip_of(IMAGES), {"source_sha256": "0" * 64}, "sha256 is"),
        (zip_of({"notes.txt": b"x"}), {}, "no image inside"),
        (zip_of({"normal/1.png": b"x"}), {}, "one class only"),
        (zip_of({"a/1.png": b"x", "b/1.png": b"x", "c/1.png": b"x"}), {}, "3 classes found"),
        (None, {}, "404"),
    ],
)
def test_on_failure_the_last_good_output_stays(config, old_output, content, changes, message):
    with serving(Site(content or b"", statuses=[] if content else [404])) as site:
        config = config.model_copy(update={"source_URL": site.url, **changes})
        with pytest.raises(SourceError, match=message) as caught:
            DataIngestion(config).run()
    assert "\n" not in str(caught.value)
    assert output(config) == OLD
    assert litter(config) == []


@pytest.mark.parametrize("call", ["os.replace", "shutil.copyfile", "tempfile.mkdtemp"])
@pytest.mark.parametrize(
    ("code", "message"), [(28, "the disk is full"), (13, "no permission"), (5, "mend that")]
)
def test_a_disk_that_refuses_leaves_the_last_good_output(
    tmp_path, config, old_output, monkeypatch, call, code, message
):
    write(tmp_path / "mine", GOOD)

    def refuse(*args, **kwargs):
        raise OSError(code, "it refuses")

    with monkeypatch.context() as patch:
        patch.setattr(call, refuse)
        with pytest.raises(SourceError, match=message):
            DataIngestion(config.model_copy(update={"source_URL": str(tmp_path / "mine")})).run()
    assert output(config) == OLD
    assert litter(config) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_run_leaves_the_last_good_output_and_the_next_goes_on(config, old_output):
    with serving(Site(zip_of(LARGE), stall_at=400_000)) as site:
        config = config.model_copy(update={"source_URL": site.url})
        process = start(config)
        until(
            lambda: [
                part for part in config.download_dir.glob("*.part") if part.stat().st_size > 300_000
            ]
        )
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert output(config) == OLD
        assert litter(config) != []
        site.stall_at, site.sent = None, 0
        DataIngestion(config).run()
    assert site.asked[1].startswith("bytes=")
    assert 0 < site.sent < len(site.content) - 150_000
    assert output(config) == {name.removeprefix("w/"): content for name, content in LARGE.items()}
    assert litter(config) == []


def test_a_run_killed_between_two_renames_is_mended(config):
    write(config.data_dir.parent / ".data.unfinished-x/old", OLD)
    with pytest.raises(SourceError, match="no such file"):
        DataIngestion(config.model_copy(update={"source_URL": "absent"})).run()
    assert output(config) == OLD
    assert litter(config) == []


def test_two_runs_at_once_do_not_spoil_each_other(config):
    with serving(Site(zip_of(LARGE), pause_s=0.005)) as site:
        config = config.model_copy(update={"source_URL": site.url})
        other = config.model_copy(
            update={"data_dir": config.data_dir.with_name("other")}
        )  # the same download, another output
        processes = [start(config), start(config), start(other)]
        assert [(process.communicate()[1], process.returncode) for process in processes] == [
            (b"", 0)
        ] * 3
    assert len(site.asked) == 1
    assert (
        output(config)
        == output(other)
        == {name.removeprefix("w/"): content for name, content in LARGE.items()}
    )
