"""Synthetic slices to try the model on: drawn when they are first asked for, kept in memory."""

import io
from functools import cache

from PIL import Image

from cnnClassifier.imaging.phantom import PhantomOptions, make_patient, render_slice

# No data set of the phantom has this seed by default, so that no model has seen them.
_OPTIONS = PhantomOptions(slices=1, size=320, seed=271828)
_EXAMPLES = {
    f"{kind}-{place}": (number, kind == "mass")
    for kind, numbers in (("mass", (1, 8, 11)), ("clear", (3, 4, 7)))
    for place, number in enumerate(numbers, 1)
}


def example_names() -> tuple[str, ...]:
    """Return the examples' names: `mass-…` with a mass, `clear-…` without one."""
    return tuple(_EXAMPLES)


@cache
def example_png(name: str) -> bytes:
    """Return an example as a PNG file; the same bytes each time.

    Args:
        name: one of `example_names`.
    """
    number, lesion = _EXAMPLES[name]
    pixels = render_slice(_OPTIONS, make_patient(_OPTIONS, number), 0, lesion)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
