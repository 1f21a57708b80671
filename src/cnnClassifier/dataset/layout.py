"""Find the class folders of a data set, and arrange the images as `<class>/<file>`."""

import glob
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePath, PurePosixPath
from textwrap import shorten

from cnnClassifier.imaging.decode import SUFFIXES
from cnnClassifier.utils.common import create_directories
from cnnClassifier.utils.errors import SourceError
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.progress import progress

# Folder names, in lower case, that mean a split of the data.
SPLITS = {
    "train": "train",
    "training": "train",
    "valid": "validation",
    "validation": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
}
_MAX_NAMES_LENGTH = 200  # of a list of folders in a message


@dataclass(frozen=True)
class SourceImage:
    """An image of the source, and its class.

    Attributes:
        source: path relative to the source folder.
        split: folder of the split in the source, such as `Train`; empty if there are no splits.
        label: class, at first the class folder.
        name: path below the class folder.
    """

    source: PurePosixPath
    split: str
    label: str
    name: PurePosixPath

    @property
    def target(self) -> PurePosixPath:
        """The path in the data folder: `<class>/<name>` or `<split>/<class>/<name>`."""
        return PurePosixPath(self.split, self.label, self.name)


def is_image(path: PurePath) -> bool:
    """Tell by its name whether a file is an image, and not hidden or metadata of macOS."""
    return path.suffix.lower() in SUFFIXES and not any(map(_is_hidden, path.parts))


def list_images(folder: Path) -> list[PurePosixPath]:
    """Return the relative paths of all images below a folder, sorted; each folder is read once.

    Raises:
        OSError: a folder can't be read.
    """
    images = []
    visited = set()
    for root, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        real_path = os.path.realpath(root)
        if real_path in visited:  # a link to a folder above
            folders.clear()
            continue
        visited.add(real_path)
        folders.sort()
        for name in files:
            path = PurePosixPath(Path(root, name).relative_to(folder).as_posix())
            if is_image(path):
                images.append(path)
    return sorted(images)


def image_files(data_dir: Path) -> list[tuple[str, str]]:
    """Return (path, class) of every image in the data folder, sorted by path.

    Raises:
        SourceError: the folder is missing or contains no image.
    """
    images = list_images(data_dir) if data_dir.is_dir() else []
    if not images:
        raise SourceError(f"{data_dir}: contains no image; run data_ingestion first")
    has_splits = all(len(path.parts) > 2 and path.parts[0].lower() in SPLITS for path in images)
    label_index = 1 if has_splits else 0
    return [(str(path), path.parts[label_index]) for path in images]


def arrange_images(
    paths: list[PurePosixPath],
    class_patterns: Mapping[str, str] | None,
    class_count: int,
    source: str,
) -> list[SourceImage]:
    """Find the class folders, and the class and the target of each image.

    Folders that only wrap others are skipped; folders named like splits are kept. Class folders
    that differ only by case are merged. If file names clash in a merged class, the later one is
    prefixed with its folder.

    Args:
        paths: of the images, relative to the source folder.
        class_patterns: class → shell pattern of its folders, ignoring case; None: each folder is a
            class.
        class_count: expected number of classes.
        source: name of the source in messages.

    Raises:
        SourceError: no image, no class folder, another number of classes, or the patterns don't
            match the folders.
    """
    images = _find_class_folders(paths)
    if not images:
        raise SourceError(
            f"{source}: no image in a class folder; expected a folder for each class with files "
            f"of type {', '.join(sorted(SUFFIXES))}"
        )
    if len(images) < len(paths):
        logger.warning(
            "%s: skipped %d images outside of the class folders", source, len(paths) - len(images)
        )
    counts = Counter(image.label for image in images)
    # Without patterns each folder is a class; the first spelling names it.
    spellings = {folder.casefold(): folder for folder in sorted(counts, reverse=True)}
    own_patterns = {folder: glob.escape(folder) for folder in spellings.values()}
    labels = _match_patterns(counts, class_patterns or own_patterns, source)
    classes = set(labels.values())
    if len(classes) != class_count:
        raise SourceError(
            f"{source}: found {_join(classes)}, {len(classes)} instead of {class_count} classes "
            "(CLASSES in params.yaml); correct that, or select and merge the folders with "
            f"data_ingestion.classes; folders: {_join(counts)}"
        )
    return _assign_labels(images, labels)


