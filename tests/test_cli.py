"""The command line: which words it takes, and how it ends."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cnnClassifier import cli
from cnnClassifier.entity.feedback import FeedbackFolder
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
