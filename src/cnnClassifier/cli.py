"""Run the pipeline: `python main.py` runs all stages; the commands work on their results."""

# Imports at the top need the standard library alone: `--help` is fast, and an interpreter without
# the packages gets a message.
import argparse
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cnnClassifier.utils.errors import ConfigError, UserError
from cnnClassifier.utils.log import configure_logging, logger, run_and_report

ROOT = Path(__file__).resolve().parents[2]
STAGES = {
    "data_ingestion": "s1_data_ingestion",
    "data_validation": "s1_data_validation",
    "prepare_base_model": "s2_prepare_base_model",
    "training": "s3_training",
    "evaluation": "s4_evaluation",
}
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
    defaults = argparse.Namespace(
        config=Path("config/config.yaml"), params=Path("params.yaml"), first=None, only=None
    )
    options = parser.parse_args(words, defaults)
    if options.command and (options.first or options.only):
        parser.error("--from and --only go with run")
    if not importlib.util.find_spec("box"):
        sys.exit(
            "error: the packages are not installed; activate the virtual environment, or run "
            "`pip install -r requirements.txt`"
        )
    from cnnClassifier.config.configuration import ConfigurationManager

    try:
        manager = ConfigurationManager(options.config, options.params)
        if not options.command and not options.only:
            return _run_stages(options)
        configure_logging(manager.log_file)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1

    function = _COMMANDS.get(options.command, _run_stage)
    name = options.only or options.command
    return run_and_report(lambda: function(manager, options), name, manager.log_file)


def _build_parser() -> argparse.ArgumentParser:
    # These options go before or after a command. Without the default SUPPRESS, the parser of the
    # command would reset a value from before it.
    files = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    files.add_argument("--config", type=Path, help="default: config/config.yaml")
    files.add_argument("--params", type=Path, help="default: params.yaml")
    stages = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    part = stages.add_mutually_exclusive_group()
    part.add_argument(
        "--from",
        dest="first",
        choices=STAGES,
        metavar="STAGE",
        help=f"run this stage and those after it: {', '.join(STAGES)}",
    )
    part.add_argument("--only", choices=STAGES, metavar="STAGE", help="run one stage")
    parser = argparse.ArgumentParser(description=__doc__, parents=[files, stages])
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def add(
        name: str, text: str, parents: Sequence[argparse.ArgumentParser] = (files,)
    ) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, parents=parents)

    run = add("run", "run the stages in order, as without a command", (files, stages))
    run.set_defaults(command=None)
    _add_model_commands(add)
    _add_image_commands(add)
    _add_tracking_commands(add)
    return parser


