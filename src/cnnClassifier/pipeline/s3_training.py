"""Stage training: train the head and write the bundle."""

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnnClassifier.config.configuration import ConfigurationManager


def main(manager: "ConfigurationManager") -> None:
    """Train the head and write the bundle."""
    # Imported here, so that this file also runs as a script if the package isn't installed.
    from cnnClassifier.components.training import Training

    Training(manager.training(), manager.tracking()).run()


if __name__ == "__main__":  # from the project's folder
    sys.exit(subprocess.call([sys.executable, "main.py", "--only", "training"]))
