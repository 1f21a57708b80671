"""Errors that end in one line for the person at the keyboard."""


class UserError(Exception):
    """Something that the user can mend: the message says what, where and what to do, in one line."""


class ConfigError(UserError):
    """A configuration file has a missing, unknown or ill-typed key."""


class SourceError(UserError):
    """The data source can't be fetched, unpacked or understood."""


class DownloadError(UserError):
    """A file can't be downloaded."""


class StorageError(UserError):
    """The disk is full, read-only, or lacks a file."""


class ManifestError(UserError):
    """The data can't be split as asked, or a manifest doesn't hold what a stage needs."""


class WeightsError(UserError):
    """No source gave the pretrained weights."""


class BundleError(UserError):
    """The trained bundle is missing or its parts don't belong together."""


class GateError(UserError):
    """The model or its data don't meet what config.yaml asks."""


class ImageError(UserError):
    """Bytes that can't be used as an image.

    Attributes:
        code: a stable word for programs: `empty`, `not_an_image`, `corrupt`, `too_large`, `unsupported` or
            `no_such_frame`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
