"""The file `scores.json`: its name, the names of its metrics, and a reader that checks its format."""

from pathlib import Path
from typing import Any

from cnnClassifier.utils.common import load_json
from cnnClassifier.utils.errors import UserError

FORMAT_VERSION = 2
SCORES_FILE = "scores.json"
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
        UserError: the file is not JSON, or was made by another version of this project.
    """
    path = folder / SCORES_FILE
    try:
        scores = load_json(path)
    except ValueError as error:
        raise UserError(f"{path}: invalid JSON ({error}); run evaluation again") from None
    version = scores.get("format_version", 1) if isinstance(scores, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(f"{path}: made by version {version or 'unknown'}; run `dvc repro`")
    return scores
