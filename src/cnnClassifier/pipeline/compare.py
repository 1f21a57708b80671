"""The command compare: two models side by side, and whether they differ by more than chance."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from cnnClassifier.config.configuration import ConfigurationManager
from cnnClassifier.evaluation.comparison import EvaluatedModel, compare_models
from cnnClassifier.evaluation.comparison_report import format_markdown, format_page, format_text
from cnnClassifier.tracking.evaluation_lookup import find_evaluation
from cnnClassifier.utils.common import atomic_write
from cnnClassifier.utils.log import logger


def main(
    manager: ConfigurationManager,
    sides: Sequence[str],
    names: Sequence[str] | None,
    markdown: bool,
    page: Path | None,
) -> None:
    """Print the comparison.

    Args:
        manager: the configuration.
        sides: one or two, as `find_evaluation` takes them; one is compared with the last evaluation here.
        names: to call both by.
        markdown: whether to print Markdown.
        page: where to write an HTML page as well.
    """
    config = manager.evaluation()
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, what in enumerate([*sides, str(config.root_dir)][:2]):
            place = Path(scratch, str(number))
            place.mkdir()
            side = find_evaluation(what, config.root_dir, config.tracking, place)
            found.append(
                EvaluatedModel.read(side.folder, names[number] if names else side.name, side.params)
            )
    a, b = found
    comparison = compare_models(a, b, config.bootstrap_samples, config.seed)
    print(format_markdown(comparison) if markdown else format_text(comparison))
    if page:
        with atomic_write(page) as staged:
            staged.write_text(format_page(comparison), encoding="utf-8")
        logger.info("the same with curves: %s", page)
