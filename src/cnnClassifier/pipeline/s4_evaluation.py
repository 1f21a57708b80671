"""Stage evaluation: evaluate the bundle on the test split and log the run."""

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnnClassifier.config.configuration import ConfigurationManager


def main(manager: "ConfigurationManager") -> None:
    """Evaluate the bundle on the test split and log the run."""
    # Imported here, so that this file also runs as a script if the package isn't installed.
    from cnnClassifier.components.evaluation import Evaluation

    Evaluation(manager.evaluation()).run()


if __name__ == "__main__":  # from the project's folder
    sys.exit(subprocess.call([sys.executable, "main.py", "--only", "evaluation"]))
