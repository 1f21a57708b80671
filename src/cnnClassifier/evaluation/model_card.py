"""The model card: MODEL_CARD.md and MODEL_CARD.html, one text filled in from the run.

Headings follow Mitchell et al. 2019 (Model Cards for Model Reporting); what is reported follows TRIPOD+AI 2024 and
CLAIM 2024 where they apply.
"""

import base64
import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from PIL import Image

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.entity.disclaimers import DISCLAIMER, SYNTHETIC
from cnnClassifier.evaluation.console_report import interval_text
from cnnClassifier.evaluation.gallery import Case
from cnnClassifier.evaluation.metrics import NAMES

_TEMPLATES = Path(__file__).parent
_POINTS = 300  # of a curve or a kind of picture: more wouldn't be seen


@dataclass(frozen=True)
class CardContent:
    """What the card tells of.

    Attributes:
        bundle: the model.
        scores: content of scores.json.
        report: content of data_report.json.
        params: content of params.yaml.
        draws: resamples behind the intervals.
        cases: the gallery.
    """

    bundle: ModelBundle
    scores: dict[str, Any]
    report: dict[str, Any]
    params: dict[str, object]
    draws: int
    cases: Sequence[Case]


def write_card(folder: Path, content: CardContent) -> None:
    """Write both cards into a folder that holds the tables and the pictures already; the page needs no other file."""
    facts: dict[str, Any] = {
        "bundle": content.bundle,
        "scores": content.scores,
        "report": content.report,
        "params": content.params,
        "draws": content.draws,
        "cases": content.cases,
        "rows": _tables(content),
        "disclaimer": DISCLAIMER,
        "synthetic_notice": SYNTHETIC,
        "interval": interval_text,
    }
    (folder / "MODEL_CARD.md").write_text(_render("model_card.md.j2", facts), encoding="utf-8")
    curves = {"roc": _points(folder / "roc.csv"), "pr": _points(folder / "pr.csv")}
    page = _render(
        "model_card.html.j2",
        facts | curves | {"bins": _rows(folder / "calibration.csv"), "jpeg": _jpeg},
    )
    (folder / "MODEL_CARD.html").write_text(page, encoding="utf-8")


def _tables(content: CardContent) -> dict[str, list[list[Any]]]:
    """Return the rows of the card's tables."""
    scores, report = content.scores, content.report
    shortcuts = report.get("shortcuts") or {}
    groups = sum(report.get("groups", {}).values())
    return {
        "splits": [
            [split, name, images, found["groups"][name]]
            for split, found in report["splits"].items()
            for name, images in found["images"].items()
        ],
        "shortcuts": [
            [
                name.replace("_", " "),
                f"{found['auc']:.3f}",
                interval_text([found["low"], found["high"]]),
                report["used"],
                groups,
            ]
            for name, found in shortcuts.items()
        ],
        "figures": [
            [
                label,
                f"{scores[name]:.3f}",
                interval_text(scores["intervals"].get(name)),
                *scores["counts"][name],
            ]
            for name, label in NAMES.items()
        ],
        "classes": [
            [
                row["class"],
                *(
                    _with_interval(row, key)
                    for key in (
                        "roc_auc",
                        "pr_auc",
                        "sensitivity",
                        "specificity",
                        "precision",
                        "f1",
                    )
                ),
                row["n"],
                row["n_groups"],
            ]
            for row in scores["per_class"]
        ],
        "confusion": [
            [name, *counts]
            for name, counts in zip(scores["classes"], scores["confusion_matrix"], strict=True)
        ],
        "points": [
            [
                point["name"],
                f"{point['threshold']:.4g}",
                NAMES[key],
                f"{point[key]:.3f}",
                interval_text(point["intervals"].get(key)),
                *point["counts"][key],
            ]
            for point in scores["operating_points"]
            for key in ("sensitivity", "specificity", "precision")
        ],
        "kinds": [[row["kind"], row["found"], row["n"]] for row in scores["unfamiliar"]["by_kind"]],
        "cases": [
            [case.path, case.true, case.called, f"{case.probability:.3f}"] for case in content.cases
        ],
        "gates": [
            [gate["name"], "met" if gate["met"] else "NOT MET", gate["sentence"]]
            for gate in scores["gates"]
        ],
    }


def _with_interval(row: dict[str, Any], key: str) -> str:
    return f"{row[key]:.3f} ({interval_text(row['intervals'].get(key))})"


def _render(name: str, facts: dict[str, Any]) -> str:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=select_autoescape(["j2"] if ".html." in name else [], default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["flow"] = _flow
    return re.sub(r"\n{3,}", "\n\n", environment.get_template(name).render(facts))


def _flow(text: str) -> str:
    """Make one line of a paragraph; markup stays markup."""
    return type(text)(" ".join(str(text).split()))


def _rows(path: Path) -> list[dict[str, float]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def _points(path: Path) -> str:
    """Return a table's first two columns as a polyline in a square of 100, y upwards."""
    places = [tuple(row.values())[:2] for row in _rows(path)]
    step = max(1, math.ceil(len(places) / _POINTS))
    return " ".join(
        f"{100 * x:.1f},{100 - 100 * y:.1f}" for x, y in [*places[:-1:step], places[-1]]
    )


def _jpeg(pixels: np.ndarray) -> str:
    """Return an image as a data URI."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
