"""Import heavy packages without their start-up messages and telemetry."""

import logging
import os
import sys
import tempfile

from cnnClassifier.utils.log import logger


def import_tensorflow() -> None:
    """Import TensorFlow and start its devices; the messages of its C++ code go to the log file."""
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as output:
        os.dup2(output.fileno(), 2)  # C++ writes to the file descriptor, not to sys.stderr
        try:
            import tensorflow as tf

            tf.get_logger().setLevel(logging.ERROR)  # it warns of many models in one process
            tf.config.list_physical_devices()
            tf.cast(tf.constant([0], tf.float16), tf.float32)
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            output.seek(0)
            for line in output.read().decode(errors="replace").splitlines():
                logger.debug("tensorflow: %s", line)


def disable_telemetry() -> None:
    """Keep OpenVINO's tools from sending usage data; call it before they are imported."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
