"""The command sync: send the runs that didn't reach the server."""

from cnnClassifier.config.configuration import ConfigurationManager
from cnnClassifier.utils.log import logger


def main(manager: ConfigurationManager) -> None:
    """Send them, once each."""
    from cnnClassifier.tracking.sync import sync

    sent = sync(manager.tracking(), lambda text: logger.info("%s", text))
    logger.info("%d runs sent", sent)