def write_images(images: list[SourceImage], source: Path, target: Path, *, move: bool) -> None:
    """Move or copy the images from the source folder to the data folder.

    Raises:
        OSError: a file can't be read or written.
    """
    transfer = os.replace if move else shutil.copyfile
    for image in progress(images, desc="write", unit="file"):
        create_directories((target / image.target).parent)
        transfer(source / image.source, target / image.target)


def summarize(images: list[SourceImage]) -> str:
    """Return the number of images by class and by split, for the log."""
    classes = Counter(image.label for image in images)
    splits = Counter(image.split for image in images if image.split)
    text = f"{len(images)} images in {len(classes)} classes ({_format_counts(classes)})"
    return f"{text}, split as in the source ({_format_counts(splits)})" if splits else text


def _find_class_folders(paths: list[PurePosixPath]) -> list[SourceImage]:
    """Return the images in class folders; the label of each is its folder."""
    depth = _class_depth(paths, 0)
    folders = _folders_at(paths, depth)
    if not folders or not all(folder.casefold() in SPLITS for folder in folders):
        return _images_below(paths, depth, "")
    by_split: dict[str, list[PurePosixPath]] = {folder: [] for folder in sorted(folders)}
    for path in paths:
        if len(path.parts) > depth + 1:
            by_split[path.parts[depth]].append(path)
    # A split with several folders shows which folders are classes. In a split with one class, that
    # folder must not be taken for a wrapper of its patients' folders.
    class_folders: set[str] = set()
    for members in by_split.values():
        folders = _folders_at(members, _class_depth(members, depth + 1))
        if len(folders) > 1:
            class_folders.update(map(str.casefold, folders))
    images = []
    for split, members in by_split.items():
        images += _images_below(members, _class_depth(members, depth + 1, class_folders), split)
    return images


def _class_depth(paths: list[PurePosixPath], depth: int, class_folders: Iterable[str] = ()) -> int:
    """Return the depth of the first folders that don't merely wrap one other folder."""
    while True:
        folders = _folders_at(paths, depth)
        has_files = any(len(path.parts) == depth + 2 for path in paths)
        if len(folders) != 1 or has_files or folders.copy().pop().casefold() in class_folders:
            return depth
        depth += 1


def _folders_at(paths: list[PurePosixPath], depth: int) -> set[str]:
    return {path.parts[depth] for path in paths if len(path.parts) > depth + 1}


def _images_below(paths: list[PurePosixPath], depth: int, split: str) -> list[SourceImage]:
    images = []
    for path in paths:
        if len(path.parts) > depth + 1:
            name = PurePosixPath(*path.parts[depth + 1 :])
            images.append(SourceImage(path, split, path.parts[depth], name))
    return images


def _match_patterns(
    counts: Counter[str], class_patterns: Mapping[str, str], source: str
) -> dict[str, str]:
    """Return the class of each folder that matches a pattern."""
    labels: dict[str, str] = {}
    for label, pattern in class_patterns.items():
        if not label or PurePath(label).name != label or _is_hidden(label):
            raise SourceError(
                f"data_ingestion.classes: {label!r} is no folder name; choose a plain word"
            )
        matches = [
            folder for folder in counts if fnmatchcase(folder.casefold(), pattern.casefold())
        ]
        if not matches:
            raise SourceError(
                f"{source}: no folder matches {pattern!r} of class {label}; found {_join(counts)}; "
                "correct data_ingestion.classes"
            )
        for folder in matches:
            if folder in labels:
                raise SourceError(
                    f"{source}: folder {folder} matches the patterns of both {labels[folder]} and "
                    f"{label}; make the patterns in data_ingestion.classes narrower"
                )
            labels[folder] = label
    skipped = {folder: counts[folder] for folder in counts if folder not in labels}
    if skipped:
        logger.info("%s: skipped folders without a pattern: %s", source, _format_counts(skipped))
    return labels


def _assign_labels(images: list[SourceImage], labels: Mapping[str, str]) -> list[SourceImage]:
    """Replace folders by classes; make targets unique, also on disks that ignore case."""
    labeled = []
    targets = set()
    for image in images:
        if image.label not in labels:
            continue
        folder = image.label
        image = replace(image, label=labels[folder])
        while str(image.target).casefold() in targets:
            image = replace(image, name=image.name.with_name(f"{folder}_{image.name.name}"))
        targets.add(str(image.target).casefold())
        labeled.append(image)
    return labeled


def _join(names: Iterable[str]) -> str:
    return shorten(", ".join(sorted(names)), _MAX_NAMES_LENGTH, placeholder=" …")


def _format_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _raise(error: OSError) -> None:
    raise error
