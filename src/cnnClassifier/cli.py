"""Run the pipeline: `python main.py` runs all stages; the commands work on their results."""

# Imports at the top are of the standard library alone: `--help` is fast, and the hand-over to
# `.venv` works with a Python that lacks the packages.
import argparse
import importlib
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnnClassifier.config.configuration import ConfigurationManager

ROOT = Path(__file__).resolve().parents[2]
STAGES = {
    "data_ingestion": "s1_data_ingestion",
    "data_validation": "s1_data_validation",
    "prepare_base_model": "s2_prepare_base_model",
    "training": "s3_training",
    "evaluation": "s4_evaluation",
}
_EVALUATION_HELP = "run ID or name, git revision, DVC experiment, or folder of an evaluation"
_NEXT_STEPS = """
Next:
  {card}       model card: all metrics, errors and their class activation maps
  python app.py       the page, at http://localhost:8080
  {runs}       the runs{local}
  dvc plots show      ROC, calibration, confusion matrix, training history"""


def main(words: Sequence[str] | None = None) -> int:
    """Parse the command line and run the command.

    Args:
        words: of the command line, without the program's name; None: those of this process.

    Returns:
        The exit code: 0, 1 for an error, 130 for Ctrl-C.
    """
    parser = _build_parser()
    options = parser.parse_args(words)
    if options.command and (options.first or options.only):
        parser.error("--from and --only go with run")
    use_virtual_environment()
    from cnnClassifier.config.configuration import ConfigurationManager
    from cnnClassifier.utils.errors import ConfigError
    from cnnClassifier.utils.log import configure_logging, run_and_report

    try:
        manager = ConfigurationManager(options.config, options.params)
        if options.command or options.only:
            configure_logging(manager.log_file)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.command:
        function = _COMMANDS[options.command]
        return run_and_report(lambda: function(manager, options), options.command, manager.log_file)
    if options.only:
        stage = importlib.import_module(f"cnnClassifier.pipeline.{STAGES[options.only]}")
        return run_and_report(lambda: stage.main(manager), options.only, manager.log_file)
    return _run_stages(options)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    _add_run_options(parser, None)
    _add_file_options(parser, Path("config/config.yaml"), Path("params.yaml"))
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        # Options before the command keep their values.
        _add_file_options(command, argparse.SUPPRESS, argparse.SUPPRESS)
        return command

    run = add("run", "run the stages in order, as without a command")
    run.set_defaults(command=None)
    _add_run_options(run, argparse.SUPPRESS)
    add("scores", "print the scores of the last evaluation")
    add("crossvalidate", "train and evaluate in grouped folds over all images")

    compare = add("compare", "compare two evaluations, with a test of their difference")
    compare.add_argument("A", help=_EVALUATION_HELP)
    compare.add_argument("B", nargs="?", help="likewise (default: the last evaluation here)")
    compare.add_argument("--names", nargs=2, metavar=("A", "B"), help="names to print")
    compare.add_argument("--markdown", action="store_true", help="print Markdown")
    compare.add_argument("--html", type=Path, metavar="FILE", help="also write a page with curves")

    search = add("search", "search for better hyperparameters, as config/search.yaml says")
    search.add_argument(
        "--n-trials", type=int, metavar="N", help="trials in total (default: trials)"
    )
    search.add_argument("--timeout", type=float, metavar="S", help="start no trial after S seconds")
    search.add_argument("--apply", action="store_true", help="write the best values to params.yaml")

    promote = add("promote", "put a model into production if its gates are met")
    rollback = add("rollback", "put the previous model back into production")
    promote.add_argument(
        "RUN", nargs="?", help="run ID (default: the model with the alias candidate)"
    )
    promote.add_argument(
        "--force", action="store_true", help="even if gates aren't met; needs --reason"
    )
    for command in (promote, rollback):
        command.add_argument(
            "--reason", default="", metavar="TEXT", help="recorded with the model version"
        )
    add("sync", "send runs to the tracking server that it hasn't received")
    return parser


def _add_file_options(
    parser: argparse.ArgumentParser, config: Path | str, params: Path | str
) -> None:
    parser.add_argument("--config", type=Path, default=config, help="default: config/config.yaml")
    parser.add_argument("--params", type=Path, default=params, help="default: params.yaml")


def _add_run_options(parser: argparse.ArgumentParser, default: str | None) -> None:
    part = parser.add_mutually_exclusive_group()
    stages = ", ".join(STAGES)
    part.add_argument(
        "--from",
        dest="first",
        choices=STAGES,
        default=default,
        metavar="STAGE",
        help=f"run this stage and those after it: {stages}",
    )
    part.add_argument(
        "--only", choices=STAGES, default=default, metavar="STAGE", help="run one stage"
    )


