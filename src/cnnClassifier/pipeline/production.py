"""The commands promote and rollback: which model is in production."""

from cnnClassifier.config.configuration import ConfigurationManager
from cnnClassifier.tracking import registry
from cnnClassifier.utils.errors import UserError
from cnnClassifier.utils.log import logger


def promote(manager: ConfigurationManager, run: str | None, force: bool, reason: str) -> None:
    """Put a run's model into production, if its gates are met.

    Raises:
        UserError: they aren't; or it is forced without a reason.
    """
    if force and not reason:
        raise UserError("--force needs --reason TEXT, which is recorded with the model")
    _show(manager, registry.promote(manager.tracking(), run, force, reason))


def rollback(manager: ConfigurationManager, reason: str) -> None:
    """Put the model into production that was there before."""
    _show(manager, registry.rollback(manager.tracking(), reason))


def _show(manager: ConfigurationManager, version: str) -> None:
    name = manager.tracking().registered_model
    logger.info(
        "in production: %s, version %s (python app.py --model models:/%s@production)",
        name,
        version,
        name,
    )
