"""Read every file once; find byte copies, near-copies and groups."""

import hashlib
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import imagehash
import joblib
import numpy as np
from PIL import Image

from cnnClassifier.dataset.alignment import aligned_correlation, details
from cnnClassifier.dataset.marks import NO_MARKS, Marks, find_marks, shared_marks
from cnnClassifier.imaging.decode import DecodedImage, DicomOptions, decode
from cnnClassifier.imaging.dicom_header import read_patient_pseudonym
from cnnClassifier.utils.errors import ImageError
from cnnClassifier.utils.progress import progress

# What is unusual about a file that is used all the same, and what becomes of it. All else that is wrong with a file
# leaves it out, with the reason in the manifest.
HANDLING = {
    "animated": "the first frame is taken",
    "16-bit": "grey is scaled from its own minimum and maximum",
    "CMYK": "converted to RGB",
    "palette": "colours are looked up",
    "alpha": "transparent parts become black",
    "rotated": "turned upright as its EXIF entry says",
    "misnamed": "read as what its bytes are, not as its name says",
    "blank": "used, but one grey level all over: look at it",
}
_THUMBNAIL = 64
_BORDER = 0.05  # of each side
_FORMATS = {"jpg": "JPEG", "jpeg": "JPEG", "tif": "TIFF", "tiff": "TIFF", "dcm": "DICOM"}
_AS_IT_IS = DicomOptions()
_AT_ONCE = 1024  # thumbnails compared in one go
_PAIR = np.dtype([("likeness", np.float32), ("first", np.int32), ("other", np.int32)])
_ALIGNED, _WORTH = (
    3,
    0.7,
)  # pairs that are aligned for one file at the most, and how alike their outlines must be


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
        mode: Pillow's word for the stored pixels; of DICOM the photometric interpretation.
        format: what the bytes are, such as `PNG`.
        fault: why it can't be used, or empty.
        unusual: keys of `HANDLING`.
        grey: mean and standard deviation, 0-255.
        border: mean, standard deviation, 5th and 95th percentile of the outer 5 % at top, bottom, left and right.
        marks: details by which crops are found.
        patient: of DICOM a pseudonym (see `read_patient_pseudonym`); else empty.
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
    unusual: tuple[str, ...] = ()
    grey: tuple[float, ...] = ()
    border: tuple[float, ...] = ()
    marks: Marks = NO_MARKS
    patient: str = ""

    @property
    def shape(self) -> tuple[int, int]:
        """Width and height."""
        width, _, height = self.size.partition("x")
        return int(width), int(height)


def read_files(
    data_dir: Path,
    files: Sequence[tuple[str, str]],
    max_pixels: int,
    min_side: int = 1,
    backend: str = "threading",
    reading: DicomOptions = _AS_IT_IS,
) -> list[FileFacts]:
    """Read and decode each file once, on all cores.

    Args:
        data_dir: what the paths are relative to.
        files: (path, class) of each.
        max_pixels: larger images are left out.
        min_side: images with a shorter side are left out.
        backend: joblib's: `threading` (Pillow decodes without the GIL) or `loky` (processes).
        reading: window and frame of DICOM files.
    """
    jobs = (
        joblib.delayed(_read_file)(data_dir, path, label, max_pixels, min_side, reading)
        for path, label in files
    )
    found = joblib.Parallel(n_jobs=-1, backend=backend, return_as="generator")(jobs)
    return list(progress(found, total=len(files), desc="reading files", unit="file"))


def _read_file(
    data_dir: Path, path: str, label: str, max_pixels: int, min_side: int, reading: DicomOptions
) -> FileFacts:
    def left_out(reason: str) -> FileFacts:
        return FileFacts(
            path, label, digest, len(data), 0, np.empty(0, np.uint8), "", "", "", reason
        )

    data, digest = b"", ""
    try:
        data = (data_dir / path).read_bytes()
    except OSError as error:
        return left_out(f"unreadable: {error.strerror}")
    digest = hashlib.sha256(data).hexdigest()
    try:
        image = decode(data, max_pixels, reading)
        patient = read_patient_pseudonym(data) if image.format == "DICOM" else ""
    except ImageError as error:
        return left_out(f"{error.code}: {error}")
    height, width = image.pixels.shape[:2]
    if min(height, width) < min_side:
        return left_out(
            f"too_small: {width}×{height} pixels; at least {min_side} on each side are taken"
        )
    grey = Image.fromarray(image.pixels).convert("L")
    pixels = np.asarray(grey)
    return FileFacts(
        path=path,
        label=label,
        sha256=digest,
        bytes=len(data),
        phash=int(str(imagehash.phash(grey)), 16),
        thumbnail=np.asarray(grey.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)),
        size=image.size,
        mode=image.mode,
        format=image.format,
        fault="",
        unusual=tuple(_unusual(image, path, blank=bool(pixels.min() == pixels.max()))),
        grey=(float(pixels.mean()), float(pixels.std())),
        border=_border(pixels),
        marks=find_marks(grey),
        patient=patient,
    )


