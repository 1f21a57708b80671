"""What a search found as one page that needs nothing else: no script, no network, no other file."""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

from cnnClassifier.entity.disclaimers import DISCLAIMER
from cnnClassifier.utils.page import render_template_file

_NAMES = {"loss": "log loss", "roc_auc": "ROC AUC", "balanced_accuracy": "balanced accuracy"}
_WORST = 3.0  # as many times as far from the best as the median: what is worse is drawn at the edge


def render_page(report: dict[str, Any]) -> str:
    """Return `report.html`.

    Args:
        report: from `build_report`, with `changes` where there is a best trial.
    """
    heights = _heights([trial["value"] for trial in report["trials"]], report["minimise"])
    points = [
        {**trial, "y": y, "is_best": trial["number"] == report.get("best", {}).get("number")}
        for trial, y in zip(report["trials"], heights, strict=True)
    ]
    return render_template_file(
        "cnnClassifier.tuning",
        "report_page.html",
        report=report,
        names=_NAMES,
        disclaimer=DISCLAIMER,
        history=_history(points),
        slices=[_slice(key, points, key in report["log"]) for key in report["space"]]
        if points
        else [],
        ranked=sorted(
            report["trials"],
            key=lambda t: (t["early"], t["value"] * (1 if report["minimise"] else -1)),
        ),
        shown=_shown,
    )


def _shown(value: Any) -> str:
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _heights(values: Sequence[float], minimise: bool) -> list[float]:
    """Return each value's place from 0, the best, to 100."""
    losses = [value if minimise else -value for value in values]
    best = min(losses, default=0.0)
    reach = min(max(losses, default=0.0) - best, _WORST * (median(losses or [0.0]) - best)) or 1.0
    return [round(100 * min((loss - best) / reach, 1), 1) for loss in losses]


def _history(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the trials from left to right, and the best so far as a line of steps."""
    step = 300 / max(len(points), 1)
    placed = [
        {**point, "x": round((number + 0.5) * step, 1)} for number, point in enumerate(points)
    ]
    line, best = [], math.inf
    for point in placed:
        if not point["early"] and point["y"] < best:
            line += [
                f"{point['x']},{best if best < math.inf else point['y']}",
                f"{point['x']},{point['y']}",
            ]
            best = point["y"]
    return {"points": placed, "line": " ".join([*line, f"300,{best}"] if line else [])}


def _slice(key: str, points: Sequence[dict[str, Any]], log: bool) -> dict[str, Any]:
    """Return the trials by the value of one parameter."""
    values = [point["params"][key] for point in points]
    if all(isinstance(value, float) for value in values):
        places = [math.log(value) if log else value for value in values]
        low, high = min(places), max(places)
        xs = [5 + 90 * (place - low) / ((high - low) or 1) for place in places]
        ticks = [{"x": 5, "text": _shown(min(values)), "anchor": "start"}]
        if high > low:
            ticks.append({"x": 95, "text": _shown(max(values)), "anchor": "end"})
    else:
        known = sorted(
            set(values), key=lambda value: (isinstance(value, str), value is None, value or 0)
        )
        width = 100 / len(known)
        xs = [(known.index(value) + 0.5) * width for value in values]
        ticks = [
            {"x": round((place + 0.5) * width, 1), "text": _shown(value), "anchor": "middle"}
            for place, value in enumerate(known)
        ]
    return {
        "key": key,
        "ticks": ticks,
        "points": [{**p, "x": round(x, 1)} for p, x in zip(points, xs, strict=True)],
    }
