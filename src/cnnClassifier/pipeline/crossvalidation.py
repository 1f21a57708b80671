"""The command crossvalidate."""

from cnnClassifier.components.crossvalidation import CrossValidation
from cnnClassifier.config.configuration import ConfigurationManager


def main(manager: ConfigurationManager) -> None:
    """Judge the recipe in grouped folds over all images."""
    CrossValidation(manager.crossvalidation(), manager.tracking()).run()
