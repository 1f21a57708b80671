"""Run the pipeline without DVC, all or a part; search; show, compare, promote and send what came out."""

import argparse
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
STAGES = {
    "data_ingestion": "s1_data_ingestion",
    "data_validation": "s1_data_validation",
    "prepare_base_model": "s2_prepare_base_model",
    "training": "s3_training",
    "evaluation": "s4_evaluation",
}
COMMANDS = {
    "scores": ("scores", "main"),
    "crossvalidate": ("crossvalidation", "main"),
    "compare": ("compare", "main"),
    "promote": ("production", "promote"),
    "rollback": ("production", "rollback"),
    "search": ("search", "main"),
    "sync": ("sync", "main"),
}
_RUN = (
    "promote: the run's id (default: that of the alias candidate). compare: one or two runs (id or name), git "
    "revisions, DVC experiments or folders; one is compared with the last evaluation here"
)


def main() -> int:
    """Parse the command line and do what it asks; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", nargs="?", choices=("run", *COMMANDS), default="run")
    parser.add_argument("RUN", nargs="*", help=_RUN)
    parser.add_argument(
        "--markdown", action="store_true", help="compare: print Markdown, for a pull request"
    )
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="compare: write a page with curves as well"
    )
    parser.add_argument(
        "--names", nargs=2, metavar=("A", "B"), help="compare: what to call the two"
    )
    parser.add_argument(
        "--force", action="store_true", help="promote: although gates aren't met; needs --reason"
    )
    parser.add_argument(
        "--reason", default="", metavar="TEXT", help="promote, rollback: recorded with the model"
    )
    parser.add_argument(
        "--n-trials", type=int, metavar="N", help="search: trials in all (default: search.yaml's)"
    )
    parser.add_argument(
        "--timeout", type=float, metavar="S", help="search: begin no trial after S seconds"
    )
    parser.add_argument(
        "--apply", action="store_true", help="search: write the best values into params.yaml"
    )
    part = parser.add_mutually_exclusive_group()
    part.add_argument(
        "--from",
        dest="first",
        choices=STAGES,
        metavar="STAGE",
        help=f"start at: {', '.join(STAGES)}",
    )
    part.add_argument("--only", choices=STAGES, metavar="STAGE", help="run one stage")
    parser.add_argument(
        "--config", type=Path, default=Path("config/config.yaml"), help="default: %(default)s"
    )
    parser.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="default: %(default)s"
    )
    arguments = parser.parse_args()
    least, most = {"promote": (0, 1), "compare": (1, 2)}.get(arguments.command, (0, 0))
    if not least <= len(arguments.RUN) <= most:
        parser.error(f"{arguments.command} takes {f'{least} or {most}' if most else 'no'} RUN")
    if min(arguments.n_trials or 1, arguments.timeout or 1) <= 0 or arguments.n_trials == 0:
        parser.error("--n-trials and --timeout: expected more than 0")
    options = {
        "compare": {
            "sides": arguments.RUN,
            "names": arguments.names,
            "markdown": arguments.markdown,
            "page": arguments.html,
        },
        "promote": {
            "run": next(iter(arguments.RUN), None),
            "force": arguments.force,
            "reason": arguments.reason,
        },
        "rollback": {"reason": arguments.reason},
        "search": {
            "trials": arguments.n_trials,
            "timeout_s": arguments.timeout,
            "apply": arguments.apply,
        },
    }.get(arguments.command, {})

    sys.path.insert(0, str(ROOT / "src"))
    _use_virtual_environment()
    from cnnClassifier.config.configuration import ConfigurationManager
    from cnnClassifier.utils.errors import ConfigError
    from cnnClassifier.utils.log import configure_logging, run_and_report

    name = arguments.only if arguments.command == "run" else arguments.command
    try:
        manager = ConfigurationManager(arguments.config, arguments.params)
        if name:
            configure_logging(manager.log_file)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if name:
        module, function = COMMANDS.get(name) or (STAGES[name], "main")
        work = getattr(importlib.import_module(f"cnnClassifier.pipeline.{module}"), function)
        return run_and_report(lambda: work(manager, **options), name, manager.log_file)
    # A process for each stage: memory is given back, and evaluation runs on the engine that serves.
    names = list(STAGES)
    files = ["--config", str(arguments.config), "--params", str(arguments.params)]
    for name in names[names.index(arguments.first or names[0]) :]:
        print(f"\n== {name}", file=sys.stderr, flush=True)
        code = subprocess.run(
            [sys.executable, str(ROOT / "main.py"), "--only", name, *files], check=False
        ).returncode
        if code:
            return code
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py"), "scores", *files], check=False
    ).returncode


def _use_virtual_environment() -> None:
    """Hand over to .venv where this Python lacks the packages: `.venv/bin/dvc repro` runs whatever `python` is."""
    if importlib.util.find_spec("box") is None:
        # DVC runs queued experiments in copies below .dvc/tmp/exps, which have no .venv of their own.
        clone = next(
            (folder for folder in ROOT.parents if ROOT.is_relative_to(folder / ".dvc/tmp/exps")),
            ROOT,
        )
        for python in (clone / ".venv/bin/python", clone / ".venv/Scripts/python.exe"):
            if python.is_file() and Path(sys.prefix) != clone / ".venv":
                sys.exit(subprocess.run([str(python), *sys.argv], check=False).returncode)
        sys.exit("error: the packages are not installed; run `pip install -r requirements.txt`")


if __name__ == "__main__":
    sys.exit(main())
