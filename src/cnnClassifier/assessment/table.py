"""The scores as a person reads them on a terminal."""

from typing import Any

from cnnClassifier.entity.notices import DISCLAIMER, SYNTHETIC

_ROWS = (
    ("balanced_accuracy", "balanced accuracy"),
    ("roc_auc", "ROC AUC"),
    ("sensitivity", "sensitivity"),
    ("specificity", "specificity"),
    ("precision", "precision"),
    ("f1", "F1"),
    ("accuracy", "accuracy"),
    ("loss", "loss"),
)


def score_table(scores: dict[str, Any]) -> str:
    """Draw the scores of the test split, with what they are of and what they aren't for."""
    kind = "SYNTHETIC" if scores["synthetic"] else "real data"
    lines = [f"Test split: {scores['n']} images in {scores['n_groups']} groups ({kind})", ""]
    lines += [f"  {label:<20}{scores[key]:>7.3f}" for key, label in _ROWS]
    width = max(len(name) for name in scores["classes"]) + 2
    lines += ["", "  actual ↓  called →".ljust(width + 2) + "".join(f"{name:>{width}}" for name in scores["classes"])]
    for name, row in zip(scores["classes"], scores["confusion_matrix"], strict=True):
        lines.append(f"  {name}".ljust(max(width + 2, 20)) + "".join(f"{count:>{width}}" for count in row))
    lines += ["", *([SYNTHETIC] if scores["synthetic"] else []), DISCLAIMER]
    return "\n".join(lines)
