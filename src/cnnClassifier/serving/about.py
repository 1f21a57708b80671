"""What the page on the model shows, ready for its template."""

from pathlib import Path
from typing import Any

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.serving.evaluated import figure_of, history_of, scores_of

_WIDTH, _HEIGHT = 600, 220  # of a chart, in the SVG's own units
# What each figure is called, what it says, and whether more is better; those that the scores lack are left out.
_FIGURES = {
    "roc_auc": ("ROC AUC", "how well the probabilities rank the classes; 0.5 is chance", True),
    "pr_auc": ("PR AUC", "precision over all recalls", True),
    "sensitivity": ("Sensitivity", "of the positive class, how many are called so", True),
    "specificity": ("Specificity", "of the others, how many are not called so", True),
    "precision": ("Precision", "of those called positive, how many are", True),
    "balanced_accuracy": ("Balanced accuracy", "mean over the classes", True),
    "accuracy": ("Accuracy", "how many calls are right", True),
    "f1": ("F1", "precision and recall in one figure", True),
    "mcc": ("MCC", "correlation of calls and truth", True),
    "brier": ("Brier score", "squared error of the probabilities; 0 is best", False),
    "ece": ("ECE", "how far probabilities lie from frequencies; 0 is best", False),
}


def about(bundle: ModelBundle, bundle_dir: Path, evaluation_dir: Path | None) -> dict[str, Any]:
    """Return the template's variables.

    Args:
        bundle: the served model.
        bundle_dir: where its history stands.
        evaluation_dir: where its scores may stand.
    """
    scores = scores_of(bundle, evaluation_dir)
    return {
        "bundle": bundle,
        "labels": [bundle.label(name) for name in bundle.classes],
        "positive": bundle.label(bundle.positive_class),
        "binary": len(bundle.classes) == 2,
        "chart": _chart(history_of(bundle_dir)),
        **(_evaluation(bundle, scores) if scores else {"scores": None}),
    }


def _evaluation(bundle: ModelBundle, scores: dict[str, Any]) -> dict[str, Any]:
    return {
        "scores": scores,
        "figures": [_figure(scores, name) for name in _FIGURES if name in scores],
        "confusion": _confusion(bundle, scores),
        "unmet": [gate for gate in scores.get("gates", []) if not gate["passed"]],
    }


def _figure(scores: dict[str, Any], name: str) -> dict[str, Any]:
    label, meaning, upwards = _FIGURES[name]
    return {"label": label, "meaning": meaning, "upwards": upwards, **figure_of(scores, name)}


def _confusion(bundle: ModelBundle, scores: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each actual class; each cell with its share of the row in tenths, for its shade."""
    return [
        {
            "label": bundle.label(name),
            "total": sum(counts),
            "cells": [
                {
                    "count": count,
                    "tenths": round(10 * count / max(1, sum(counts))),
                    "right": place == column,
                }
                for column, count in enumerate(counts)
            ],
        }
        for place, (name, counts) in enumerate(
            zip(scores["classes"], scores["confusion_matrix"], strict=True)
        )
    ]


def _chart(history: dict[str, list[float]]) -> dict[str, Any] | None:
    """Return the losses as polylines, y downwards from the largest loss; None without a history."""
    losses = {name: history[name] for name in ("loss", "val_loss") if history.get(name)}
    if not losses:
        return None
    epochs = len(next(iter(losses.values())))
    top = max(max(values) for values in losses.values()) or 1.0
    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "epochs": epochs,
        "top": top,
        "lines": {
            name: " ".join(
                f"{_WIDTH * place / max(1, epochs - 1):.1f},{_HEIGHT * (1 - value / top):.1f}"
                for place, value in enumerate(values)
            )
            for name, values in losses.items()
        },
        "last": {name: values[-1] for name, values in losses.items()},
    }
