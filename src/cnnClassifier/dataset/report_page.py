"""The audit as one page that needs nothing else: no script, no network, no other file."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from cnnClassifier.dataset.audit import FileFacts
from cnnClassifier.dataset.report import Audited, conflict_sets, copy_sets, near_sets
from cnnClassifier.dataset.shortcuts import SHORTCUTS
from cnnClassifier.entity.config_entity import DataValidationConfig
from cnnClassifier.entity.disclaimers import DISCLAIMER
from cnnClassifier.entity.manifest import SPLITS
from cnnClassifier.imaging.decode import DicomOptions, decode
from cnnClassifier.utils.page import render_template_file

_SETS, _PICTURES, _ROWS, _POINTS = (
    12,
    8,
    50,
    1500,
)  # that are shown of each kind, so that the page stays small
_SIDE = 200  # pixels of a picture's longer side


def render_page(audited: Audited, report: dict[str, Any], config: DataValidationConfig) -> str:
    """Return `data_report.html`; the same data give the same bytes.

    Args:
        audited: what was found.
        report: as `build_report` returned it.
        config: where the pictures are, and the limits that the page names.
    """
    return render_template_file(
        "cnnClassifier.dataset",
        "report_page.html",
        report=report,
        config=config,
        classes=audited.manifest.classes,
        splits=SPLITS,
        shortcut_names=SHORTCUTS,
        disclaimer=DISCLAIMER,
        conflicts=_gallery(conflict_sets(audited), audited, config),
        near=_gallery(near_sets(audited), audited, config),
        copies=_gallery(copy_sets(audited), audited, config, pictures=1),
        faults=list(report["faults"].items())[:_ROWS],
        scatter=_scatter(audited),
    )


def _gallery(
    sets: Sequence[Sequence[int]],
    audited: Audited,
    config: DataValidationConfig,
    pictures: int = _PICTURES,
) -> dict[str, Any]:
    classes = audited.manifest.classes
    shown = []
    for places in sets[:_SETS]:
        items = [
            {
                "path": audited.facts[place].path,
                "label": audited.facts[place].label,
                "size": audited.facts[place].size,
                "split": audited.manifest.entries[place].split,
                "class": classes.index(audited.facts[place].label),
                "picture": _picture(audited.facts[place], config) if number < pictures else "",
            }
            for number, place in enumerate(places[:_PICTURES])
        ]
        shown.append({"items": items, "more": len(places) - len(items), "count": len(places)})
    return {"sets": shown, "more": len(sets) - len(shown)}


def _picture(fact: FileFacts, config: DataValidationConfig) -> str:
    """Return a small JPEG as a data URI."""
    data = (config.data_dir / fact.path).read_bytes()
    image = Image.fromarray(
        decode(data, config.max_pixels, DicomOptions.parse(config.dicom_window)).pixels
    )
    image.thumbnail((_SIDE, _SIDE))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


def _scatter(audited: Audited) -> dict[str, Any]:
    """Return one point for each image in use, or for evenly chosen ones: its size as places in a 100×100 square."""
    used = [entry for entry in audited.manifest.entries if entry.split]
    sides = np.array([entry.size.split("x") for entry in used], int)
    most = int(sides.max())
    classes = audited.manifest.classes
    chosen = np.unique(np.linspace(0, len(used) - 1, _POINTS).astype(int))
    points = [
        {
            "x": round(100 * sides[place, 0] / most, 1),
            "y": round(100 - 100 * sides[place, 1] / most, 1),
            "class": classes.index(used[place].label),
            "title": f"{used[place].path}: {used[place].size}",
        }
        for place in chosen
    ]
    return {"points": points, "most": most}
