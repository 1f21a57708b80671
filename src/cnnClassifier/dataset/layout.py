"""Find the class folders, wherever they stand, and say where each image goes."""

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePath, PurePosixPath

from cnnClassifier.dataset.storage import check_free
from cnnClassifier.imaging.decode import SUFFIXES
from cnnClassifier.utils.common import create_directories
from cnnClassifier.utils.errors import SourceError
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.progress import progress

# Names of folders that hold a split of the data, in lower case, and which split they mean.
SPLITS = {
    "train": "train",
    "training": "train",
    "valid": "validation",
    "validation": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Placed:
    """An image and its place in the data folder.

    Attributes:
        source: where it was received, relative to the received folder.
        split: the split's folder as received, such as `Train`; None where the data isn't split.
        label: the class.
        name: the path below the class folder.
    """

    source: PurePosixPath
    split: str | None
    label: str
    name: PurePosixPath

    @property
    def target(self) -> PurePosixPath:
        """The path in the data folder: `<class>/<name>` or `<split>/<class>/<name>`."""
        return PurePosixPath(self.split or "", self.label, self.name)


@dataclass(frozen=True)
class _Found:
    """An image in a class folder, before classes are merged or renamed."""

    source: PurePosixPath
    split: str | None
    folder: str
    name: PurePosixPath


def is_image(path: PurePath) -> bool:
    """Tell by suffix whether a path is an image's and neither hidden nor macOS's litter."""
    return path.suffix.lower() in SUFFIXES and not any(_is_litter(part) for part in path.parts)


def list_images(folder: Path) -> list[PurePosixPath]:
    """Return all images below `folder`, relative to it, sorted; links to folders are followed once.

    Raises:
        OSError: a folder can't be read.
    """
    found: list[PurePosixPath] = []
    seen: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        real = os.path.realpath(here)
        folders[:] = (
            sorted(name for name in folders if not _is_litter(name)) if real not in seen else []
        )
        if real not in seen:
            below = PurePosixPath(*Path(here).relative_to(folder).parts)
            found += [below / name for name in files if is_image(PurePosixPath(name))]
        seen.add(real)
    return sorted(found)


def image_files(data_dir: Path) -> list[tuple[str, str]]:
    """Return (path, class) of every image in a data folder as `place` left it, sorted by path.

    Raises:
        SourceError: the folder is missing or holds no image.
    """
    images = list_images(data_dir) if data_dir.is_dir() else []
    if not images:
        raise SourceError(f"{data_dir}: no image inside; run data_ingestion first")
    depth = (
        1
        if all(image.parts[0].lower() in SPLITS and len(image.parts) > 2 for image in images)
        else 0
    )
    return [(image.as_posix(), image.parts[depth]) for image in images]


def arrange(
    images: Iterable[PurePosixPath],
    patterns: Mapping[str, str] | None,
    class_count: int,
    origin: str,
) -> list[Placed]:
    """Find the class folders and place each image.

    Folders that merely wrap others are passed over; folders named like splits are kept as such. Class folders that
    differ only by case are one class. Where two folders merge and file names clash, the later one gets its folder's
    name in front.

    Args:
        images: paths relative to the received folder.
        patterns: class name -> shell pattern of the folders that belong to it, case ignored; None: each folder is one.
        class_count: how many classes there must be.
        origin: the source as the messages name it.

    Returns:
        One item for each image that lies in a class folder, in the order of `images`.

    Raises:
        SourceError: no image, no class folder, one class only, not `class_count` classes, or the patterns don't fit.
    """
    images = list(images)
    if not images:
        raise SourceError(
            f"{origin}: no image inside; expected folders, one for each class, of {_suffixes()} files"
        )
    found = _find(images)
    if not found:
        raise SourceError(
            f"{origin}: the images lie in no class folder; put those of each class in a folder of its own"
        )
    if len(found) < len(images):
        logger.warning(
            "%s: %d images lie in no class folder and are left out",
            origin,
            len(images) - len(found),
        )
    folders = Counter(image.folder for image in found)
    labels = _match(folders, patterns, origin) if patterns else _merge_case(folders)
    _check_count(set(labels.values()), folders, class_count, origin)
    return _place([image for image in found if image.folder in labels], labels)


def place(placed: Iterable[Placed], received: Path, target: Path, *, move: bool) -> None:
    """Bring the images from the folder `received` to their places in `target`: moved, or copied.

    Raises:
        SourceError: there is no room for the copies.
        OSError: a file can't be read or written.
    """
    placed = list(placed)
    if not move:
        create_directories(target)
        check_free(target, sum((received / item.source).stat().st_size for item in placed))
    for item in progress(placed, desc="move" if move else "copy", unit="file"):
        create_directories((target / item.target).parent)
        if move:
            os.replace(received / item.source, target / item.target)
        else:
            shutil.copyfile(received / item.source, target / item.target)


def summary(placed: Iterable[Placed]) -> str:
    """Return how many images there are in which classes and splits, for the log."""
    placed = list(placed)
    classes = Counter(image.label for image in placed)
    splits = Counter(image.split for image in placed if image.split)
    text = f"{len(placed)} images in {len(classes)} classes ({_counts(classes)})"
    return f"{text}, split as received ({_counts(splits)})" if splits else text


def _find(images: list[PurePosixPath]) -> list[_Found]:
    depth = _skip_wrappers(images, 0)
    names = _folders_at(images, depth)
    if not names or not all(name.casefold() in SPLITS for name in names):
        return _in_folders(images, depth, None)
    by_split = {
        name: [image for image in images if _below(image, depth, name)] for name in sorted(names)
    }
    depths = {name: _skip_wrappers(members, depth + 1) for name, members in by_split.items()}
    several = [_folders_at(members, depths[name]) for name, members in by_split.items()]
    known = {folder.casefold() for folders in several if len(folders) > 1 for folder in folders}
    return [
        image
        for name, members in by_split.items()
        for image in _in_folders(members, _skip_wrappers(members, depth + 1, known), name)
    ]


def _skip_wrappers(images: list[PurePosixPath], depth: int, known: Iterable[str] = ()) -> int:
    """Return the depth at which class or split folders stand; a folder named like a `known` class is no wrapper."""
    while True:
        names = _folders_at(images, depth)
        if (
            len(names) != 1
            or min(names).casefold() in known
            or any(len(image.parts) == depth + 2 for image in images)
        ):
            return depth
        depth += 1


def _folders_at(images: Iterable[PurePosixPath], depth: int) -> set[str]:
    return {image.parts[depth] for image in images if len(image.parts) > depth + 1}


def _below(image: PurePosixPath, depth: int, name: str) -> bool:
    return len(image.parts) > depth + 1 and image.parts[depth] == name


def _in_folders(images: Iterable[PurePosixPath], depth: int, split: str | None) -> list[_Found]:
    return [
        _Found(image, split, image.parts[depth], PurePosixPath(*image.parts[depth + 1 :]))
        for image in images
        if len(image.parts) > depth + 1
    ]


def _merge_case(folders: Iterable[str]) -> dict[str, str]:
    spelling: dict[str, str] = {}
    return {folder: spelling.setdefault(folder.casefold(), folder) for folder in sorted(folders)}


def _match(folders: Counter[str], patterns: Mapping[str, str], origin: str) -> dict[str, str]:
    """Return the class of each folder that matches a pattern."""
    labels: dict[str, str] = {}
    for label, pattern in patterns.items():
        if not label or PurePath(label).name != label or _is_litter(label):
            raise SourceError(
                f"data_ingestion.classes: {label!r} can't name a folder; choose a plain word"
            )
        matched = [folder for folder in folders if fnmatchcase(folder.lower(), pattern.lower())]
        if not matched:
            raise SourceError(
                f"{origin}: no folder matches {pattern!r} of class {label}; found {_names(folders)}; "
                "correct data_ingestion.classes"
            )
        for folder in matched:
            if folder in labels:
                raise SourceError(
                    f"{origin}: folder {folder} matches the patterns of both {labels[folder]} and {label}; "
                    "make the patterns in data_ingestion.classes narrower"
                )
            labels[folder] = label
    left_out = {folder: count for folder, count in folders.items() if folder not in labels}
    if left_out:
        logger.info("%s: left out, as no pattern matches: %s", origin, _counts(left_out))
    return labels


def _check_count(classes: set[str], folders: Iterable[str], class_count: int, origin: str) -> None:
    if len(classes) == 1:
        raise SourceError(
            f"{origin}: one class only, {min(classes)}; CLASSES in params.yaml says {class_count}; "
            "give a folder for each class"
        )
    if len(classes) != class_count:
        raise SourceError(
            f"{origin}: {len(classes)} classes found, CLASSES in params.yaml says {class_count}; correct that, or "
            f"choose and merge folders with data_ingestion.classes; folders found: {_names(folders)}"
        )


def _place(found: Iterable[_Found], labels: Mapping[str, str]) -> list[Placed]:
    placed: list[Placed] = []
    taken: set[str] = set()
    for image in found:
        item = Placed(image.source, image.split, labels[image.folder], image.name)
        while str(item.target).casefold() in taken:
            longer = item.name.with_name(f"{image.folder}_{item.name.name}")
            item = Placed(item.source, item.split, item.label, longer)
        taken.add(str(item.target).casefold())
        placed.append(item)
    return placed


def _names(folders: Iterable[str], most: int = 12) -> str:
    names = sorted(folders)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _suffixes() -> str:
    return ", ".join(sorted(SUFFIXES))


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _raise(error: OSError) -> None:
    raise error
