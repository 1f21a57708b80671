import pytest

from cnnClassifier.utils.errors import ConfigError, UserError
from cnnClassifier.utils.log import configure_logging, logger, run_and_report


@pytest.fixture
def log_file(tmp_path):
    """A place for a log; afterwards the logger is as it was."""
    kept = logger.handlers[:], logger.level, logger.propagate
    logger.handlers = []
    yield tmp_path / "logs" / "run.log"
    for handler in logger.handlers:
        handler.close()
    logger.handlers, logger.level, logger.propagate = kept


def stop(error):
    raise error


@pytest.mark.parametrize(
    ("work", "code", "said"),
    [
        (lambda: None, 0, ""),
        (lambda: stop(UserError("mend this")), 1, "error: stage: mend this\n"),
        (
            lambda: stop(KeyError("what")),
            1,
            "error: stage: KeyError: 'what'; the traceback is in {log}\n",
        ),
        (
            lambda: stop(ValueError("many\n\n  lines")),
            1,
            "error: stage: ValueError: many lines; the traceback is in {log}\n",
        ),
        (lambda: stop(KeyboardInterrupt()), 130, "warning: stage: stopped\n"),
    ],
)
def test_an_error_is_one_line_on_the_terminal_and_a_traceback_in_the_file(
    log_file, capsys, work, code, said
):
    configure_logging(log_file)
    assert run_and_report(work, "stage", log_file) == code
    assert capsys.readouterr() == ("", said.format(log=log_file))
    assert ("Traceback" in log_file.read_text()) == (code == 1)


def test_exit_of_the_program_is_not_swallowed(log_file):
    with pytest.raises(SystemExit):
        run_and_report(lambda: stop(SystemExit(3)), "stage", log_file)


def test_debug_goes_to_the_file_alone_and_nothing_is_said_twice(log_file, capsys):
    configure_logging(log_file)
    configure_logging(log_file)
    logger.debug("quiet")
    logger.info("loud: %d", 5)
    assert capsys.readouterr().err == "loud: 5\n"
    lines = log_file.read_text().splitlines()
    assert [line.rpartition(" cnnClassifier: ")[2] for line in lines] == ["quiet", "loud: 5"]
    assert " DEBUG " in lines[0]


@pytest.mark.parametrize("place", ["file/run.log", "folder"])
def test_a_log_that_cannot_be_written_is_named(tmp_path, place):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=r"can't be written .*log_file in config\.yaml"):
        configure_logging(tmp_path / place)


def test_a_server_whose_log_cannot_be_written_tells_the_terminal_everything(
    log_file, tmp_path, capsys
):
    (tmp_path / "logs").touch()
    configure_logging(log_file, or_terminal=True)
    assert run_and_report(lambda: stop(KeyError("what")), "stage", log_file) == 1
    said = capsys.readouterr().err
    assert " ERROR cnnClassifier: stage: KeyError" in said
    assert "Traceback" in said
