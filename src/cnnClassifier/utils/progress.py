"""Progress bars that read well on a terminal and in a log."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress(items: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """Return a tqdm bar: live on a terminal; elsewhere a line every ten seconds, and none for what takes less."""
    live = sys.stderr.isatty()
    pace = {"mininterval": 0.1, "dynamic_ncols": True} if live else {"mininterval": 10, "delay": 10}
    return tqdm(items, file=sys.stderr, **pace, **options)
