"""Tell by its name whether a file may be an image."""

from pathlib import PurePath

from cnnClassifier.imaging.decode import SUFFIXES


def is_image(path: PurePath) -> bool:
    """Tell by its name whether a file may be an image, and is not hidden or metadata of macOS.

    Scanners and archives of hospitals name DICOM files without a suffix, or by a UID, which ends
    with a number. The content of such a file decides, see `has_suffix`.
    """
    if any(map(is_hidden, path.parts)) or path.name.upper() == "DICOMDIR":
        return False
    return has_suffix(path) or path.suffix[1:].isdigit() or not path.suffix


def has_suffix(path: PurePath) -> bool:
    """Return whether the name ends like that of an image; otherwise only DICOM files are images."""
    return path.suffix.lower() in SUFFIXES


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, or metadata of macOS."""
    return name.startswith(".") or name == "__MACOSX"
