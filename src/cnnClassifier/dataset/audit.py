"""Read every file once; find byte copies, near-copies and groups."""

import hashlib
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import imagehash
import joblib
import numpy as np
from PIL import Image

from cnnClassifier.imaging.decode import decode
from cnnClassifier.utils.errors import ImageError
from cnnClassifier.utils.progress import progress

_THUMBNAIL = 64


@dataclass(frozen=True)
class FileFacts:
    """What one look at a file tells.

    Attributes:
        path: relative to the data's folder, with forward slashes.
        label: the class.
        sha256: of the bytes.
        bytes: size of the file.
        phash: perceptual hash of the grey picture (imagehash's DCT hash), 64 bits; 0 where it can't be decoded.
        thumbnail: uint8, (64, 64), grey; empty where it can't be decoded.
        size: such as `512x382`.
        mode: Pillow's word for the stored pixels.
        format: what the bytes are, such as `PNG`.
        fault: why it can't be used, or empty.
    """

    path: str
    label: str
    sha256: str
    bytes: int
    phash: int
    thumbnail: np.ndarray
    size: str
    mode: str
    format: str
    fault: str


def read_files(data_dir: Path, files: Sequence[tuple[str, str]], max_pixels: int) -> list[FileFacts]:
    """Read and decode each file once, on all cores.

    Args:
        data_dir: what the paths are relative to.
        files: (path, class) of each.
        max_pixels: larger images are left out.
    """
    jobs = (joblib.delayed(_read_file)(data_dir, path, label, max_pixels) for path, label in files)
    found = joblib.Parallel(n_jobs=-1, prefer="threads", return_as="generator")(jobs)  # Pillow decodes without the GIL
    return list(progress(found, total=len(files), desc="reading files", unit="file"))


def _read_file(data_dir: Path, path: str, label: str, max_pixels: int) -> FileFacts:
    try:
        data = (data_dir / path).read_bytes()
    except OSError as error:
        return FileFacts(path, label, "", 0, 0, np.empty(0, np.uint8), "", "", "", f"unreadable: {error.strerror}")
    digest = hashlib.sha256(data).hexdigest()
    try:
        image = decode(data, max_pixels)
    except ImageError as error:
        return FileFacts(path, label, digest, len(data), 0, np.empty(0, np.uint8), "", "", "", f"{error.code}: {error}")
    grey = Image.fromarray(image.pixels).convert("L")
    phash = int(str(imagehash.phash(grey)), 16)
    thumbnail = np.asarray(grey.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX))
    return FileFacts(path, label, digest, len(data), phash, thumbnail, image.size, image.mode, image.format, "")


def byte_copies(facts: Sequence[FileFacts]) -> dict[int, int]:
    """Return for each file that repeats another's bytes the one that is kept: the one with the shortest name."""
    by_hash: dict[str, list[int]] = defaultdict(list)
    for number, fact in enumerate(facts):
        if fact.sha256:
            by_hash[fact.sha256].append(number)
    copies = {}
    for same in by_hash.values():
        kept = min(same, key=lambda number: (len(Path(facts[number].path).name), facts[number].path))
        copies.update({number: kept for number in same if number != kept})
    return copies


def near_copies(facts: Sequence[FileFacts], bits: int, correlation: float) -> list[tuple[int, int]]:
    """Return the pairs of files that show the same picture: re-encoded, resized, slightly drawn on.

    Two hashes that differ in at most `bits` bits agree on at least one of `bits + 1` pieces, so that only files that
    share a piece are compared (multi-index hashing, Norouzi et al. 2012). A second look at the thumbnails decides.

    Args:
        facts: decoded files.
        bits: perceptual hashes may differ in so many of their 64 bits.
        correlation: of the 64×64 grey thumbnails, at least.
    """
    hashes = np.array([fact.phash for fact in facts], np.uint64)
    edges = np.linspace(0, 64, bits + 2).astype(int)
    seen: set[tuple[int, int]] = set()
    for low, high in itertools.pairwise(edges):
        pieces = (hashes >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(pieces, kind="stable")
        for bucket in np.split(order, np.flatnonzero(np.diff(pieces[order])) + 1):
            for place, first in enumerate(bucket[:-1]):
                rest = bucket[place + 1 :]
                near = rest[np.bitwise_count(hashes[first] ^ hashes[rest]) <= bits]
                seen.update((min(int(first), int(other)), max(int(first), int(other))) for other in near)
    return sorted(pair for pair in seen if _correlation(facts[pair[0]], facts[pair[1]]) >= correlation)


def _correlation(first: FileFacts, second: FileFacts) -> float:
    a, b = (fact.thumbnail.astype(np.float32).ravel() for fact in (first, second))
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm > 0 else float(first.sha256 == second.sha256)


def group_files(facts: Sequence[FileFacts], pattern: str | None, pairs: Sequence[tuple[int, int]]) -> list[str]:
    """Name the group of each file: what the pattern takes from its name, joined with near-copies.

    Args:
        facts: the files.
        pattern: a regular expression with a group `group`, tried on the file's name; no match: each file its own.
        pairs: files that belong together whatever they are called.

    Returns:
        For each file the name of its group: the first of the names that were joined.
    """
    names = [_group_name(Path(fact.path), pattern) for fact in facts]
    parent: dict[str, str] = {name: name for name in names}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for first, second in pairs:
        low, high = sorted((root(names[first]), root(names[second])))
        parent[high] = low
    return [root(name) for name in names]


def _group_name(path: Path, pattern: str | None) -> str:
    match = re.search(pattern, path.name) if pattern else None
    name = (match["group"] or "").strip() if match else ""
    return name or path.as_posix()


def conflicts(facts: Sequence[FileFacts], same: Callable[[FileFacts], str]) -> list[list[FileFacts]]:
    """Return the sets of files that are the same by `same` and stand under more than one class."""
    found: dict[str, list[FileFacts]] = defaultdict(list)
    for fact in facts:
        found[same(fact)].append(fact)
    return [files for files in found.values() if len({fact.label for fact in files}) > 1]
