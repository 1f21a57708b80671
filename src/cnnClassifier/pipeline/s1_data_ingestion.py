"""Stage data_ingestion: download the data and unpack it."""

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnnClassifier.config.configuration import ConfigurationManager


def main(manager: "ConfigurationManager") -> None:
    """Download the data and unpack it."""
    # Imported here, so that this file also runs as a script if the package isn't installed.
    from cnnClassifier.components.data_ingestion import DataIngestion

    DataIngestion(manager.data_ingestion()).run()


if __name__ == "__main__":  # from the project's folder
    sys.exit(subprocess.call([sys.executable, "main.py", "--only", "data_ingestion"]))
