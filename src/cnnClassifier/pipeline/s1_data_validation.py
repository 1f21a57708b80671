"""Stage data_validation: check the data and write the manifest."""

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnnClassifier.config.configuration import ConfigurationManager


def main(manager: "ConfigurationManager") -> None:
    """Check the data and write the manifest."""
    # Imported here, so that this file also runs as a script if the package isn't installed.
    from cnnClassifier.components.data_validation import DataValidation

    DataValidation(manager.data_validation()).run()


if __name__ == "__main__":  # from the project's folder
    sys.exit(subprocess.call([sys.executable, "main.py", "--only", "data_validation"]))
