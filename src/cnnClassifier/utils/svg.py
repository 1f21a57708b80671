"""Charts inside HTML pages."""

from collections.abc import Sequence


def polyline_points(x: Sequence[float], y: Sequence[float]) -> str:
    """Return the `points` of an SVG polyline in a square of 100 by 100.

    Args:
        x: from 0 (left) to 1 (right).
        y: from 0 (bottom) to 1 (top), as many.
    """
    return " ".join(f"{100 * a:.1f},{100 - 100 * b:.1f}" for a, b in zip(x, y, strict=True))
