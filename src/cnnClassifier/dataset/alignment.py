"""Compare two thumbnails after bringing one over the other: a picture and its crop are the same picture."""

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

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
        one, other = (_level(picture, side, blur) for picture in (still, moving))
        moved = _align(one, other, place, steps)
        if moved is None:
            return -1.0
        place = moved
        inside, (seen,) = _warp(other[None], place)
        if one[inside].std() == 0 or seen.std() == 0:
            return -1.0
        found = float(np.corrcoef(one[inside], seen)[0, 1])
        if found < least:
            return -1.0
    return found


def _level(picture: np.ndarray, side: int, blur: float) -> np.ndarray:
    block = picture.shape[0] // side
    small = picture.reshape(side, block, side, block).mean((1, 3), dtype=np.float32)
    return gaussian_filter(small, blur) if blur else small


def _align(still: np.ndarray, moving: np.ndarray, place: np.ndarray, steps: int) -> np.ndarray | None:
    """Return the better place after at most so many steps, or None where it goes astray."""
    half = len(still) / 2
    down, right = np.gradient(moving)
    layers = np.stack([moving, right * half, down * half])
    for _ in range(steps):
        inside, (seen, along_x, along_y) = _warp(layers, place)
        y, x = (((2 * index + 1) / len(still)) - 1 for index in np.nonzero(inside))
        slopes = np.stack([along_x * x, along_y * y, along_x, along_y, seen, np.ones_like(seen)], 1)
        square = slopes.T @ slopes
        square[np.diag_indices(6)] += 1e-3
        change = np.linalg.solve(square, slopes.T @ still[inside])
        if abs(change[4]) < _LEAST_GAIN:
            return None
        step = change[:4] / change[4]
        place = place + step
        if np.abs(place[:2] - 1).max() > _MOST_SCALE or np.abs(place[2:]).max() > _MOST_SHIFT:
            return None
        if np.abs(step).max() * half < _STILL:
            break
    return place


def _warp(layers: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which pixels of the still picture the moved one covers, (side, side), and its layers' values there."""
    side = layers.shape[1]
    axis = (2 * np.arange(side) + 1) / side - 1
    columns, rows = ((place[axis_] * axis + place[axis_ + 2] + 1) * side / 2 - 0.5 for axis_ in (0, 1))
    inside = np.ix_((rows >= 0) & (rows <= side - 1), (columns >= 0) & (columns <= side - 1))
    covered = np.zeros((side, side), bool)
    covered[inside] = True
    where = np.meshgrid(rows[inside[0].ravel()], columns[inside[1].ravel()], indexing="ij")
    values = [map_coordinates(layer, where, order=1, prefilter=False).ravel() for layer in layers]
    return covered, np.array(values, np.float64)
