"""The command score: the same predictions as the server's, one row per file, and resuming."""

import hashlib
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cnnClassifier import cli
from cnnClassifier.components import batch_scorer
from cnnClassifier.components.scoring import Scoring
from cnnClassifier.entity.bundle import INT8_AGREEMENT_FILE, METADATA_FILE, ModelBundle
from cnnClassifier.entity.config_entity import DataIngestionConfig, ParallelConfig
from cnnClassifier.serving.app import create_app
from cnnClassifier.utils.common import load_json, save_json
from cnnClassifier.utils.errors import UserError
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.storage import exclusive_lock
from tests.archives import ingestion_options, write_files, zip_of
from tests.dicoms import dicom, lungs
from tests.project import ROOT, write_project
from tests.serving.client import make_config
from tests.waiting import until

PART_SIZE = 7
PROBABILITIES = ("probability_adenocarcinoma", "probability_normal")


@pytest.fixture(scope="module")
def files(picture):
    """40 files by their path: images of any brightness, and six that can't be used."""
    images = {f"{n % 2}/{n:02}.png": picture(n * 8) for n in range(32)}
    broken = {
        "0/cut.png": picture(7)[:60],
        "0/empty.png": b"",
        "1/text.jpg": b"no image",
        "1/pixels.png": picture(7, (1200, 1200)),
        "1/bytes.bmp": picture(7, (300, 300), "BMP", "RGB"),
        "cut.dcm": dicom(lungs())[:-40],
    }
    jpeg = picture(99, (64, 64), "JPEG", "RGB")
    return images | broken | {"1/a.jpg": jpeg, "scan": dicom(lungs(1))}


@pytest.fixture
def score(tmp_path, tiny_bundle):
    """Score a source into the folder `out`; return that folder."""

    def run(source, resume=False, bundle_dir=tiny_bundle, part_size=PART_SIZE, **settings):
        ingestion = DataIngestionConfig(**ingestion_options(tmp_path, source))
        config = make_config(bundle_dir, **settings)
        scoring = Scoring(config, ingestion, part_size, ParallelConfig())
        scoring.run(str(source), tmp_path / "out", resume)
        return tmp_path / "out"

    return run


def rows_of(out):
    """Return the rows by path; none may be there twice."""
    rows = [row for path in sorted(out.glob("part-*")) for row in pq.read_table(path).to_pylist()]
    assert len({row["path"] for row in rows}) == len(rows)
    return {row["path"]: row for row in rows}


def listed(out):
    """Return the names in a folder, hidden ones included."""
    return sorted(path.name for path in out.iterdir())


