"""Find the class folders of a data set, and arrange the images as `<class>/<file>`."""

import csv
import glob
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePath, PurePosixPath
from textwrap import shorten
from typing import Literal, NamedTuple

from cnnClassifier.imaging.decode import SUFFIXES
from cnnClassifier.imaging.dicom_header import MAGIC_BYTES, is_dicom
from cnnClassifier.imaging.file_names import has_suffix, is_hidden, is_image
from cnnClassifier.utils.common import create_directories
from cnnClassifier.utils.errors import SourceError
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.progress import progress
from cnnClassifier.utils.source_files import listed_paths

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
GROUPS_FILE = "groups.csv"  # beside the class folders: the groups that the source gives
_MAX_NAMES_LENGTH = 200  # of a list of folders in a message


class SourceImage(NamedTuple):
    """An image of the source, and its class.

    Attributes:
        source: path relative to the source folder.
        split: folder of the split in the source, such as `Train`; empty if there are no splits.
        label: class, or the folder or the label in the source that it is selected by.
        name: path below the class folder.
        group: given by the source; empty if there is none.
    """

    source: PurePosixPath
    split: str
    label: str
    name: PurePosixPath
    group: str = ""

    @property
    def target(self) -> PurePosixPath:
        """Path in the data folder, `<class>/<name>` or `<split>/<class>/<name>`."""
        return PurePosixPath(self.split, self.label, self.name)


def list_images(folder: Path) -> list[PurePosixPath]:
    """Return the relative paths of all images below a folder, sorted; each folder is read once.

    A file without a suffix is an image if it is a DICOM file.

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
            if is_image(path) and (has_suffix(path) or _is_dicom_file(folder / path)):
                images.append(path)
    return sorted(images)


def image_files(data_dir: Path) -> list[tuple[str, str]]:
    """Return (path, class) of every image in the data folder, sorted by path.

    Raises:
        SourceError: the folder is missing or contains no image.
    """
    images = list_images(data_dir) if data_dir.is_dir() else []
    images = sorted([*images, *map(PurePosixPath, listed_paths(data_dir))])
    if not images:
        raise SourceError(f"{data_dir}: contains no image; run data_ingestion first")
    has_splits = all(len(path.parts) > 2 and path.parts[0].lower() in SPLITS for path in images)
    label_index = 1 if has_splits else 0
    return [(str(path), path.parts[label_index]) for path in images]


def find_class_folders(paths: list[PurePosixPath], source: str) -> list[SourceImage]:
    """Find the class folders; the label of an image is the name of its folder.

    Folders that only wrap others are skipped; folders named like splits are kept.

    Args:
        paths: of the images, relative to the source folder.
        source: name of the source in messages.

    Raises:
        SourceError: no image is in a class folder.
    """
    depth = class_depth = _skip_wrappers(paths, 0)
    folders = set(map(str.casefold, _folders_at(paths, depth)))
    if folders and folders <= SPLITS.keys():
        class_depth = _skip_wrappers(paths, depth + 1)
    in_folders = [path for path in paths if len(path.parts) > class_depth + 1]
    if not in_folders:
        raise SourceError(
            f"{source}: no image in a class folder; expected a folder for each class with files "
            f"of type {', '.join(sorted(SUFFIXES))}"
        )
    skipped = len(paths) - len(in_folders)
    if skipped:
        logger.warning("%s: skipped %d images outside of the class folders", source, skipped)
    images = []
    for path in in_folders:
        split = path.parts[depth] if class_depth > depth else ""
        name = PurePosixPath(*path.parts[class_depth + 1 :])
        images.append(SourceImage(path, split, path.parts[class_depth], name))
    return images


def arrange_images(
    images: list[SourceImage],
    class_patterns: Mapping[str, str] | None,
    class_count: int | Literal["auto"],
    source: str,
) -> list[SourceImage]:
    """Select the images of each class, and make their targets unique.

    Labels that differ only by case are merged. If file names clash in a merged class, the later one
    is prefixed with its label in the source. DICOM files without a suffix get one.

    Args:
        images: of the source, with its labels.
        class_patterns: class → shell pattern of its folders or labels, ignoring case; if none
            matches, the folder with the name of the class. None: each folder is a class.
        class_count: expected number of classes; auto: two or more.
        source: name of the source in messages.

    Raises:
        SourceError: another number of classes, or the patterns don't match the folders.
    """
    counts = Counter(image.label for image in images)
    # Without patterns each folder is a class; the first spelling names it.
    spellings = {folder.casefold(): folder for folder in sorted(counts, reverse=True)}
    own_patterns = {folder: glob.escape(folder) for folder in spellings.values()}
    labels = _match_patterns(counts, class_patterns or own_patterns, source)
    classes = set(labels.values())
    if class_count == "auto" and len(classes) < 2:
        raise SourceError(
            f"{source}: one class, {_join(classes)}; a classifier needs two or more: add a folder "
            "of images, or select the folders with data_ingestion.classes; folders: "
            f"{_join(counts)}"
        )
    if class_count not in ("auto", len(classes)):
        raise SourceError(
            f"{source}: found {_join(classes)}, {len(classes)} instead of {class_count} classes "
            "(CLASSES in params.yaml); correct that, or select and merge the folders with "
            f"data_ingestion.classes; folders: {_join(counts)}"
        )
    return _assign_targets(images, labels)


def write_images(images: list[SourceImage], source: Path, target: Path, *, move: bool) -> None:
    """Move or copy the images from the source folder to the data folder.

    Raises:
        OSError: a file can't be read or written.
    """
    transfer = os.replace if move else shutil.copyfile
    for image in progress(images, desc="write", unit="file"):
        create_directories((target / image.target).parent)
        transfer(source / image.source, target / image.target)


def write_groups(images: list[SourceImage], data_dir: Path) -> None:
    """Write the groups that the source gives to `groups.csv`; nothing if it gives none."""
    rows = [(str(image.target), image.group) for image in images if image.group]
    if rows:
        with (data_dir / GROUPS_FILE).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("path", "group"), *rows])


def read_groups(data_dir: Path) -> dict[str, str]:
    """Return the group of each path in `groups.csv`; empty if the source gives no groups."""
    path = data_dir / GROUPS_FILE
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row["path"]: row["group"] for row in csv.DictReader(file)}


def summarize(images: list[SourceImage]) -> str:
    """Return the number of images by class and by split, for the log."""
    classes = Counter(image.label for image in images)
    splits = Counter(image.split for image in images if image.split)
    text = f"{len(images)} images in {len(classes)} classes ({_format_counts(classes)})"
    return f"{text}, split as in the source ({_format_counts(splits)})" if splits else text


def _skip_wrappers(paths: list[PurePosixPath], depth: int) -> int:
    """Return the depth of the first folders that don't merely wrap one other folder."""
    while True:
        has_files = any(len(path.parts) == depth + 2 for path in paths)
        if len(_folders_at(paths, depth)) != 1 or has_files:
            return depth
        depth += 1


