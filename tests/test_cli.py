"""The command line: which words it takes, and how it ends."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.drift import draw_images, serve
from cnnClassifier import cli
from cnnClassifier.entity.bundle import MODEL_FILE, OOD_DETECTOR_FILE, HeadKind, ModelBundle
from cnnClassifier.entity.drift import served_file_name
from cnnClassifier.entity.feedback import FeedbackFolder
from cnnClassifier.evaluation.drift import build_reference
from cnnClassifier.utils.common import sha256_of
from cnnClassifier.utils.log import logger
from tests.entity.test_feedback_folder import record_of
from tests.evaluation.test_comparison import evaluated, write
from tests.project import ROOT, write_project
from tests.waiting import PATIENCE_S

FILES = ["--config", "config/config.yaml", "--params", "params.yaml"]


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A working directory with the two files alone; afterwards the logger is as before."""
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path)
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", logger.propagate)
    yield
    for handler in logger.handlers:
        handler.close()


@pytest.fixture
def calls(monkeypatch):
    """Record the processes that would be started; the scores can't be printed."""
    commands = []

    def call(command):
        commands.append(command[2:])
        return 5 if "scores" in command else 0

    monkeypatch.setattr(cli.subprocess, "call", call)
    return commands


def test_without_a_command_all_stages_run_and_then_the_scores_are_printed(calls):
    assert cli.main(FILES) == 5
    assert calls == [["--only", stage, *FILES] for stage in cli.STAGES] + [["scores", *FILES]]


@pytest.mark.parametrize(
    "words",
    [
        ["--from", "training", *FILES],
        ["run", "--from", "training", *FILES],
        [*FILES, "run", "--from", "training"],
    ],
)
def test_a_run_may_start_at_a_stage(calls, words):
    cli.main(words)
    assert [command[1] for command in calls[:-1]] == ["training", "evaluation"]
    assert calls[0][2:] == FILES


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "holiday"], "invalid choice: 'holiday'"),
        (["--only", "training", "--from", "training"], "not allowed with argument"),
        (["--only", "training", "scores"], "--from and --only go with run"),
        (["scores", "--only", "training"], "unrecognized arguments"),
        (["scores", "--markdown"], "unrecognized arguments"),
        (["compare"], "the following arguments are required: A"),
        (["compare", "a", "b", "c"], "unrecognized arguments: c"),
        (["promote", "a", "b"], "unrecognized arguments: b"),
        (["search", "--n-trials", "many"], "invalid int value: 'many'"),
        (["feedback", "--accept", "all", "--reject", "all"], "not allowed with argument"),
        (["holiday"], "invalid choice: 'holiday'"),
    ],
)
def test_a_wrong_command_line_is_refused(capsys, words, message):
    with pytest.raises(SystemExit, match="2"):
        cli.main(words)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "nowhere.yaml"], "No such file or directory; use --config or --params"),
        (
            ["scores", "--config", "list.yaml"],
            "list.yaml: expected keys with values, found ['a list']",
        ),
        (
            ["--config", "list.yaml", "scores"],
            "list.yaml: expected keys with values, found ['a list']",
        ),
        (
            ["sync", "--params", "wrong_params.yaml"],
            "wrong_params.yaml: SEED: expected a whole number from 0",
        ),
        (
            ["--only", "training", "--config", "wrong_config.yaml"],
            "blocked/run.log: can't be written",
        ),
        (["scores"], "scores: artifacts/evaluation/scores.json is missing; run `dvc repro`"),
        (["search", "--timeout", "-1"], "search: --timeout: expected a number above 0"),
        (["drift"], "drift: serving.drift_dir is null; set it to a folder in config.yaml"),
        (["score", "--out", "x"], "score: name a SOURCE to score, or add --summary"),
        (["score", "a", "--out", "x", "--part-size", "0"], "score: --part-size: expected a number"),
        (["promote", "--force"], "promote: --force needs --reason TEXT"),
        (["feedback"], "feedback: serving.feedback_dir is null in config.yaml: set it to a folder"),
        (
            ["--only", "data_validation"],
            "data_validation: artifacts/data_ingestion/data: contains no image",
        ),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(tmp_path, capsys, words, message):
    for name, key, value in (
        ("config/config.yaml", "log_file", "blocked/run.log"),
        ("params.yaml", "SEED", "x"),
    ):
        content = yaml.safe_load(Path(name).read_text("utf-8")) | {key: value}
        Path(f"wrong_{Path(name).name}").write_text(yaml.safe_dump(content), "utf-8")
    Path("list.yaml").write_text("- a list")
    Path("blocked").touch()
    assert cli.main(words) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("error: ")
    assert message in err


def test_compare_prints_two_evaluations_and_writes_a_page(tmp_path, capsys):
    before = str(write(tmp_path / "before", evaluated(skill=0.5)))
    (tmp_path / "artifacts").mkdir()
    write(tmp_path / "artifacts/evaluation", evaluated(skill=2))

    assert cli.main(["compare", before]) == 0
    alone = capsys.readouterr().out
    assert before in alone  # in one piece, however long it is
    assert f"A: {before} B: artifacts/evaluation " in " ".join(alone.split())
    assert "Model B is better" in alone
    words = ["compare", before, "artifacts/evaluation", "--names", "main", "here", "--markdown"]
    assert cli.main([*words, "--html", "pages/comparison.html"]) == 0
    assert capsys.readouterr().out.startswith("### main (A) and here (B)\n\n**Model B is better:")
    page = tmp_path / "pages/comparison.html"
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert cli.main(["compare", "nothing"]) == 1
    assert "no folder, git revision" in capsys.readouterr().err
    assert not (tmp_path / "mlflow.db").exists()


