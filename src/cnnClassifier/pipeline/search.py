"""The command search."""

from cnnClassifier.components.search import Search
from cnnClassifier.config.configuration import ConfigurationManager


def main(
    manager: ConfigurationManager, trials: int | None, timeout_s: float | None, apply: bool
) -> None:
    """Try parameters, write the report and, where asked, the best of them into params.yaml."""
    Search(manager.search(), manager.tracking()).run(trials, timeout_s, apply)
