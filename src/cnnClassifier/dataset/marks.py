"""Find the pictures that share details: a crop shares them with the picture that it was cut from."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image
from scipy.fft import dctn, idctn

_SIDE = 128  # pixels of the longer side
_BLURS = 1.4 * 2 ** (np.arange(14) / 4)  # pixels; a detail is as large as the blur that it stands out at
_CONTRAST = 0.5  # grey levels by which it must stand out
_LONG = 12  # edges, along which a place isn't sure, have a larger tr²/det of their second derivatives
_MOST = 80  # marks of a picture
_REACH, _PATCH = 5, 8  # a patch reaches so many sizes from its middle; samples of its sides
_BITS = 48  # of a code: the signs of a patch's lowest frequencies
_ORDERS, _NEXT, _APART = 8, 6, 8  # ways to sort the codes, neighbours looked at in each, bits that may differ
_LEAST = 5  # marks that must agree on scale and shift
_NEAR, _ALIKE = 0.1, 0.35  # how far they may be off: of the sides' half, and as a logarithm of the scale
_PARTNERS = 6  # pictures looked at for each


@dataclass(frozen=True)
class Marks:
    """Where a picture has details, and what each looks like.

    Attributes:
        places: float16, (marks, 4): x and y, sides going from -1 to 1, and the size in these units along x and y.
        codes: uint64, (marks,), of 48 bits; alike details differ in few of them.
    """

    places: np.ndarray
    codes: np.ndarray


@dataclass(frozen=True)
class Shared:
    """Two pictures that share details.

    Attributes:
        first: place of a picture.
        other: that of another, which comes later.
        marks: how many agree.
        place: the other's x and y scale and shift, that bring it over the first (see `alignment`).
    """

    first: int
    other: int
    marks: int
    place: np.ndarray


NO_MARKS = Marks(np.empty((0, 4), np.float16), np.empty(0, np.uint64))


def find_marks(grey: Image.Image) -> Marks:
    """Find the strongest blobs of all sizes (differences of Gaussians, Lowe 2004) and describe what surrounds them.

    Args:
        grey: of any size.
    """
    scale = _SIDE / max(grey.size)
    width, height = (max(_PATCH, round(scale * side)) for side in grey.size)
    pixels = np.asarray(grey.resize((width, height), Image.Resampling.BILINEAR), np.float32)
    blurred = _blurred(pixels)
    layers = np.diff(blurred, axis=0)
    layer, y, x = _blobs(layers)
    size = _BLURS[layer]
    reach = _REACH * size
    inside = (np.minimum(x, y) > 0.65 * reach) & (np.minimum(width - 1 - x, height - 1 - y) > 0.65 * reach)
    layer, y, x, size, reach = layer[inside], y[inside], x[inside], size[inside], reach[inside]
    places = np.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1, 2 * size / width, 2 * size / height], 1)
    offsets = np.multiply.outer(reach, (2 * np.arange(_PATCH) + 1) / _PATCH - 1)
    columns = (x[:, None] + offsets).round().astype(int).clip(0, width - 1)
    rows = (y[:, None] + offsets).round().astype(int).clip(0, height - 1)
    patches = blurred[layer[:, None, None], rows[:, :, None], columns[:, None, :]]
    waves, lowest = _waves()
    frequencies = (waves @ patches @ waves.T).reshape(-1, _PATCH**2)
    frequencies[:, 0] = layers[layer, y, x]  # instead of the mean: whether it's bright or dark
    codes = (frequencies[:, lowest] > 0) @ (np.uint64(1) << np.arange(_BITS, dtype=np.uint64))
    return Marks(places.astype(np.float16), codes)


def _blurred(pixels: np.ndarray) -> np.ndarray:
    """Blur a picture by each of `_BLURS`, mirrored at its borders: float32, (blurs, height, width)."""
    down, across = (np.arange(side, dtype=np.float32) * np.float32(np.pi / side) for side in pixels.shape)
    weights = [np.exp(-np.multiply.outer(_BLURS**2 / 2, along**2)).astype(np.float32) for along in (down, across)]
    return idctn(dctn(pixels) * weights[0][:, :, None] * weights[1][:, None, :], axes=(1, 2))


@lru_cache
def _waves() -> tuple[np.ndarray, np.ndarray]:
    """Return the cosine transform of a patch's rows, and which of the patch's frequencies are the lowest."""
    along = np.arange(_PATCH)
    waves = np.cos(np.pi / _PATCH * np.outer(along, along + 0.5)).astype(np.float32)
    return waves, np.argsort(np.add.outer(along, along).ravel(), kind="stable")[:_BITS]


def _blobs(layers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return layer, y and x of the strongest extrema that aren't edges."""
    inner = layers[1:-1, 1:-1, 1:-1]
    high = low = layers
    for axis in range(3):
        high, low = _of_three(np.maximum, high, axis), _of_three(np.minimum, low, axis)
    found = ((inner == high) & (inner > _CONTRAST)) | ((inner == low) & (inner < -_CONTRAST))
    layer, y, x = (axis + 1 for axis in np.nonzero(found))
    here = layers[layer, y, x]
    across = layers[layer, y, x + 1] + layers[layer, y, x - 1] - 2 * here
    down = layers[layer, y + 1, x] + layers[layer, y - 1, x] - 2 * here
    slant = layers[layer, y + 1, x + 1] + layers[layer, y - 1, x - 1]
    slant = (slant - layers[layer, y + 1, x - 1] - layers[layer, y - 1, x + 1]) / 4
    det = across * down - slant**2
    round_ = np.flatnonzero((det > 0) & ((across + down) ** 2 < _LONG * det))
    best = round_[np.argsort(-np.abs(here[round_]), kind="stable")[:_MOST]]
    return layer[best], y[best], x[best]


