"""Find the pictures that share details: a crop shares them with the picture that it was cut from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image
from scipy.fft import dctn, idctn

_SIDE = 128  # pixels of the longer side
_BLURS = 1.4 * 2 ** (
    np.arange(14) / 4
)  # pixels; a detail is as large as the blur that it stands out at
_CONTRAST = 0.5  # grey levels by which it must stand out
_LONG = (
    12  # edges, along which a place isn't sure, have a larger tr²/det of their second derivatives
)
_MOST = 80  # marks of a picture
_REACH, _PATCH = 5, 8  # a patch reaches so many sizes from its middle; samples of its sides
_BITS = 48  # of a code: the signs of a patch's lowest frequencies
_ORDERS, _NEXT, _APART = (
    16,
    6,
    8,
)  # ways to sort the codes, neighbours looked at in each, bits that may differ
_KEPT = 2  # like codes kept of each
_LEAST = 5  # marks that must agree on scale and shift
_NEAR, _ALIKE = (
    0.1,
    0.35,
)  # how far they may be off: of the sides' half, and as a logarithm of the scale
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
    inside = (np.minimum(x, y) > 0.65 * reach) & (
        np.minimum(width - 1 - x, height - 1 - y) > 0.65 * reach
    )
    layer, y, x, size, reach = layer[inside], y[inside], x[inside], size[inside], reach[inside]
    places = np.stack(
        [(2 * x + 1) / width - 1, (2 * y + 1) / height - 1, 2 * size / width, 2 * size / height], 1
    )
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
    down, across = (
        np.arange(side, dtype=np.float32) * np.float32(np.pi / side) for side in pixels.shape
    )
    weights = [
        np.exp(-np.multiply.outer(_BLURS**2 / 2, along**2)).astype(np.float32)
        for along in (down, across)
    ]
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


def shared_marks(marks: Sequence[Marks]) -> list[Shared]:
    """Find the pictures of which several details look alike and lie alike, but for scale and shift.

    The codes are sorted in a few ways and only neighbours compared (Charikar 2002); of each code only the most alike
    are kept, and of each picture's partners only those with the most details alike are looked at: time grows as sorting
    does, and memory by 10 bytes a mark and what 8 bytes for each pair of like marks take.

    Args:
        marks: of each picture.

    Returns:
        Those with the most marks in common first.
    """
    owner = np.repeat(np.arange(len(marks), dtype=np.int32), [len(its.codes) for its in marks])
    if len(owner) == 0:
        return []
    places = np.concatenate([its.places for its in marks])
    found = []
    for first, other in _partners(
        owner, _like_codes(np.concatenate([its.codes for its in marks]), owner)
    ):
        count, place = _agreeing(places[first].astype(float), places[other].astype(float))
        if count >= _LEAST:
            found.append(Shared(int(owner[first[0]]), int(owner[other[0]]), count, place))
    return sorted(found, key=lambda shared: (-shared.marks, shared.first, shared.other))


def _like_codes(codes: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Return pairs of like codes as `lower place * number of codes + higher place`, sorted."""
    nearest = np.zeros((len(codes), _KEPT), np.int32)
    apart = np.full((len(codes), _KEPT), _APART + 1, np.uint8)
    for turn in range(0, _BITS, _BITS // _ORDERS):
        keys = (codes << np.uint64(turn)) & np.uint64(2**_BITS - 1) | codes >> np.uint64(
            _BITS - turn
        )
        order = np.argsort(keys, kind="stable").astype(np.int32)
        ordered, its_owner = codes[order], owner[order]
        for step in range(1, _NEXT + 1):
            bits = np.bitwise_count(ordered[:-step] ^ ordered[step:])
            like = np.flatnonzero((bits <= _APART) & (its_owner[:-step] != its_owner[step:]))
            one, other, bits = order[like], order[like + step], bits[like]
            for here, there in ((one, other), (other, one)):
                _keep(nearest, apart, here, there, bits)
    mark, kept = np.nonzero(apart <= _APART)
    other = nearest[mark, kept]
    return np.unique(np.minimum(mark, other) * len(codes) + np.maximum(mark, other))


def _keep(
    nearest: np.ndarray, apart: np.ndarray, here: np.ndarray, there: np.ndarray, bits: np.ndarray
) -> None:
    """Let each code in `here`, which are different ones, keep its partner where it is nearer than the furthest kept."""
    worst = apart[here].argmax(1)
    known = ((nearest[here] == there[:, None]) & (apart[here] <= _APART)).any(1)
    new = np.flatnonzero((bits < apart[here, worst]) & ~known)
    nearest[here[new], worst[new]] = there[new]
    apart[here[new], worst[new]] = bits[new]


def _partners(owner: np.ndarray, alike: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the like codes of two pictures, of those that have the most of them."""
    pairs = owner[alike // len(owner)].astype(np.int64) << 32 | owner[alike % len(owner)]
    order = np.argsort(pairs, kind="stable")
    starts = np.flatnonzero(np.diff(pairs[order], prepend=-1))
    lengths = np.diff(starts, append=len(order))
    enough = np.flatnonzero(lengths >= _LEAST)
    tried = np.zeros(int(owner[-1]) + 1, np.uint8)
    for run in enough[np.argsort(-lengths[enough], kind="stable")]:
        here = alike[order[starts[run] : starts[run] + lengths[run]]]
        first, other = here // len(owner), here % len(owner)
        pair = owner[[first[0], other[0]]]
        if tried[pair].min() < _PARTNERS:
            tried[pair] = np.minimum(tried[pair] + 1, _PARTNERS)
            yield first, other


def _agreeing(first: np.ndarray, other: np.ndarray) -> tuple[int, np.ndarray]:
    """Return the scale and shift that most marks agree on, and how many do."""
    scales = other[:, 2:] / first[:, 2:]
    shifts = other[:, :2] - scales * first[:, :2]
    moved = scales[:, None] * first[:, :2] + shifts[:, None]
    ratios = np.log(scales[:, 0])
    agree = (np.abs(moved - other[:, :2]).max(2) < _NEAR) & (
        np.abs(np.subtract.outer(ratios, ratios)) < _ALIKE
    )
    best = agree[agree.sum(1).argmax()]
    scale = np.median(scales[best], axis=0)
    for _ in range(2):  # sizes are known in steps, places better
        middle, its_middle = first[best, :2].mean(0), other[best, :2].mean(0)
        apart = scale * (first[:, :2] - middle)
        spread = (apart[best] ** 2).sum()
        if spread > 0:
            scale = scale * np.clip(
                (apart[best] * (other[best, :2] - its_middle)).sum() / spread, 0.8, 1.25
            )
        off = np.abs(scale * (first[:, :2] - middle) + its_middle - other[:, :2]).max(1)
        best = (off < _NEAR) & (np.abs(ratios - np.log(scale[0])) < _ALIKE)
    return int(best.sum()), np.append(scale, its_middle - scale * middle)
