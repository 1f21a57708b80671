"""Stage prepare_base_model: build the backbone and the head."""

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnnClassifier.config.configuration import ConfigurationManager


def main(manager: "ConfigurationManager") -> None:
    """Build the backbone and the head."""
    # Imported here, so that this file also runs as a script if the package isn't installed.
    from cnnClassifier.components.prepare_base_model import PrepareBaseModel

    PrepareBaseModel(manager.prepare_base_model()).run()


if __name__ == "__main__":  # from the project's folder
    sys.exit(subprocess.call([sys.executable, "main.py", "--only", "prepare_base_model"]))
