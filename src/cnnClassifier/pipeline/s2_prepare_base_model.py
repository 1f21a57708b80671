"""Stage prepare_base_model."""

from cnnClassifier.components.prepare_base_model import PrepareBaseModel
from cnnClassifier.config.configuration import ConfigurationManager


def main(manager: ConfigurationManager) -> None:
    """Prepare the backbone and the classifier on it."""
    PrepareBaseModel(manager.prepare_base_model()).run()
