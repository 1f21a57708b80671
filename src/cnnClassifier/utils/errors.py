"""Errors that end a command with one line."""


class UserError(Exception):
    """An error that the user can fix: the message says in one line what, where and how."""


class ConfigError(UserError):
    """A configuration file has an unknown, missing or invalid key."""


class SourceError(UserError):
    """The data source can't be downloaded, unpacked or recognized."""


class DownloadError(UserError):
    """A file can't be downloaded."""


class StorageError(UserError):
    """The disk is full, read-only, or lacks a file."""


class ManifestError(UserError):
    """The data can't be split as configured, or a manifest lacks data that a stage needs."""


class WeightsError(UserError):
    """No source provided the pretrained weights."""


class DivergenceError(UserError):
    """Training gave values that are not finite."""


class BundleError(UserError):
    """The bundle is missing, or its files don't belong together."""


class GateError(UserError):
    """The model or its data fail a gate of config.yaml."""


class ImageError(UserError):
    """Bytes that can't be used as an image.

    Attributes:
        code: for programs: `empty`, `not_an_image`, `corrupt`, `too_large`, `unsupported` or
            `no_such_frame`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        """Return how to make it again: processes send it to each other."""
        return ImageError, (self.code, str(self))
