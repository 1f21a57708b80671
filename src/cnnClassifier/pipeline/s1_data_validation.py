"""Stage data_validation."""

from cnnClassifier.components.data_validation import DataValidation
from cnnClassifier.config.configuration import ConfigurationManager


def main(manager: ConfigurationManager) -> None:
    """Audit the data and write the manifest."""
    DataValidation(manager.data_validation()).run()
