"""Charts inside HTML pages."""

from collections.abc import Sequence


def polyline_points(x: Sequence[float], y: Sequence[float]) -> str:
    """Return the `points` of an SVG polyline in a square of 100 by 100.

    Args:
        x: from 0 (left) to 1 (right).
        y: from 0 (bottom) to 1 (top), as many.
    """
    points = []
    for horizontal, vertical in zip(x, y, strict=True):
        points.append(f"{100 * horizontal:.1f},{100 - 100 * vertical:.1f}")
    return " ".join(points)