def _unusual(image: DecodedImage, path: str, *, blank: bool) -> Iterator[str]:
    suffix = PurePosixPath(path).suffix[1:].lower()
    found = {
        "animated": image.frames > 1,
        "16-bit": image.mode.startswith("I") or image.mode == "F",
        "CMYK": image.mode == "CMYK",
        "palette": image.mode in ("P", "PA"),
        "alpha": image.mode in ("RGBA", "LA", "PA"),
        "rotated": image.rotated,
        "misnamed": _FORMATS.get(suffix, suffix.upper()) != image.format,
        "blank": blank,
    }
    return (name for name, is_so in found.items() if is_so)


def _border(pixels: np.ndarray) -> tuple[float, ...]:
    rows, columns = (max(1, round(_BORDER * side)) for side in pixels.shape)
    sides = (pixels[:rows], pixels[-rows:], pixels[:, :columns], pixels[:, -columns:])
    return tuple(
        float(figure)
        for side in sides
        for figure in (side.mean(), side.std(), *np.percentile(side, (5, 95)))
    )


def byte_copies(facts: Sequence[FileFacts], rank: Sequence[int] | None = None) -> dict[int, int]:
    """Return for each file that repeats another's bytes the one that is kept: the one with the shortest name.

    Args:
        facts: the files.
        rank: of each file; where given, one of the lowest rank is kept.
    """
    by_hash: dict[str, list[int]] = defaultdict(list)
    for number, fact in enumerate(facts):
        if fact.sha256:
            by_hash[fact.sha256].append(number)

    def order(number: int) -> tuple[int, int, str]:
        path = facts[number].path
        return rank[number] if rank else 0, len(PurePosixPath(path).name), path

    copies = {}
    for same in by_hash.values():
        kept = min(same, key=order)
        copies.update({number: kept for number in same if number != kept})
    return copies


def near_copies(facts: Sequence[FileFacts], bits: int, correlation: float) -> list[tuple[int, int]]:
    """Link the files that show the same picture: re-encoded, resized, cropped, slightly drawn on.

    Two hashes that differ in at most `bits` bits agree on at least one of `bits + 1` pieces, so that only files that
    share a piece are compared (multi-index hashing, Norouzi et al. 2012). Crops have other hashes; they share details.
    A second look at the thumbnails decides: as they are, and for each file's nearest few after alignment. Files that
    links connect already aren't compared again: there are fewer links than files, however many copies.

    Args:
        facts: decoded files.
        bits: perceptual hashes may differ in so many of their 64 bits.
        correlation: of the details of the 64×64 grey thumbnails, at least.

    Returns:
        Pairs of places in `facts`, the lower first, sorted: each a pair of near-copies, and all of them together
        connect whatever near-copies connect.
    """
    linked = _Linked(len(facts))
    doubtful = _link_alike(facts, linked, bits, correlation)
    _link_aligned(facts, linked, doubtful, correlation)
    _link_crops(facts, linked, correlation)
    return sorted(linked.links)


def _link_alike(
    facts: Sequence[FileFacts], linked: "_Linked", bits: int, correlation: float
) -> np.ndarray:
    """Link what has like hashes and like thumbnails.

    Returns:
        For each file the few with like hashes that come nearest: (pairs,), of the fields likeness, first and other.
    """
    hashes = np.array([fact.phash for fact in facts], np.uint64)
    outlines = _outlines(facts)
    content = np.asarray(outlines.any(1))  # what is blank correlates with nothing
    doubtful = bytearray()
    edges = np.linspace(0, 64, bits + 2).astype(int)
    earlier: list[np.uint64] = []  # pieces; who shares one of them was compared there
    for low, high in itertools.pairwise(edges):
        piece = np.uint64(((1 << int(high - low)) - 1) << int(low))
        for bucket in _buckets(hashes & piece, content):
            for place, first in enumerate(bucket[:-1].tolist()):
                rest = linked.others(first, bucket[place + 1 :])
                differing = hashes[rest] ^ hashes[first]
                near = np.bitwise_count(differing) <= bits
                rest, differing = rest[near], differing[near]
                for mask in earlier:
                    new = (differing & mask) != 0
                    rest, differing = rest[new], differing[new]
                if len(rest) == 0:
                    continue
                likeness = outlines[rest] @ outlines[first]
                for other in _alike(
                    facts, first, rest[likeness >= correlation - 1e-5], correlation
                ):
                    linked.link(first, other)
                nearest = np.argsort(-likeness, kind="stable")[:_ALIGNED]
                nearest = nearest[likeness[nearest] >= _WORTH]
                pairs = np.empty(len(nearest), _PAIR)
                pairs["likeness"], pairs["first"], pairs["other"] = (
                    likeness[nearest],
                    first,
                    rest[nearest],
                )
                doubtful += pairs.tobytes()
        earlier.append(piece)
    return np.frombuffer(doubtful, _PAIR)


def _link_aligned(
    facts: Sequence[FileFacts], linked: "_Linked", doubtful: np.ndarray, correlation: float
) -> None:
    """Link what has like hashes and, once aligned, like thumbnails: the likeliest first, a few tries for each file."""
    tried: Counter[int] = Counter()
    for place in np.lexsort((doubtful["other"], doubtful["first"], -doubtful["likeness"])):
        _, first, other = doubtful[place].item()
        if tried[first] < _ALIGNED and linked.part[first] != linked.part[other]:
            tried[first] += 1
            if aligned_correlation(facts[first].thumbnail, facts[other].thumbnail) >= correlation:
                linked.link(first, other)


