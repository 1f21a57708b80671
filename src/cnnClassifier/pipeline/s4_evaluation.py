"""Stage evaluation."""

from cnnClassifier.components.evaluation import Evaluation
from cnnClassifier.config.configuration import ConfigurationManager


def main(manager: ConfigurationManager) -> None:
    """Evaluate the bundle on the test split, and log the run."""
    Evaluation(manager.evaluation()).run()
