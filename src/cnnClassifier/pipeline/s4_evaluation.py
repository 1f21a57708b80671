"""Stage evaluation: evaluate the bundle and log the run."""

import subprocess
import sys
from typing import Any


def main(manager: Any) -> None:
    """Evaluate the bundle and log the run."""
    # Imported here, so that this file also runs as a script if the package isn't installed.
    from cnnClassifier.components.evaluation import Evaluation

    Evaluation(manager.evaluation()).run()


if __name__ == "__main__":  # from the project's folder
    sys.exit(subprocess.call([sys.executable, "main.py", "--only", "evaluation"]))
