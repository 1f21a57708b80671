"""Stage data_ingestion."""

from cnnClassifier.components.data_ingestion import DataIngestion
from cnnClassifier.config.configuration import ConfigurationManager


def main(manager: ConfigurationManager) -> None:
    """Fetch the data and unpack it."""
    DataIngestion(manager.data_ingestion()).run()