def test_feedback_is_listed_and_decided_on(tmp_path, capsys):
    write_project(tmp_path, {"serving.feedback_dir": "received"})
    for image in (b"first", b"second"):
        FeedbackFolder(tmp_path / "received").add(record_of(image), image, 10**6)
    assert cli.main(["feedback", "--accept", record_of(b"first").id]) == 0
    assert "1 accepted: the next `dvc repro` trains on them" in capsys.readouterr().err
    assert cli.main(["feedback"]) == 0
    assert capsys.readouterr().out.startswith("1 pending, 1 accepted, 0 rejected\n")
    assert cli.main(["feedback", "--reject", "all"]) == 0
    assert [path.read_bytes() for path in tmp_path.glob("feedback/normal/*")] == [b"first"]


def test_drift_prints_a_report_and_writes_a_page(tmp_path, capsys):
    write_project(tmp_path, {"serving.drift_dir": "served"})
    assert cli.main(["drift"]) == 1
    assert "no trained model: artifacts/training/model.json" in capsys.readouterr().err
    rng = np.random.default_rng(0)
    training = draw_images(rng, 160, 3, 0.5)
    reference = build_reference(training.features, training.predicted, 2, training.groups)
    bundle = write_described_bundle(tmp_path / "artifacts/training", drift_reference=reference)
    assert cli.main(["drift"]) == 1
    assert "drift: served is missing; app.py makes it" in capsys.readouterr().err
    served = serve(reference, draw_images(rng, 40, 3, 0.5, brighter=30))
    for hour, model_id in (("2030-01-31T09", bundle.model_id), ("2030-01-31T10", "0" * 12)):
        served.write(tmp_path / "served" / served_file_name(hour, model_id, "0123abcd"))
    assert cli.main(["drift", "--since", "2030-01-31", "--html", "pages/drift.html"]) == 0
    text = capsys.readouterr().out
    page = (tmp_path / "pages/drift.html").read_text("utf-8")
    for content in (" ".join(text.split()), page):
        assert "2030-01-31 00:00 UTC" in content
        assert "The served images differ from the training images: mean intensity." in content
        assert "Mean intensity is higher: " in content
        assert "1 hourly files are of other models" in content
        assert "say nothing about real images" in content
    assert "<svg" in page
    assert cli.main(["drift", "--since", "2030-01-31T10"]) == 0
    assert "No images were served in these hours." in capsys.readouterr().out
    for words in (["--hours", "0"], ["--since", "noon"], ["--bundle", "nowhere"]):
        assert cli.main(["drift", *words]) == 1
        assert capsys.readouterr().err.count("\n") == 1
    write_described_bundle(tmp_path / "old", drift_reference=None)
    assert cli.main(["drift", "--bundle", "old"]) == 1
    assert "an older version trained it; run dvc repro" in capsys.readouterr().err


def write_described_bundle(folder, **changes):
    """Write a bundle that can be read; its model can't be run."""
    folder.mkdir(parents=True)
    (folder / MODEL_FILE).write_bytes(b"model")
    (folder / OOD_DETECTOR_FILE).write_bytes(b"detector")
    bundle = ModelBundle(
        classes=("ill", "well"),
        positive_class="ill",
        image_size=(32, 32, 3),
        heads={"linear": HeadKind(weight=1, temperature=1)},
        temperature=1,
        threshold=0.5,
        operating_points={},
        calibration={},
        max_disagreement=None,
        feature_layer="map",
        ood_threshold=2,
        backbone="tiny",
        data_source="phantom:",
        synthetic=True,
        model_sha256=sha256_of(folder / MODEL_FILE),
        ood_detector_sha256=sha256_of(folder / OOD_DETECTOR_FILE),
        manifest_sha256="0" * 64,
        versions={},
        **changes,
    )
    bundle.write(folder)
    return bundle


def python(*words, cwd):
    """Run a Python that has the standard library alone."""
    command = [sys.executable, "-S", "-E", "-B", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE_S)


@pytest.mark.parametrize("words", [["--help"], ["compare", "--help"]])
def test_help_needs_no_package(tmp_path, words):
    done = python(ROOT / "main.py", *words, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: main.py ")


@pytest.mark.parametrize(("stage", "name"), cli.STAGES.items())
def test_a_stage_file_runs_its_stage(tmp_path, stage, name):
    (tmp_path / "main.py").write_text("import sys; print(sys.argv[1:]); sys.exit(3)")
    done = python(ROOT / f"src/cnnClassifier/pipeline/{name}.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, f"['--only', '{stage}']\n")


def test_a_python_without_the_packages_is_reported(tmp_path):
    done = python(ROOT / "main.py", "scores", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: the packages are not installed; activate")