def test_a_row_has_what_the_server_answers(tmp_path, files, score, tiny_bundle):
    write_files(tmp_path / "images", files)
    out = score(tmp_path / "images")
    rows = rows_of(out)
    assert list(rows) == sorted(files)
    assert listed(out) == [f"part-{n:06}.parquet" for n in range(-(-len(files) // PART_SIZE))]
    client = create_app(make_config(tiny_bundle)).test_client()
    expected = {}
    for path, content in files.items():
        answer = client.post("/predict", data=content, content_type="image/png").json
        row = {"path": path, "sha256": hashlib.sha256(content).hexdigest(), "error": None}
        row |= {"engine": "keras-openvino"}
        row["model_sha256"] = ModelBundle.read(tiny_bundle).model_sha256
        names = ("predicted", "uncertain", "out_of_distribution", "disagreement")
        if isinstance(answer, dict):
            error = answer["error"]
            message = "the file is empty" if error["code"] == "empty" else error["message"]
            row |= dict.fromkeys((*names, *PROBABILITIES)) | {
                "error": f"{error['code']}: {message}"
            }
            row["sha256"] = None if path == "1/bytes.bmp" else row["sha256"]  # it isn't read
        else:
            result = answer[0]
            keys = ("class", "uncertain", "unfamiliar", "disagreement")
            row |= {name: result[key] for name, key in zip(names, keys, strict=True)}
            row |= dict(zip(PROBABILITIES, result["probabilities"].values(), strict=True))
        expected[path] = pytest.approx(row, abs=1e-5)
    assert rows == expected
    codes = Counter(row["error"].partition(":")[0] for row in rows.values() if row["error"])
    assert codes == {"corrupt": 2, "empty": 1, "not_an_image": 1, "too_large": 2}
    assert {row["predicted"] for row in rows.values()} == {None, "adenocarcinoma", "normal"}


@pytest.mark.skipif(sys.platform != "linux", reason="needs a pipe, and a name that isn't UTF-8")
def test_every_kind_of_source(tmp_path, files, score, picture):
    write_files(tmp_path / "images", files)
    names = sorted(files)[:3]
    (tmp_path / "images.zip").write_bytes(zip_of(files))
    (tmp_path / "table.csv").write_text("path\n" + "\n".join(f"images/{name}" for name in names))
    fifo, latin = tmp_path / "pipe.png", os.fsencode(tmp_path) + b"/caf\xe9.png"
    os.mkfifo(fifo)
    Path(os.fsdecode(latin)).write_bytes(picture())
    lines = ["images/0/00.png", str(fifo), "images", "absent.png", "a\0b", "images/0/00.png", ""]
    (tmp_path / "list.txt").write_bytes("\r\n".join(lines).encode() + b"\ncaf\xe9.png\n")
    errors = {
        "images/0/00.png": None,
        str(fifo): "unreadable: not a regular file",
        "images": "unreadable: not a regular file",
        "absent.png": "unreadable: No such file or directory",
        "a\0b": "unreadable: embedded null byte",
        "caf\\xe9.png": None,
    }
    for source, paths in (
        ("images.zip", sorted(files)),
        ("table.csv", [f"images/{name}" for name in names]),
        ("list.txt", list(errors)),
    ):
        out = score(tmp_path / source)
        rows = rows_of(out)
        assert list(rows) == paths
        assert not (out / ".source").exists()
        score(tmp_path / source, resume=True)
        assert rows_of(out) == rows
        shutil.rmtree(out)
    assert {path: row["error"] for path, row in rows.items()} == errors


def test_an_interrupted_run_is_resumed(tmp_path, files, score, monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="cnnClassifier")
    write_files(tmp_path / "images", files)
    decode, calls = batch_scorer.decode, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3 * PART_SIZE:
            raise KeyboardInterrupt
        return decode(*arguments)

    monkeypatch.setattr(batch_scorer, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        score(tmp_path / "images")
    out = tmp_path / "out"
    done = rows_of(out)
    assert 0 < len(done) <= 3 * PART_SIZE  # other threads are ahead of the parts
    assert len(done) % PART_SIZE == 0
    assert "score: all parts are complete; --resume continues" in caplog.messages
    # What a kill leaves while a part is written, and while an archive is extracted.
    part = f"part-{len(done) // PART_SIZE:06}.parquet"
    write_files(out, {f".{part}.unfinished-x/{part}": b"PAR1"})
    write_files(out, {".source/0/00.png": b"old"})
    write_files(tmp_path / "images", {"0/new.png": files["0/04.png"]})
    score(tmp_path / "images", resume=True, part_size=5)
    rows = rows_of(out)
    assert rows.keys() == files.keys() | {"0/new.png"}
    assert done.items() <= rows.items()
    assert not [name for name in listed(out) if name.startswith(".")]
    assert len(calls) < 3 * PART_SIZE + len(files), "no file is scored twice"


def test_only_parts_of_the_same_run_are_continued(
    tmp_path, files, score, write_bundle, tiny_bundle
):
    write_files(tmp_path, {f"{name}/1.png": files["0/04.png"] for name in ("images", "others")})
    images, out = tmp_path / "images", score(tmp_path / "images")
    other_bundle = write_bundle(tmp_path / "other", slope=1.0)
    recalibrated = shutil.copytree(tiny_bundle, tmp_path / "recalibrated")
    content = load_json(recalibrated / METADATA_FILE)
    save_json(recalibrated / METADATA_FILE, content | {"threshold": 0.4})

    def error_of(source=images, **options):
        with pytest.raises(UserError) as raised:
            score(source, **options)
        assert "\n" not in str(raised.value)
        return str(raised.value).removeprefix(str(out))

    assert error_of().startswith(": has parts of this source and model; add --resume")
    for resume in (False, True):
        assert "with source" in error_of(tmp_path / "others", resume=resume)
        assert "with model_sha256" in error_of(bundle_dir=other_bundle, resume=resume)
        assert "with bundle_sha256" in error_of(bundle_dir=recalibrated, resume=resume)
        margin = error_of(uncertain_margin=0.2, resume=resume)
        assert "with uncertain_margin 0.1, this run has 0.2; choose another folder" in margin
    with exclusive_lock(out):
        assert error_of(resume=True).startswith(": another process is writing it")
    (tmp_path / "empty").mkdir()
    pq.write_table(pa.table({"path": ["a"]}), out / "part-000007.parquet")
    assert "isn't a part that score wrote" in error_of(resume=True)
    (out / "part-000007.parquet").write_bytes(b"PAR1")
    assert "isn't a part that score wrote" in error_of(resume=True)
    (out / "part-000007.parquet").unlink()
    (tmp_path / "notes.md").touch()
    for path in out.iterdir():
        path.unlink()
    assert error_of(tmp_path / "notes.md").endswith("a .csv or .parquet file")
    assert "set SOURCE to an archive" in error_of(tmp_path / "notes.md")
    assert error_of(tmp_path / "empty") == f"{tmp_path}/empty: contains no image; check the path"


def test_the_summary_comes_from_the_parts(tmp_path, files, tiny_bundle, monkeypatch, capsys):
    monkeypatch.chdir(write_project(tmp_path, {"training.bundle_dir": str(tiny_bundle)}))
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", logger.propagate)
    write_files(tmp_path / "images", files | {"more.png": files["0/04.png"]})
    assert cli.main(["score", "images", "--out", "out", "--part-size", "9", "--summary"]) == 0
    text = capsys.readouterr().out
    assert cli.main(["score", "--out", "out", "--summary"]) == 0
    assert capsys.readouterr().out == text
    rows = rows_of(tmp_path / "out").values()
    counts = Counter(row["predicted"] for row in rows)
    assert text.startswith(f"41 files in out, model {ModelBundle.read(tiny_bundle).model_id}\n")
    lines = [line.split() for line in text.splitlines()]
    usable = 41 - counts[None]
    for name in ("adenocarcinoma", "normal"):
        assert [name, str(counts[name]), f"{counts[name] / usable:.1%}"] in lines
    uncertain = sum(bool(row["uncertain"]) for row in rows)
    assert uncertain > 0
    assert ["uncertain", str(uncertain), f"{uncertain / usable:.1%}"] in lines
    assert ["errors", str(counts[None]), f"{counts[None] / 41:.1%}"] in lines
    assert [line[:2] for line in lines if line[:1] == ["corrupt"]] == [["corrupt", "2"]]
    assert "Not a medical device" in text
    assert cli.main(["score", "--out", "elsewhere", "--summary"]) == 1
    assert "elsewhere: has no parts; name a SOURCE" in capsys.readouterr().err
    for handler in logger.handlers:
        handler.close()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_run_is_resumed_in_int8(tmp_path, files, write_bundle):
    bundle = ModelBundle.read(write_bundle(tmp_path / "bundle", int8=True))
    agreement = {"model_sha256": bundle.model_sha256, "int8_sha256": bundle.int8_sha256}
    (tmp_path / "evaluation").mkdir()
    save_json(tmp_path / "evaluation" / INT8_AGREEMENT_FILE, agreement | {"accepted": True})
    changes = {
        "training.bundle_dir": str(bundle.bundle_dir),
        "evaluation.root_dir": str(tmp_path / "evaluation"),
    }
    write_project(tmp_path, changes)
    write_files(tmp_path / "images/0", files)
    for number in range(1, 25):
        shutil.copytree(tmp_path / "images/0", tmp_path / f"images/{number}", copy_function=os.link)
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "main.py"), "score", "images", "--out", "out"]
    command += ["--part-size", "5", "--resume"]
    for count in (1, 40, 110):  # of 200 parts
        with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
            until(lambda: len(list(out.glob("part-*"))) >= count or process.poll() is not None)  # noqa: B023
            process.kill()
        assert process.returncode == -signal.SIGKILL
        rows_of(out)
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    rows = rows_of(out)
    assert rows.keys() == {f"{number}/{path}" for number in range(25) for path in files}
    assert {row["engine"] for row in rows.values()} == {"int8"}
    for path in files:
        assert len({str(rows[f"{number}/{path}"] | {"path": path}) for number in range(25)}) == 1