def _folders_at(paths: list[PurePosixPath], depth: int) -> set[str]:
    return {path.parts[depth] for path in paths if len(path.parts) > depth + 1}


def _match_patterns(
    counts: Counter[str], class_patterns: Mapping[str, str], source: str
) -> dict[str, str]:
    """Return the class of each folder that matches a pattern."""
    labels: dict[str, str] = {}
    for label, pattern in class_patterns.items():
        if PurePath(label).name != label or is_hidden(label):
            raise SourceError(
                f"data_ingestion.classes: {label!r} is no folder name; choose a plain word"
            )
        folded = pattern.casefold()
        matches = [name for name in counts if fnmatchcase(name.casefold(), folded)]
        # Generated images are in folders with the names of the classes.
        matches = matches or [name for name in counts if name.casefold() == label.casefold()]
        if not matches:
            raise SourceError(
                f"{source}: no folder matches {pattern!r} of class {label}; found {_join(counts)}; "
                "correct data_ingestion.classes"
            )
        both = labels.keys() & matches
        if both:
            raise SourceError(
                f"{source}: folder {_join(both)} matches the patterns of class {label} and of "
                "another one; make the patterns in data_ingestion.classes narrower"
            )
        labels |= dict.fromkeys(matches, label)
    skipped = {folder: counts[folder] for folder in counts if folder not in labels}
    if skipped:
        logger.info("%s: skipped folders without a pattern: %s", source, _format_counts(skipped))
    return labels


def _assign_targets(images: list[SourceImage], labels: Mapping[str, str]) -> list[SourceImage]:
    """Replace folders by classes; make targets unique, also on disks that ignore case."""
    arranged = []
    targets = set()
    for image in images:
        folder = image.label
        if folder not in labels:
            continue
        name = image.name
        if not has_suffix(name):
            name = name.with_name(f"{name.name}.dcm")
        image = image._replace(label=labels[folder], name=name)
        while str(image.target).casefold() in targets:
            name = image.name.with_name(f"{folder}_{image.name.name}")
            image = image._replace(name=name)
        targets.add(str(image.target).casefold())
        arranged.append(image)
    return arranged


def _join(names: Iterable[str]) -> str:
    return shorten(", ".join(sorted(names)), _MAX_NAMES_LENGTH, placeholder=" …")


def _format_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _is_dicom_file(path: Path) -> bool:
    if not path.is_file():  # a broken link, a pipe
        return False
    with path.open("rb") as file:
        return is_dicom(file.read(MAGIC_BYTES))


def _raise(error: OSError) -> None:
    raise error
