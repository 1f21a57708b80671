"""Keep heavy packages quiet: TensorFlow's start-up chatter, OpenVINO's telemetry."""

import logging
import os
import sys
import tempfile

from cnnClassifier.utils.log import logger


def import_tensorflow() -> None:
    """Import TensorFlow and start its devices; what its C++ prints meanwhile goes to the log file."""
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            import tensorflow as tf

            tf.get_logger().setLevel(
                logging.ERROR
            )  # it warns of many models in one process, such as a search's
            tf.config.list_physical_devices()
            tf.cast(tf.constant([0], tf.float16), tf.float32)
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            said.seek(0)
            for line in said.read().decode(errors="replace").splitlines():
                logger.log(logging.DEBUG, "tensorflow: %s", line)


def disable_telemetry() -> None:
    """Keep OpenVINO's tools from reporting to their makers, which they do unasked; call it before they are imported."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
