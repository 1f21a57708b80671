"""Compare two thumbnails after bringing one over the other: a picture and its crop are the same picture."""

from functools import lru_cache

import numpy as np

# From coarse to fine: pixels of the sides, blur in pixels, steps, and the correlation below which it is given up.
_LEVELS = ((32, 2.0, 8, 0.8), (32, 0.7, 6, 0.85), (64, 0.0, 4, -1.0))
_MOST_SCALE, _MOST_SHIFT = 0.25, 0.5  # of the sides' half: beyond this it is another picture
_LEAST_GAIN = 0.2
_STILL = 0.01  # pixels


def aligned_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Correlate two thumbnails where they overlap best: each scaled along either axis, shifted, brightened.

    Args:
        first: (64, 64), grey.
        second: (64, 64), grey.

    Returns:
        From -1 to 1; -1 where they can't be brought over one another.
    """
    return max(_correlation(first, second), _correlation(second, first))


def _correlation(still: np.ndarray, moving: np.ndarray) -> float:
    """Align by Gauss-Newton steps on two scales, two shifts, gain and offset (Lucas and Kanade 1981)."""
    place = np.array([1.0, 1.0, 0.0, 0.0])  # the moving picture's x and y scale and shift, sides going from -1 to 1
    found = -1.0
    for side, blur, steps, least in _LEVELS:
        level = _level(still.shape[0], side, blur)
        one, other = (level @ picture @ level.T for picture in (still, moving))
        moved = _align(one, other, place, steps)
        if moved is None:
            return -1.0
        place = moved
        seen, under, _ = _overlap(one, other[None], place)
        if seen.std() == 0 or under.std() == 0:
            return -1.0
        found = float(np.corrcoef(under, seen[0])[0, 1])
        if found < least:
            return -1.0
    return found


@lru_cache
def _level(full: int, side: int, blur: float) -> np.ndarray:
    """Return what makes a picture's rows smaller and blurs them: (side, full)."""
    smaller = np.kron(np.eye(side), np.full(full // side, side / full))
    if not blur:
        return smaller
    apart = np.subtract.outer(np.arange(side), np.arange(side))
    weights = np.exp(-(apart**2) / (2 * blur**2))
    return weights / weights.sum(1, keepdims=True) @ smaller


def _align(still: np.ndarray, moving: np.ndarray, place: np.ndarray, steps: int) -> np.ndarray | None:
    """Return the better place after at most so many steps, or None where it goes astray."""
    half = len(still) / 2
    down, right = np.gradient(moving)
    layers = np.stack([moving, right * half, down * half])
    for _ in range(steps):
        (seen, along_x, along_y), under, (x, y) = _overlap(still, layers, place)
        slopes = np.stack([along_x * x, along_y * y, along_x, along_y, seen, np.ones_like(seen)])
        square = slopes @ slopes.T
        square[np.diag_indices(6)] += 1e-3
        change = np.linalg.solve(square, slopes @ under)
        if abs(change[4]) < _LEAST_GAIN:
            return None
        step = change[:4] / change[4]
        place = place + step
        if np.abs(place[:2] - 1).max() > _MOST_SCALE or np.abs(place[2:]).max() > _MOST_SHIFT:
            return None
        if np.abs(step).max() * half < _STILL:
            break
    return place


def _overlap(
    still: np.ndarray, layers: np.ndarray, place: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return the moved layers, (layers, pixels), the still picture under them, and each pixel's x and y."""
    side = len(still)
    axis = (2 * np.arange(side) + 1) / side - 1
    insides, spreads = [], []
    for scale, shift in (place[::2], place[1::2]):
        where = (scale * axis + shift + 1) * side / 2 - 0.5
        inside = np.flatnonzero((where >= 0) & (where <= side - 1))
        insides.append(inside)
        spreads.append(np.maximum(0, 1 - np.abs(np.subtract.outer(where[inside], np.arange(side)))))  # linear
    (columns, rows), (across, along) = insides, spreads
    moved = (along @ layers @ across.T).reshape(len(layers), -1)
    x, y = np.meshgrid(axis[columns], axis[rows])
    return moved, still[np.ix_(rows, columns)].ravel(), (x.ravel(), y.ravel())
