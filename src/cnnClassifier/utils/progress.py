"""Progress bars that read well on a terminal and in a log."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress(items: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """Return a tqdm bar: live on a terminal, a line every ten seconds elsewhere."""
    live = sys.stderr.isatty()
    return tqdm(items, mininterval=0.1 if live else 10, dynamic_ncols=live, file=sys.stderr, **options)