def _add_model_commands(add: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Add the commands that compare models and search for better ones."""
    add("scores", "print the scores of the last evaluation")

    compare = add("compare", "compare two evaluations, with a test of their difference")
    compare.add_argument(
        "A", help="run ID or name, git revision, DVC experiment, or folder of an evaluation"
    )
    compare.add_argument("B", nargs="?", help="likewise (default: the last evaluation here)")
    compare.add_argument("--names", nargs=2, metavar=("A", "B"), help="names to print")
    compare.add_argument("--markdown", action="store_true", help="print Markdown")
    compare.add_argument("--html", type=Path, metavar="FILE", help="also write a page with curves")

    search = add("search", "search for better hyperparameters, as config/search.yaml says")
    search.add_argument(
        "--n-trials", type=int, metavar="N", help="trials in total (default: trials in search.yaml)"
    )
    search.add_argument("--timeout", type=float, metavar="S", help="start no trial after S seconds")
    search.add_argument("--apply", action="store_true", help="write the best values to params.yaml")


def _add_image_commands(add: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Add the commands for images outside the data set."""
    score = add("score", "predict all images of a source, in bulk, into Parquet files")
    score.add_argument(
        "SOURCE",
        nargs="?",
        help="a source that data ingestion takes, or a .txt file with one path per line",
    )
    score.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the parts")
    score.add_argument("--resume", action="store_true", help="score what DIR doesn't have yet")
    score.add_argument(
        "--summary",
        action="store_true",
        help="print counts of the parts in DIR; alone or at the end",
    )
    score.add_argument(
        "--part-size", type=int, default=1000, metavar="N", help="files in a part (default: 1000)"
    )

    feedback = add(
        "feedback", "list what users flagged as wrong; accept it for training or reject it"
    )
    decision = feedback.add_mutually_exclusive_group()
    decision.add_argument(
        "--accept",
        nargs="+",
        metavar="ID",
        help="train on these images, or on all; ID:CLASS chooses one of several corrections",
    )
    decision.add_argument("--reject", nargs="+", metavar="ID", help="delete these images, or all")
    drift = add("drift", "compare the images that app.py served with the training images")
    period = drift.add_mutually_exclusive_group()
    period.add_argument("--hours", type=int, default=24, metavar="N", help="default: 24")
    period.add_argument("--since", metavar="TIME", help="from 2030-01-31[T09] on, UTC")
    drift.add_argument(
        "--bundle", type=Path, metavar="FOLDER", help="of the model (default: the last trained)"
    )
    drift.add_argument("--html", type=Path, metavar="FILE", help="also write a page with plots")


def _add_tracking_commands(add: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Add the commands for the model registry and the tracking server."""
    promote = add("promote", "put a model into production if its gates are met")
    promote.add_argument(
        "RUN", nargs="?", help="run ID (default: the model with the alias candidate)"
    )
    promote.add_argument(
        "--force", action="store_true", help="even if gates aren't met; needs --reason"
    )
    rollback = add("rollback", "put the previous model back into production")
    for command in (promote, rollback):
        command.add_argument(
            "--reason", default="", metavar="TEXT", help="recorded with the model version"
        )
    connect = add("connect", "set the tracking server in config.yaml; DagsHub as DVC's storage too")
    connect.add_argument("SERVICE", choices=("dagshub", "mlflow"), help="dagshub or mlflow")
    connect.add_argument("ADDRESS", help="USER/REPO on DagsHub, or the URL of an MLflow server")
    add("sync", "send runs to the tracking server that it hasn't received")


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


def _run_stage(manager: Any, options: argparse.Namespace) -> None:
    stage = importlib.import_module(f"cnnClassifier.pipeline.{STAGES[options.only]}")
    stage.main(manager)


def _scores(manager: Any, options: argparse.Namespace) -> None:
    from cnnClassifier.evaluation.scores import SCORES_FILE, format_scores, read_scores
    from cnnClassifier.tracking.connection import is_remote, run_location

    config = manager.evaluation()
    path = config.root_dir / SCORES_FILE
    if not path.is_file():
        raise UserError(f"{path} is missing; run `dvc repro` or `python main.py` first")
    uri = config.tracking.uri
    print(f"\n{format_scores(read_scores(config.root_dir))}")
    print(
        _NEXT_STEPS.format(
            card=config.root_dir / "MODEL_CARD.html",
            runs=run_location(uri),
            local="" if is_remote(uri) else ", at http://localhost:5000",
        )
    )


def _compare(manager: Any, options: argparse.Namespace) -> None:
    from cnnClassifier.evaluation.comparison import (
        EvaluatedModel,
        compare_models,
        format_markdown,
        format_page,
        format_text,
    )
    from cnnClassifier.tracking.evaluation_lookup import find_evaluation
    from cnnClassifier.utils.common import atomic_write

    config = manager.evaluation()
    sources = (options.A, options.B or str(config.root_dir))
    sides = []
    with tempfile.TemporaryDirectory() as folder:
        for source, name in zip(sources, options.names or ("", ""), strict=True):
            download_dir = Path(tempfile.mkdtemp(dir=folder))
            found = find_evaluation(source, config.root_dir, config.tracking, download_dir)
            sides.append(EvaluatedModel.read(found.folder, name or found.name, found.params))
    a, b = sides
    comparison = compare_models(a, b, config.bootstrap_samples, config.seed)
    print(format_markdown(comparison) if options.markdown else format_text(comparison))
    if options.html:
        with atomic_write(options.html) as temp_path:
            temp_path.write_text(format_page(comparison), encoding="utf-8")
        logger.info("page with curves: %s", options.html)


def _score(manager: Any, options: argparse.Namespace) -> None:
    from cnnClassifier.components.scoring import Scoring
    from cnnClassifier.evaluation.scored_parts import ScoredParts

    if not options.SOURCE and not options.summary:
        raise UserError("name a SOURCE to score, or add --summary for the parts in --out")
    if options.part_size < 1:
        raise UserError(f"--part-size: expected a number above 0, found {options.part_size}")
    config = manager.serving()
    if options.SOURCE:
        ingestion, parallel = manager.data_ingestion(), manager.parallel()
        scoring = Scoring(config, ingestion, options.part_size, parallel)
        scoring.run(options.SOURCE, options.out, options.resume)
    if options.summary:
        print(ScoredParts(options.out).summarize(config.project.disclaimer))


def _search(manager: Any, options: argparse.Namespace) -> None:
    from cnnClassifier.components.search import Search

    for name, limit in (("--n-trials", options.n_trials), ("--timeout", options.timeout)):
        if limit is not None and limit <= 0:
            raise UserError(f"{name}: expected a number above 0, found {limit}")
    search = Search(manager.search(), manager.tracking())
    search.run(options.n_trials, options.timeout, options.apply)


def _change_production(manager: Any, options: argparse.Namespace) -> None:
    from cnnClassifier.tracking import registry

    config = manager.tracking()
    if options.command == "rollback":
        version = registry.rollback(config, options.reason)
    elif options.force and not options.reason:
        raise UserError("--force needs --reason TEXT, which is recorded with the model")
    else:
        version = registry.promote(config, options.RUN, options.force, options.reason)
    serve = f"python app.py --model models:/{config.registered_model}@production"
    logger.info("in production: %s, version %s (%s)", config.registered_model, version, serve)


def _feedback(manager: Any, options: argparse.Namespace) -> None:
    from cnnClassifier.components.feedback import Feedback

    feedback = Feedback(manager.feedback())
    if options.accept:
        count = len(feedback.accept(options.accept))
        logger.info("%d accepted: the next `dvc repro` trains on them", count)
    elif options.reject:
        logger.info("%d rejected", len(feedback.reject(options.reject)))
    else:
        print(feedback.summary())


def _sync(manager: Any, options: argparse.Namespace) -> None:
    from cnnClassifier.tracking.sync import sync

    count = sync(manager.tracking(), lambda text: logger.info("%s", text))
    logger.info("%d runs sent", count)


def _drift(manager: Any, options: argparse.Namespace) -> None:
    from cnnClassifier.evaluation.drift_report import (
        first_hour_of,
        format_page,
        format_report,
        parse_time,
        report_of_stored,
    )
    from cnnClassifier.utils.common import atomic_write

    config = manager.serving()
    if config.drift_dir is None:
        raise UserError(
            "serving.drift_dir is null; set it to a folder in config.yaml and restart app.py, or "
            "open the server's page /drift"
        )
    if options.hours < 1:
        raise UserError(f"--hours: expected a number above 0, found {options.hours}")
    since = parse_time(options.since) if options.since else first_hour_of(options.hours)
    bundle_dir = options.bundle or config.bundle_dir
    report = report_of_stored(bundle_dir, config.drift_dir, since, config.drift_group_size)
    disclaimer = config.project.disclaimer
    print(format_report(report, disclaimer))
    if options.html:
        with atomic_write(options.html) as temp_path:
            temp_path.write_text(format_page(report, disclaimer), encoding="utf-8")
        logger.info("page with plots: %s", options.html)


def _connect(manager: Any, options: argparse.Namespace) -> None:
    from cnnClassifier.components.connect import Connect

    secrets = Connect(options.config).run(options.SERVICE, options.ADDRESS)
    logger.info("%s is connected; commit the changed files, then run the pipeline", options.ADDRESS)
    logger.info("Secrets for GitHub Actions (Settings, Secrets and variables, Actions):")
    for name, source in secrets.items():
        logger.info("  %-26s%s", name, source)


_COMMANDS = {
    "connect": _connect,
    "score": _score,
    "scores": _scores,
    "compare": _compare,
    "feedback": _feedback,
    "drift": _drift,
    "search": _search,
    "promote": _change_production,
    "rollback": _change_production,
    "sync": _sync,
}
