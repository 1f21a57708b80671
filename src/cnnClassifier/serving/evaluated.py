"""What evaluation and training left of the served model, and of no other."""

import csv
from pathlib import Path
from typing import Any

from cnnClassifier.entity.bundle import HISTORY_FILE, ModelBundle
from cnnClassifier.utils.common import load_json

_SCORES, _CARD = "scores.json", "MODEL_CARD.html"


def scores_of(bundle: ModelBundle, evaluation_dir: Path | None) -> dict[str, Any] | None:
    """Return the content of scores.json; None where it is missing, damaged, or of another model."""
    found = _json(evaluation_dir / _SCORES) if evaluation_dir else {}
    return found if found.get("model_sha256") == bundle.model_sha256 else None


def figure_of(scores: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a figure's value, its interval, and how many images and groups it is of."""
    images, groups = scores["counts"][name]
    return {
        "value": scores[name],
        "interval": scores["intervals"].get(name),
        "images": images,
        "groups": groups,
    }


def card_of(bundle: ModelBundle, evaluation_dir: Path | None) -> Path | None:
    """Return the model card, which stands beside the scores."""
    if evaluation_dir is None or scores_of(bundle, evaluation_dir) is None:
        return None
    return _existing(evaluation_dir / _CARD)


def data_report_of(bundle: ModelBundle, report_path: Path | None) -> Path | None:
    """Return the page on the data that the model was trained on.

    Args:
        bundle: the model.
        report_path: of data_report.json; the page stands beside it.
    """
    if report_path is None or _json(report_path).get("manifest_sha256") != bundle.manifest_sha256:
        return None
    return _existing(report_path.with_suffix(".html"))


def history_of(bundle_dir: Path) -> dict[str, list[float]]:
    """Return each column of the training history; empty where there is none."""
    try:
        with (bundle_dir / HISTORY_FILE).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return {name: [float(row[name]) for row in rows] for name in rows[0]} if rows else {}
    except (OSError, ValueError, TypeError):
        return {}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = load_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None
