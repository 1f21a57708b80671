"""Charts inside HTML pages."""

from collections.abc import Sequence

import numpy as np

_MAX_POINTS = 300  # more would not be visible


def polyline_points(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> str:
    """Return the `points` of an SVG polyline in a square of 100 by 100.

    Args:
        x: from 0 (left) to 1 (right).
        y: from 0 (bottom) to 1 (top), of the same length. Long curves are thinned out.
    """
    points = np.stack([100 * np.asarray(x, float), 100 - 100 * np.asarray(y, float)], axis=1)
    chosen = np.unique(np.linspace(0, len(points) - 1, _MAX_POINTS).astype(int))
    return " ".join(f"{horizontal:.1f},{vertical:.1f}" for horizontal, vertical in points[chosen])
