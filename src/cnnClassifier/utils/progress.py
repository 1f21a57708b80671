"""Progress bars for terminals and for log files."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress(items: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """Return a tqdm bar on stderr.

    On a terminal it is live. Elsewhere it prints a line every ten seconds, and none at all for
    shorter operations.

    Args:
        items: to iterate over, or None to call `update` by hand.
        **options: of tqdm, such as `total` or `desc`.
    """
    settings: dict[str, Any] = {"mininterval": 10, "delay": 10}
    if sys.stderr.isatty():
        settings = {"mininterval": 0.1, "dynamic_ncols": True}
    return tqdm(items, file=sys.stderr, **settings, **options)