def _of_three(which: np.ufunc, layers: np.ndarray, axis: int) -> np.ndarray:
    """Return the highest or lowest of each three neighbours along an axis."""
    layers = np.moveaxis(layers, axis, 0)
    return np.moveaxis(which(which(layers[:-2], layers[1:-1]), layers[2:]), 0, axis)


def shared_marks(marks: Sequence[Marks], part: np.ndarray) -> list[Shared]:
    """Find the pictures of which several details look alike and lie alike, but for scale and shift.

    The codes are sorted in a few ways and only neighbours compared (Charikar 2002), and of each picture's partners only
    those with the most details alike are looked at: time and memory grow as sorting does.

    Args:
        marks: of each picture.
        part: of each picture; pictures of one part aren't compared.

    Returns:
        Those with the most marks in common first.
    """
    owner = np.repeat(np.arange(len(marks)), [len(its.codes) for its in marks])
    if len(owner) == 0:
        return []
    places = np.concatenate([its.places for its in marks])
    found = []
    for alike in _partners(owner, _like_codes(np.concatenate([its.codes for its in marks]), part[owner])):
        first, other = alike // len(owner), alike % len(owner)
        count, place = _agreeing(places[first].astype(float), places[other].astype(float))
        if count >= _LEAST:
            found.append(Shared(int(owner[first[0]]), int(owner[other[0]]), count, place))
    return sorted(found, key=lambda shared: (-shared.marks, shared.first, shared.other))


def _like_codes(codes: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Return pairs of like codes as `lower place * number of codes + higher place`, sorted."""
    found = np.empty(0, np.int64)
    for turn in range(0, _BITS, _BITS // _ORDERS):
        keys = (codes << np.uint64(turn)) & np.uint64(2**_BITS - 1) | codes >> np.uint64(_BITS - turn)
        order = np.argsort(keys, kind="stable")
        for step in range(1, _NEXT + 1):
            one, other = order[:-step], order[step:]
            like = (np.bitwise_count(codes[one] ^ codes[other]) <= _APART) & (part[one] != part[other])
            one, other = one[like], other[like]
            found = np.append(found, np.minimum(one, other) * len(codes) + np.maximum(one, other))
        found = np.unique(found)
    return found


def _partners(owner: np.ndarray, alike: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the like codes of two pictures, of those that have the most of them."""
    first, other = owner[alike // len(owner)], owner[alike % len(owner)]
    order = np.lexsort((other, first))
    bounds = [0, *(np.flatnonzero(np.diff(first[order]) | np.diff(other[order])) + 1), len(order)]
    runs = [(start, stop) for start, stop in itertools.pairwise(bounds) if stop - start >= _LEAST]
    seen: Counter[int] = Counter()
    for start, stop in sorted(runs, key=lambda run: run[0] - run[1]):
        pair = int(first[order[start]]), int(other[order[start]])
        if min(seen[picture] for picture in pair) < _PARTNERS:
            seen.update(pair)
            yield alike[order[start:stop]]


def _agreeing(first: np.ndarray, other: np.ndarray) -> tuple[int, np.ndarray]:
    """Return the scale and shift that most marks agree on, and how many do."""
    scales = other[:, 2:] / first[:, 2:]
    shifts = other[:, :2] - scales * first[:, :2]
    moved = scales[:, None] * first[:, :2] + shifts[:, None]
    ratios = np.log(scales[:, 0])
    agree = (np.abs(moved - other[:, :2]).max(2) < _NEAR) & (np.abs(np.subtract.outer(ratios, ratios)) < _ALIKE)
    best = agree[agree.sum(1).argmax()]
    scale = np.median(scales[best], axis=0)
    for _ in range(2):  # sizes are known in steps, places better
        middle, its_middle = first[best, :2].mean(0), other[best, :2].mean(0)
        apart = scale * (first[:, :2] - middle)
        spread = (apart[best] ** 2).sum()
        if spread > 0:
            scale = scale * np.clip((apart[best] * (other[best, :2] - its_middle)).sum() / spread, 0.8, 1.25)
        off = np.abs(scale * (first[:, :2] - middle) + its_middle - other[:, :2]).max(1)
        best = (off < _NEAR) & (np.abs(ratios - np.log(scale[0])) < _ALIKE)
    return int(best.sum()), np.append(scale, its_middle - scale * middle)