def use_virtual_environment() -> None:
    """Hand over to the Python in `.venv` if this one lacks the packages.

    With it `.venv/bin/dvc repro` works, whatever `python` is.
    """
    if importlib.util.find_spec("box"):
        return
    clone = ROOT
    for folder in ROOT.parents:
        if ROOT.is_relative_to(folder / ".dvc/tmp/exps"):
            clone = folder  # DVC runs experiments in copies that have no .venv of their own
    for python in (clone / ".venv/bin/python", clone / ".venv/Scripts/python.exe"):
        if python.is_file() and Path(sys.prefix) != clone / ".venv":
            sys.exit(subprocess.call([str(python), *sys.argv]))
    sys.exit("error: the packages are not installed; run `pip install -r requirements.txt`")


def _run_stages(options: argparse.Namespace) -> int:
    """Run the stages one after the other, then print the scores; return the first error's code.

    Each stage has a process of its own: memory is freed, and evaluation doesn't load TensorFlow.
    """
    program = [sys.executable, str(ROOT / "main.py")]
    files = ["--config", str(options.config), "--params", str(options.params)]
    stages = list(STAGES)
    for stage in stages[stages.index(options.first or stages[0]) :]:
        print(f"\n== {stage}", file=sys.stderr, flush=True)
        code = subprocess.call([*program, "--only", stage, *files])
        if code:
            return code
    return subprocess.call([*program, "scores", *files])


def _scores(manager: "ConfigurationManager", options: argparse.Namespace) -> None:
    from cnnClassifier.evaluation.scores import SCORES_FILE, format_scores, read_scores
    from cnnClassifier.tracking.connection import is_remote, run_location
    from cnnClassifier.utils.errors import UserError

    config = manager.evaluation()
    path = config.root_dir / SCORES_FILE
    if not path.is_file():
        raise UserError(f"{path} is missing; run `dvc repro` or `python main.py` first")
    uri = config.tracking.uri
    next_steps = _NEXT_STEPS.format(
        card=config.root_dir / "MODEL_CARD.html",
        runs=run_location(uri),
        local="" if is_remote(uri) else ", at http://localhost:5000",
    )
    print(f"\n{format_scores(read_scores(config.root_dir))}\n{next_steps}")


def _crossvalidate(manager: "ConfigurationManager", options: argparse.Namespace) -> None:
    from cnnClassifier.components.crossvalidation import CrossValidation

    CrossValidation(manager.crossvalidation(), manager.tracking()).run()


def _compare(manager: "ConfigurationManager", options: argparse.Namespace) -> None:
    from cnnClassifier.evaluation.comparison import (
        EvaluatedModel,
        compare_models,
        format_markdown,
        format_page,
        format_text,
    )
    from cnnClassifier.tracking.evaluation_lookup import find_evaluation
    from cnnClassifier.utils.common import atomic_write
    from cnnClassifier.utils.log import logger

    config = manager.evaluation()
    sides = []
    with tempfile.TemporaryDirectory() as folder:
        for number, source in enumerate((options.A, options.B or str(config.root_dir))):
            download_dir = Path(folder, str(number))
            download_dir.mkdir()
            found = find_evaluation(source, config.root_dir, config.tracking, download_dir)
            name = options.names[number] if options.names else found.name
            sides.append(EvaluatedModel.read(found.folder, name, found.params))
    a, b = sides
    comparison = compare_models(a, b, config.bootstrap_samples, config.seed)
    print(format_markdown(comparison) if options.markdown else format_text(comparison))
    if options.html:
        with atomic_write(options.html) as temp_path:
            temp_path.write_text(format_page(comparison), encoding="utf-8")
        logger.info("page with curves: %s", options.html)


def _search(manager: "ConfigurationManager", options: argparse.Namespace) -> None:
    from cnnClassifier.components.search import Search
    from cnnClassifier.utils.errors import UserError

    for name, limit in (("--n-trials", options.n_trials), ("--timeout", options.timeout)):
        if limit is not None and limit <= 0:
            raise UserError(f"{name}: expected a number above 0, found {limit}")
    search = Search(manager.search(), manager.tracking())
    search.run(options.n_trials, options.timeout, options.apply)


def _change_production(manager: "ConfigurationManager", options: argparse.Namespace) -> None:
    from cnnClassifier.utils.errors import UserError
    from cnnClassifier.utils.log import logger

    promotion = options.command == "promote"
    if promotion and options.force and not options.reason:
        raise UserError("--force needs --reason TEXT, which is recorded with the model")
    from cnnClassifier.tracking.registry import Registry

    config = manager.tracking()
    registry = Registry(config, lambda text: logger.info("%s", text))
    if promotion:
        version = registry.promote(options.RUN, options.force, options.reason)
    else:
        version = registry.rollback(options.reason)
    name = config.registered_model
    serve = f"python app.py --model models:/{name}@production"
    logger.info("in production: %s, version %s (%s)", name, version, serve)


def _sync(manager: "ConfigurationManager", options: argparse.Namespace) -> None:
    from cnnClassifier.tracking.sync import sync
    from cnnClassifier.utils.log import logger

    count = sync(manager.tracking(), lambda text: logger.info("%s", text))
    logger.info("%d runs sent", count)


_COMMANDS = {
    "scores": _scores,
    "crossvalidate": _crossvalidate,
    "compare": _compare,
    "search": _search,
    "promote": _change_production,
    "rollback": _change_production,
    "sync": _sync,
}
