"""Stage training."""

from cnnClassifier.components.training import Training
from cnnClassifier.config.configuration import ConfigurationManager


def main(manager: ConfigurationManager) -> None:
    """Train, and write the bundle."""
    Training(manager.training(), manager.tracking()).run()
