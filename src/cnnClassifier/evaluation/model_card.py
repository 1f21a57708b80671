"""Write the model card as MODEL_CARD.md and MODEL_CARD.html, from the same text.

The sections follow Mitchell et al. 2019 (Model Cards for Model Reporting), the content follows
TRIPOD+AI 2024 and CLAIM 2024 as far as they apply.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.entity.config_entity import EvaluationConfig
from cnnClassifier.entity.disclaimers import SYNTHETIC
from cnnClassifier.evaluation.plots import GalleryImage, read_class_curves
from cnnClassifier.evaluation.scores import (
    SPLIT_TEXTS,
    TOO_FEW_GROUPS,
    format_interval,
    format_limits,
    metric_labels,
    summarize,
)
from cnnClassifier.utils.images import image_data_uri
from cnnClassifier.utils.page import render_template_file
from cnnClassifier.utils.svg import polyline_points


def write_card(
    folder: Path,
    bundle: ModelBundle,
    scores: dict[str, Any],
    report: dict[str, Any],
    config: EvaluationConfig,
    gallery: Sequence[GalleryImage],
) -> None:
    """Write both cards.

    Args:
        folder: the output folder of evaluation, with the tables and plots.
        bundle: the model.
        scores: content of scores.json.
        report: content of data_report.json.
        config: the texts of the project, the parameters, and the number of resamples.
        gallery: the worst predictions.
    """
    roc, pr = pd.read_csv(folder / "roc.csv"), pd.read_csv(folder / "pr.csv")
    variables = {
        "bundle": bundle,
        "scores": scores,
        "report": report,
        "params": config.tracking.params,
        "bootstrap_samples": config.bootstrap_samples,
        "project": config.project,
        "gallery_images": gallery,
        "calibration": pd.read_csv(folder / "calibration.csv").to_dict("records"),
        "roc": polyline_points(roc["fpr"].to_numpy(), roc["tpr"].to_numpy()),
        "roc_per_class": _class_curves(folder) if scores["per_class"] else {},
        "pr": polyline_points(pr["recall"].to_numpy(), pr["precision"].to_numpy()),
        "summary": summarize(scores),
        "labels": metric_labels(scores),
        "split_text": SPLIT_TEXTS[scores["split"]],
        "interval": format_interval,
        "limits": format_limits,
        "too_few_groups": TOO_FEW_GROUPS,
        "data_uri": image_data_uri,
        "synthetic_notice": SYNTHETIC,
    }
    for kind in ("md", "html"):
        text = render_template_file("cnnClassifier.evaluation", f"model_card.{kind}", **variables)
        text = re.sub(r"\n{3,}", "\n\n", text)
        (folder / f"MODEL_CARD.{kind}").write_text(text, encoding="utf-8")


def _class_curves(folder: Path) -> dict[str, str]:
    """Return the ROC curve of each class against the rest as polyline points."""
    curves = {}
    for name, curve in read_class_curves(folder).items():
        curves[name] = polyline_points(curve["fpr"].to_numpy(), curve["tpr"].to_numpy())
    return curves
