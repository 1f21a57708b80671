"""Run the pipeline without DVC: all stages in a row, or a part; or show the scores of the last run."""

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
NEXT_STEPS = """
Next:
  python app.py       the page, at http://localhost:8080
  mlflow ui --backend-store-uri {uri}       the runs, at http://localhost:5000
  dvc plots show      ROC, confusion matrix and training history"""


def main() -> int:
    """Parse the command line and do what it asks; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", nargs="?", choices=("run", "scores"), default="run")
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--from", dest="first", choices=STAGES, metavar="STAGE", help=f"start at: {', '.join(STAGES)}")
    part.add_argument("--only", choices=STAGES, metavar="STAGE", help="run one stage")
    parser.add_argument("--config", type=Path, default=Path("config/config.yaml"), help="default: %(default)s")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: %(default)s")
    arguments = parser.parse_args()

    sys.path.insert(0, str(ROOT / "src"))
    _use_virtual_environment()
    from cnnClassifier.config.configuration import ConfigurationManager
    from cnnClassifier.utils.errors import ConfigError
    from cnnClassifier.utils.log import configure_logging, run_and_report

    try:
        manager = ConfigurationManager(arguments.config, arguments.params)
        if arguments.command == "scores" or arguments.only:
            configure_logging(manager.log_file)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if arguments.command == "scores":
        return run_and_report(lambda: _show_scores(manager), "scores", manager.log_file)
    if arguments.only:
        stage = importlib.import_module(f"cnnClassifier.pipeline.{STAGES[arguments.only]}")
        return run_and_report(lambda: stage.main(manager), arguments.only, manager.log_file)
    # A process for each stage: memory is given back, and evaluation runs on the engine that serves.
    names = list(STAGES)
    for name in names[names.index(arguments.first or names[0]) :]:
        print(f"\n== {name}", file=sys.stderr, flush=True)
        files = ["--config", str(arguments.config), "--params", str(arguments.params)]
        code = subprocess.run([sys.executable, str(ROOT / "main.py"), "--only", name, *files], check=False).returncode
        if code:
            return code
    _show_scores(manager)
    return 0


def _show_scores(manager: "ConfigurationManager") -> None:  # noqa: F821 - imported once src is on the path
    from cnnClassifier.assessment.table import score_table
    from cnnClassifier.tracking.mlflow_run import without_password
    from cnnClassifier.utils.common import load_json
    from cnnClassifier.utils.errors import UserError

    config = manager.evaluation()
    path = config.root_dir / "scores.json"
    if not path.is_file():
        raise UserError(f"{path} is missing; run `dvc repro` or `python main.py` first")
    print(f"\n{score_table(load_json(path))}\n{NEXT_STEPS.format(uri=without_password(config.mlflow_uri))}")


def _use_virtual_environment() -> None:
    """Hand over to .venv where this Python lacks the packages: `.venv/bin/dvc repro` runs whatever `python` is."""
    if importlib.util.find_spec("box") is None:
        for python in (ROOT / ".venv/bin/python", ROOT / ".venv/Scripts/python.exe"):
            if python.is_file() and Path(sys.prefix) != ROOT / ".venv":
                sys.exit(subprocess.run([str(python), *sys.argv], check=False).returncode)
        sys.exit("error: the packages are not installed; run `pip install -r requirements.txt`")


if __name__ == "__main__":
    sys.exit(main())
