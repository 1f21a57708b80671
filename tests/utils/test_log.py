import pytest

from cnnClassifier.utils.errors import ConfigError, UserError
from cnnClassifier.utils.log import configure_logging, logger, run_and_report


@pytest.fixture
def log_file(tmp_path, monkeypatch):
    """The path of a log; afterwards the logger is as before."""
    for name in ("handlers", "level", "propagate"):
        monkeypatch.setattr(logger, name, getattr(logger, name))
    logger.handlers = []
    yield tmp_path / "logs" / "run.log"
    for handler in logger.handlers:
        handler.close()


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("fix this"), 1, "error: stage: fix this\n"),
        (KeyError("a"), 1, "error: stage: KeyError: 'a'; the traceback is in {log}\n"),
        (
            ValueError("many\n\n  lines"),
            1,
            "error: stage: ValueError: many lines; the traceback is in {log}\n",
        ),
        (KeyboardInterrupt(), 130, "warning: stage: stopped\n"),
    ],
)
def test_an_error_is_one_line_on_the_terminal_and_a_traceback_in_the_file(
    log_file, capsys, error, code, message
):
    def work():
        raise error

    configure_logging(log_file)
    assert run_and_report(work, "stage", log_file) == code
    assert capsys.readouterr() == ("", message.format(log=log_file))
    assert ("Traceback" in log_file.read_text()) == (code == 1)


def test_success_and_the_exit_of_the_program_are_not_reported(log_file, capsys):
    configure_logging(log_file)
    assert run_and_report(lambda: None, "stage", log_file) == 0
    with pytest.raises(SystemExit):
        run_and_report(lambda: exec("raise SystemExit(3)"), "stage", log_file)
    assert capsys.readouterr().err == ""


def test_debug_messages_go_to_the_file_alone_and_no_message_is_repeated(log_file, capsys):
    configure_logging(log_file)
    configure_logging(log_file)
    logger.debug("quiet")
    logger.info("loud: %d", 5)
    assert capsys.readouterr().err == "loud: 5\n"
    debug, info = log_file.read_text().splitlines()
    assert debug.endswith(" DEBUG cnnClassifier: quiet")
    assert info.endswith(" INFO cnnClassifier: loud: 5")


@pytest.mark.parametrize("name", ["file/run.log", "folder"])
def test_a_log_that_cannot_be_written_is_an_error_or_goes_to_the_terminal(
    log_file, tmp_path, capsys, name
):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=r"can't be written .*log_file in config\.yaml"):
        configure_logging(tmp_path / name)
    configure_logging(tmp_path / name, or_terminal=True)
    run_and_report(lambda: {}["key"], "stage", log_file)
    message = capsys.readouterr().err
    assert " ERROR cnnClassifier: stage: KeyError" in message
    assert "Traceback" in message
