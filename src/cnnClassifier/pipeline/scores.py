"""The command scores: what the last evaluation found, and what to type next."""

from cnnClassifier.config.configuration import ConfigurationManager
from cnnClassifier.evaluation.console_report import format_scores
from cnnClassifier.evaluation.scores_file import SCORES_FILE, read_scores
from cnnClassifier.tracking.connection import is_remote, ui_location
from cnnClassifier.utils.errors import UserError

_NEXT_STEPS = """
Next:
  {card}       the model card: all figures, errors and their maps
  python app.py       the page, at http://localhost:8080
  {runs}       the runs{local}
  dvc plots show      ROC, calibration, confusion matrix, training history"""


def main(manager: ConfigurationManager) -> None:
    """Print the scores of the test split."""
    config = manager.evaluation()
    path = config.root_dir / SCORES_FILE
    if not path.is_file():
        raise UserError(f"{path} is missing; run `dvc repro` or `python main.py` first")
    card, runs = config.root_dir / "MODEL_CARD.html", ui_location(config.tracking.uri)
    local = "" if is_remote(config.tracking.uri) else ", at http://localhost:5000"
    print(
        f"\n{format_scores(read_scores(config.root_dir))}\n{_NEXT_STEPS.format(card=card, runs=runs, local=local)}"
    )
