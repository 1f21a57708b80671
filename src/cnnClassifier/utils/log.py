"""Logging: short lines on the terminal, everything with tracebacks in a file."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

from cnnClassifier.utils.errors import ConfigError, UserError

logger = logging.getLogger("cnnClassifier")
_FULL_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def configure_logging(log_file: Path, or_terminal: bool = False) -> None:
    """Send messages to stderr, and messages with time, level and traceback to `log_file`.

    Args:
        log_file: its folder is created if necessary.
        or_terminal: if the file can't be written, as in a read-only container, send everything
            to stderr instead of raising an error.

    Raises:
        ConfigError: the file can't be written.
    """
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setFormatter(_OneLineFormatter())
    terminal.setLevel(logging.INFO)
    handlers: list[logging.Handler] = [terminal]
    try:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(log_file, encoding="utf-8"))
        handlers[-1].setFormatter(logging.Formatter(_FULL_FORMAT))
    except OSError as error:
        if not or_terminal:
            raise ConfigError(
                f"{log_file}: can't be written ({error.strerror}); set another log_file in "
                "config.yaml"
            ) from None
        terminal.setFormatter(logging.Formatter(_FULL_FORMAT))
    for handler in logger.handlers:
        handler.close()
    logger.handlers = handlers
    logger.setLevel(logging.DEBUG)
    logger.propagate = False


def run_and_report(work: Callable[[], None], name: str, log_file: Path) -> int:
    """Run `work`; log an error as one line on the terminal and a traceback in the log file.

    Args:
        work: the stage or command.
        name: starts each message.
        log_file: named in the message of an unexpected error.

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
        message = " ".join(str(error).split())  # TensorFlow's messages have many lines
        text = "%s: %s: %s; the traceback is in %s"
        logger.error(text, name, type(error).__name__, message, log_file, exc_info=True)
        return 1
    return 0


class _OneLineFormatter(logging.Formatter):
    """Print the level of warnings and errors, and no traceback."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.levelno < logging.WARNING:
            return message
        return f"{record.levelname.lower()}: {message}"
