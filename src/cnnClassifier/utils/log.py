"""Logging: short lines on the terminal, everything with tracebacks in a file."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

from cnnClassifier.utils.errors import ConfigError, UserError

logger = logging.getLogger("cnnClassifier")


def configure_logging(log_file: Path, or_terminal: bool = False) -> None:
    """Send log records to stderr (messages alone) and to `log_file` (with time, level and traceback).

    Args:
        log_file: its folder is made if need be.
        or_terminal: where the file can't be written, as in a read-only container, stderr takes its place.

    Raises:
        ConfigError: the file can't be written.
    """
    full = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setFormatter(_OneLine("%(message)s"))
    terminal.setLevel(logging.INFO)
    handlers: list[logging.Handler] = [terminal]
    try:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(log_file, encoding="utf-8")
    except OSError as error:
        if not or_terminal:
            raise ConfigError(
                f"{log_file}: can't be written ({error.strerror}); name another log_file in config.yaml"
            ) from None
        terminal.setFormatter(full)
    else:
        file.setFormatter(full)
        handlers.append(file)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    for handler in handlers:
        logger.addHandler(handler)


def run_and_report(work: Callable[[], None], name: str, log_file: Path) -> int:
    """Run `work`; turn an error into one line on the terminal and a traceback in the log file.

    Returns:
        The exit code: 0, 1 for an error, 130 for Ctrl-C.
    """
    try:
        work()
    except KeyboardInterrupt:
        logger.warning("%s: stopped", name)
        return 130
    except UserError as error:
        logger.error("%s: %s", name, error, exc_info=True)
        return 1
    except Exception as error:
        message = " ".join(str(error).split())  # TensorFlow's go over many lines
        hint = f"; the traceback is in {log_file}"
        logger.error("%s: %s: %s%s", name, type(error).__name__, message, hint, exc_info=True)
        return 1
    return 0


class _OneLine(logging.Formatter):
    """Leave the traceback to the log file."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        return (
            f"{record.levelname.lower()}: {message}"
            if record.levelno >= logging.WARNING
            else message
        )
