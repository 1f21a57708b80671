"""Compare two thumbnails after bringing one over the other: a picture and its crop are the same picture."""

from functools import lru_cache

import numpy as np

# From coarse to fine: pixels of the sides, blur in pixels, steps, and the correlation of the pictures and of their
# details below which it is given up: of 26 copies none was below 0.994 at the second level, half of the others was.
_LEVELS = ((32, 2.0, 8, 0.8, -1), (32, 0.7, 6, 0.85, 0.98), (64, 0.0, 4, 0.9, -1))
_AS_IT_IS = (
    1.0,
    1.0,
    0.0,
    0.0,
)  # the moving picture's x and y scale and shift, sides going from -1 to 1
_MOST_SCALE, _MOST_SHIFT = (
    0.25,
    0.5,
)  # of the start's scale, of the sides' half: beyond this it is another picture
_LEAST_OVERLAP = 0.3  # of the area
# Blurs in pixels: what is finer than the first is noise and resampling, what is coarser than the second is alike in
# neighbouring slices too.
_FINE, _COARSE = 0.8, 3.0
_DRAWN = 0.03  # of the pixels may be off: a line that somebody drew
_LEAST_GAIN = 0.2
_STILL = 0.01  # pixels


def aligned_correlation(
    first: np.ndarray, second: np.ndarray, place: np.ndarray | None = None
) -> float:
    """Correlate the details of two thumbnails where they overlap best: each scaled along either axis, shifted.

    What is coarse counts for nothing, since it's alike in neighbouring slices, nor do the few pixels that are furthest
    off, since somebody may have drawn a line.

    Args:
        first: (64, 64), grey.
        second: (64, 64), grey.
        place: where the second is likely to lie over the first: the x and y scale and shift that turn a place in the
            first into one in the second, sides going from -1 to 1. None: where it is.

    Returns:
        From -1 to 1; -1 where they can't be brought over one another.
    """
    return _correlation(first, second, np.array(_AS_IT_IS) if place is None else place)


def details(pictures: np.ndarray) -> np.ndarray:
    """Return what is neither noise nor alike in neighbouring slices.

    Args:
        pictures: (…, rows, columns).
    """
    fine, coarse = (
        _level(rows, rows, blur) @ pictures @ _level(columns, columns, blur).T
        for rows, columns in [pictures.shape[-2:]]
        for blur in (_FINE, _COARSE)
    )
    return np.asarray(fine - coarse)


def _correlation(still: np.ndarray, moving: np.ndarray, start: np.ndarray) -> float:
    """Align by Gauss-Newton steps on two scales, two shifts, gain and offset (Lucas and Kanade 1981)."""
    place = start
    seen = under = still
    for side, blur, steps, least, least_detail in _LEVELS:
        if place[0] * place[1] < 1:  # the one that shows less moves
            still, moving, place, start = moving, still, _inverse(place), _inverse(start)
        level = _level(still.shape[0], side, blur)
        one, other = (level @ picture @ level.T for picture in (still, moving))
        moved = _align(one, other, start, place, steps)
        if moved is None:
            return -1.0
        place = moved
        (seen,), under, _ = _overlap(one, other[None], place)
        if seen.size < _LEAST_OVERLAP * side**2 or _correlate(seen, under) < least:
            return -1.0
        if least_detail > -1 and _correlate(details(seen), details(under)) < least_detail:
            return -1.0
    one, other = (details(picture).ravel() for picture in (seen, under))
    if one.std() == 0 or other.std() == 0:
        return -1.0
    one, other = ((detail - detail.mean()) / detail.std() for detail in (one, other))
    off = np.abs(one - other)
    kept = off <= np.quantile(off, 1 - _DRAWN)
    return _correlate(one[kept], other[kept])


def _inverse(place: np.ndarray) -> np.ndarray:
    return np.append(1 / place[:2], -place[2:] / place[:2])


def _correlate(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one.ravel() - one.mean(), other.ravel() - other.mean()
    lengths = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / lengths if lengths > 0 else -1.0


@lru_cache
def _level(full: int, side: int, blur: float) -> np.ndarray:
    """Return what makes a picture's rows smaller and blurs them: (side, full)."""
    smaller = np.kron(np.eye(side), np.full(full // side, side / full))
    if not blur:
        return smaller
    apart = np.subtract.outer(np.arange(side), np.arange(side))
    weights = np.exp(-(apart**2) / (2 * blur**2))
    return weights / weights.sum(1, keepdims=True) @ smaller


def _align(
    still: np.ndarray, moving: np.ndarray, start: np.ndarray, place: np.ndarray, steps: int
) -> np.ndarray | None:
    """Return the better place after at most so many steps, or None where it goes astray."""
    half = len(still) / 2
    down, right = np.gradient(moving)
    layers = np.stack([moving, right * half, down * half])
    for _ in range(steps):
        moved, under, (x, y) = _overlap(still, layers, place)
        if under.size < _LEAST_OVERLAP * still.size:
            return None
        seen, along_x, along_y = moved.reshape(len(layers), -1)
        slopes = np.stack([along_x * x, along_y * y, along_x, along_y, seen, np.ones_like(seen)])
        square = slopes @ slopes.T
        square[np.diag_indices(6)] += 1e-3
        change = np.linalg.solve(square, slopes @ under.ravel())
        if abs(change[4]) < _LEAST_GAIN:
            return None
        step = change[:4] / change[4]
        place = place + step
        if (
            np.abs(place[:2] / start[:2] - 1).max() > _MOST_SCALE
            or np.abs(place[2:] - start[2:]).max() > _MOST_SHIFT
        ):
            return None
        if np.abs(step).max() * half < _STILL:
            break
    return place


def _overlap(
    still: np.ndarray, layers: np.ndarray, place: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return the moved layers, (layers, rows, columns), the still picture under them, and each pixel's x and y."""
    side = len(still)
    axis = (2 * np.arange(side) + 1) / side - 1
    insides, spreads = [], []
    for scale, shift in (place[::2], place[1::2]):
        where = (scale * axis + shift + 1) * side / 2 - 0.5
        inside = np.flatnonzero((where >= 0) & (where <= side - 1))
        insides.append(inside)
        apart = np.abs(np.subtract.outer(where[inside], np.arange(side)))
        weights = np.maximum(
            0, 1 - apart / max(1, scale)
        )  # linear; blurred where pixels of the moving one are skipped
        spreads.append(weights / weights.sum(1, keepdims=True))
    (columns, rows), (across, along) = insides, spreads
    x, y = np.tile(axis[columns], len(rows)), np.repeat(axis[rows], len(columns))
    return along @ layers @ across.T, still[rows][:, columns], (x, y)
