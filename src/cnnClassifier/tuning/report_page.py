"""The result of a search as an HTML page without scripts and without other files."""

from typing import Any

import numpy as np

from cnnClassifier.entity.disclaimers import DISCLAIMER, SYNTHETIC
from cnnClassifier.utils.page import render_template_file
from cnnClassifier.utils.svg import polyline_points

_LABELS = {"loss": "log loss", "roc_auc": "ROC AUC", "balanced_accuracy": "balanced accuracy"}
_MAX_TICKS = 4
_MAX_DISTANCE = 3.0  # in medians of the distance to the best value; worse trials are at the edge


def render_page(report: dict[str, Any]) -> str:
    """Return `report.html`.

    Args:
        report: from `build_report`; with `changes` if there is a best trial.
    """
    trials = report["trials"]
    sign = 1 if report["minimize"] else -1
    losses = np.array([sign * trial["value"] for trial in trials])
    y = _heights(losses)
    x = (np.arange(len(trials)) + 0.5) / max(len(trials), 1)
    slices = []
    for key in report["space"] if trials else []:
        values = [trial["params"][key] for trial in trials]
        slices.append({"key": key, **_slice(values)})
    return render_template_file(
        "cnnClassifier.tuning",
        "report_page.html",
        report=report,
        labels=_LABELS,
        disclaimer=DISCLAIMER,
        synthetic_notice=SYNTHETIC,
        x=x.tolist(),
        y=y.tolist(),
        best_line=_best_line(x, y, [trial["pruned"] for trial in trials]),
        slices=slices,
        ranked=sorted(trials, key=lambda trial: (trial["pruned"], sign * trial["value"])),
        format_value=_format_value,
    )


def _format_value(value: Any) -> str:
    if value is None:
        return "null"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _heights(losses: np.ndarray) -> np.ndarray:
    """Return the height of each trial in the charts, from 0, the best value, to 1."""
    if not len(losses):
        return losses
    distance = losses - losses.min()
    scale = min(distance.max(), _MAX_DISTANCE * np.median(distance)) or 1.0
    return np.minimum(distance / scale, 1.0)


def _best_line(x: np.ndarray, y: np.ndarray, pruned: list[bool]) -> str:
    """Return the best value so far as an SVG polyline of steps."""
    complete = ~np.array(pruned, bool)
    if not complete.any():
        return ""
    best = np.minimum.accumulate(y[complete])
    edges = np.append(x[complete], 1.0)
    return polyline_points(np.repeat(edges, 2)[1:-1], np.repeat(best, 2))


def _slice(values: list[Any]) -> dict[str, Any]:
    """Return the horizontal position of each trial by the value of one parameter, and the ticks.

    Different values have equal distances, whatever the scale of the parameter.
    """
    # Numbers, then null, then strings.
    ranked = sorted(set(values), key=lambda v: (isinstance(v, str), v is None, v or 0))
    centers = {value: (rank + 0.5) / len(ranked) for rank, value in enumerate(ranked)}
    labeled = ranked if len(ranked) <= _MAX_TICKS else [ranked[0], ranked[-1]]
    ticks = [{"x": 100 * centers[value], "text": _format_value(value)} for value in labeled]
    return {"x": [centers[value] for value in values], "ticks": ticks}
