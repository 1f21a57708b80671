"""The file `scores.json`: the names of its metrics, and a reader that checks its format."""

from pathlib import Path
from typing import Any

from cnnClassifier.entity.bundle import check_format_version
from cnnClassifier.utils.common import load_json
from cnnClassifier.utils.errors import UserError

SCORES_FILE, PREDICTIONS_FILE = "scores.json", "predictions.csv"
# Keys of scores.json and their names for people, in the order of the file.
METRIC_LABELS = {
    "loss": "log loss",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "roc_auc": "ROC AUC",
    "pr_auc": "PR AUC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "mcc": "MCC",
    "brier": "Brier score",
    "ece": "ECE",
}


def read_scores(folder: Path) -> dict[str, Any]:
    """Read `scores.json` from the output folder of evaluation.

    Args:
        folder: such as `artifacts/evaluation`.

    Raises:
        FileNotFoundError: the folder has no scores.
        UserError: the file is damaged, or version 1 made it.
    """
    path = folder / SCORES_FILE
    try:
        scores = dict(load_json(path))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); run evaluation again") from None
    check_format_version(scores, path)
    return scores