def _link_crops(facts: Sequence[FileFacts], linked: "_Linked", correlation: float) -> None:
    """Link pictures that share details; of those that are connected already the one with the most speaks for all."""
    best: dict[int, int] = {}
    for place, part in enumerate(linked.part.tolist()):
        if part not in best or len(facts[place].marks.codes) > len(facts[best[part]].marks.codes):
            best[part] = place
    chosen = sorted(best.values())
    tried: Counter[int] = Counter()
    for shared in shared_marks([facts[place].marks for place in chosen]):
        pair = chosen[shared.first], chosen[shared.other]
        if (
            min(tried[place] for place in pair) < _ALIGNED
            and linked.part[pair[0]] != linked.part[pair[1]]
        ):
            tried.update(pair)
            one, other = (facts[place].thumbnail for place in pair)
            if aligned_correlation(one, other, shared.place) >= correlation:
                linked.link(*pair)


class _Linked:
    """Links between files, and which of them are connected: those of the same number in `part`."""

    def __init__(self, count: int) -> None:
        self.part = np.arange(count)
        self.links: list[tuple[int, int]] = []

    def others(self, first: int, places: np.ndarray) -> np.ndarray:
        """Return those of `places` that aren't connected with `first`."""
        return places[self.part[places] != self.part[first]]

    def link(self, first: int, other: int) -> None:
        """Link two files, unless they are connected."""
        if self.part[first] != self.part[other]:
            self.part[self.part == self.part[other]] = self.part[first]
            self.links.append((min(first, other), max(first, other)))


def _buckets(keys: np.ndarray, wanted: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the places of equal keys, of those that are wanted, where there are two or more."""
    places = np.flatnonzero(wanted)
    places = places[np.argsort(keys[places], kind="stable")]
    bounds = [0, *(np.flatnonzero(np.diff(keys[places])) + 1), len(places)]
    return (places[start:stop] for start, stop in itertools.pairwise(bounds) if stop - start > 1)


def _outlines(facts: Sequence[FileFacts]) -> np.ndarray:
    """Return for each thumbnail 65 numbers whose dot products are never below the thumbnails' correlations.

    They are the normalised thumbnail's 8×8 block means, scaled so as to be a projection, and the length of the rest.
    Blank thumbnails get zeros.
    """
    outlines = np.zeros((len(facts), 65), np.float32)
    for outline, fact in zip(outlines, facts, strict=True):
        centred = _centred(fact)
        norm = np.linalg.norm(centred)
        if norm > 0:
            outline[:64] = centred.reshape(8, 8, 8, 8).mean((1, 3)).ravel() * (8 / norm)
            outline[64] = np.sqrt(max(0.0, 1 - float(outline[:64] @ outline[:64])))
    return outlines


def _alike(
    facts: Sequence[FileFacts], first: int, others: np.ndarray, correlation: float
) -> Iterator[int]:
    """Yield those of `others` whose thumbnails' details correlate with those of `first` by `correlation` or more."""
    if len(others) == 0:
        return
    one = details(facts[first].thumbnail).ravel()
    one /= np.linalg.norm(one)
    for start in range(0, len(others), _AT_ONCE):
        some = others[start : start + _AT_ONCE]
        many = details(np.stack([facts[other].thumbnail for other in some])).reshape(len(some), -1)
        yield from some[many @ one >= correlation * np.linalg.norm(many, axis=1)].tolist()


def _centred(fact: FileFacts) -> np.ndarray:
    return fact.thumbnail - fact.thumbnail.mean(dtype=np.float32)


def group_files(
    facts: Sequence[FileFacts], pattern: str | None, pairs: Sequence[tuple[int, int]]
) -> list[str]:
    """Name the group of each file, joined with near-copies: what the pattern takes from its name, or whose it is.

    Args:
        facts: the files.
        pattern: a regular expression with a group `group`, tried on the file's name; no match: the patient's pseudonym
            that DICOM tells, else each file its own.
        pairs: files that belong together whatever they are called.

    Returns:
        For each file the name of its group: the first of the names that were joined.
    """
    return join(
        [_group_name(Path(fact.path), pattern) or fact.patient or fact.path for fact in facts],
        pairs,
    )


def join(names: Sequence[str], pairs: Sequence[tuple[int, int]]) -> list[str]:
    """Return for each name the first of those that pairs of places connect it with."""
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
    return (match["group"] or "").strip() if match else ""


def conflicts(
    facts: Sequence[FileFacts], same: Callable[[FileFacts], str]
) -> list[list[FileFacts]]:
    """Return the sets of files that are the same by `same` and stand under more than one class."""
    found: dict[str, list[FileFacts]] = defaultdict(list)
    for fact in facts:
        found[same(fact)].append(fact)
    return [files for files in found.values() if len({fact.label for fact in files}) > 1]
