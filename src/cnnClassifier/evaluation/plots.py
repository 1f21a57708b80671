"""Plots: tables that DVC draws, and the same as pictures for MLflow and people."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn import metrics

from cnnClassifier.evaluation.gallery import Case
from cnnClassifier.evaluation.metrics import Outcome, reliability
from cnnClassifier.utils.common import write_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _FAINT, _ACCENT, _SECOND, _RULE = "#1f2933", "#52606d", "#0b7285", "#c2410c", "#9aa5b1"


def write_tables(
    folder: Path,
    outcome: Outcome,
    classes: Sequence[str],
    unfamiliar: Iterable[tuple[str, str, float, bool]],
) -> None:
    """Write what DVC draws.

    `roc.csv` (fpr, tpr, threshold) and `pr.csv` (recall, precision) of the positive class against the rest,
    `confusion.csv` (actual, predicted: a row an image), `calibration.csv` (a row a bin, see `reliability`) and
    `unfamiliar.csv`.

    Args:
        folder: to write to.
        outcome: predictions on the test split.
        classes: names in the order of the columns.
        unfamiliar: kind, name, distance, and whether that lies beyond the limit.
    """
    is_positive, score = (
        outcome.labels == outcome.positive,
        outcome.probabilities[:, outcome.positive],
    )
    fpr, tpr, thresholds = metrics.roc_curve(is_positive, score)
    thresholds = np.minimum(thresholds, 1.0)  # scikit-learn's first one is infinite
    write_csv(
        folder / "roc.csv",
        ("fpr", "tpr", "threshold"),
        np.stack([fpr, tpr, thresholds], axis=1).tolist(),
    )
    precision, recall, _ = metrics.precision_recall_curve(
        is_positive, score, drop_intermediate=True
    )
    write_csv(
        folder / "pr.csv",
        ("recall", "precision"),
        np.stack([recall, precision], axis=1)[::-1].tolist(),
    )
    write_csv(
        folder / "confusion.csv",
        ("actual", "predicted"),
        ((classes[a], classes[p]) for a, p in zip(outcome.labels, outcome.called, strict=True)),
    )
    bins = [
        {"confidence": row["confidence"], "ideal": row["confidence"]} | row
        for row in reliability(outcome)
    ]
    write_csv(folder / "calibration.csv", tuple(bins[0]), (tuple(row.values()) for row in bins))
    write_csv(
        folder / "unfamiliar.csv",
        ("kind", "name", "distance", "unfamiliar"),
        ((kind, name, f"{distance:.4f}", found) for kind, name, distance, found in unfamiliar),
    )


def write_pictures(
    folder: Path, history_path: Path, scores: dict[str, Any], cases: Sequence[Case], note: str
) -> None:
    """Draw the tables in `folder` and the history as pictures, and the gallery where it isn't empty; a note on each."""
    _draw_history(folder / "history.png", columns(history_path), note)
    _draw_curves(folder, scores, note)
    _draw_calibration(folder / "calibration.png", columns(folder / "calibration.csv"), scores, note)
    _draw_unfamiliar(
        folder / "unfamiliar.png", folder / "unfamiliar.csv", scores["unfamiliar"]["limit"], note
    )
    if cases:
        _draw_gallery(folder / "errors.png", cases, note)


def _draw_history(path: Path, history: dict[str, list[float]], note: str) -> None:
    with _figure(path, "Training history", note) as axes:
        axes.plot(history["epoch"], history["loss"], color=_ACCENT, label="training")
        axes.plot(history["epoch"], history["val_loss"], color=_SECOND, label="validation")
        axes.set(xlabel="epoch", ylabel="loss (cross-entropy)")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)


def _draw_curves(folder: Path, scores: dict[str, Any], note: str) -> None:
    roc, pr = columns(folder / "roc.csv"), columns(folder / "pr.csv")
    of = f"{scores['n']} images, {scores['n_groups']} groups"
    # With more than two classes the figures in scores.json are means over the classes; the curves are of one.
    own = next(
        (row for row in scores["per_class"] if row["class"] == scores["positive_class"]), scores
    )
    with _figure(folder / "roc.png", f"ROC: AUC {own['roc_auc']:.3f}; {of}", note) as axes:
        axes.plot([0, 1], [0, 1], color=_RULE, linewidth=1, linestyle=":")
        axes.plot(roc["fpr"], roc["tpr"], color=_ACCENT)
        _square(axes, "1 − specificity", f"sensitivity ({scores['positive_class']})")
    with _figure(
        folder / "pr.png", f"Precision and recall: AUC {own['pr_auc']:.3f}; {of}", note
    ) as axes:
        share = (
            sum(scores["confusion_matrix"][scores["classes"].index(scores["positive_class"])])
            / scores["n"]
        )
        axes.axhline(share, color=_RULE, linewidth=1, linestyle=":")
        axes.step(pr["recall"], pr["precision"], where="pre", color=_ACCENT)
        _square(axes, f"recall ({scores['positive_class']})", "precision")
    with _figure(folder / "confusion_matrix.png", f"Confusion matrix; {of}", note) as axes:
        display = metrics.ConfusionMatrixDisplay(
            np.array(scores["confusion_matrix"]), display_labels=scores["classes"]
        )
        display.plot(ax=axes, cmap="BuGn", colorbar=False)
        axes.spines[:].set_visible(False)


def _draw_calibration(
    path: Path, bins: dict[str, list[float]], scores: dict[str, Any], note: str
) -> None:
    """Draw the reliability diagram, with the share of images in each bin as bars at the bottom."""
    with _figure(path, f"Calibration: ECE {scores['ece']:.3f}; {scores['n']} images", note) as axes:
        confidence, accuracy, counts = (
            np.array(bins[name]) for name in ("confidence", "accuracy", "n")
        )
        edges = np.minimum((confidence * 10).astype(int), 9) / 10
        axes.bar(
            edges,
            0.25 * counts / counts.max(),
            0.1,
            align="edge",
            color="#dce4e5",
            edgecolor="white",
        )
        axes.plot([0, 1], [0, 1], color=_RULE, linewidth=1, linestyle=":")
        reach = np.abs(np.array([bins["low"], bins["high"]]) - accuracy)
        axes.errorbar(
            confidence, accuracy, yerr=reach, color=_ACCENT, marker="o", markersize=5, capsize=3
        )
        for edge, count in zip(edges, counts, strict=True):
            axes.annotate(
                f"{count:.0f}", (edge + 0.05, 0.01), ha="center", fontsize=7, color=_FAINT
            )
        _square(axes, "probability of the called class", "how often it is right")


def _draw_unfamiliar(path: Path, table: Path, limit: float, note: str) -> None:
    """Draw each picture's distance, a row for each kind; the jitter is a fixed wave: equal data give equal bytes."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    kinds = list(dict.fromkeys(row["kind"] for row in rows))[::-1]
    with _figure(path, f"Distance from the training images; limit {limit:.2f}", note) as axes:
        for place, kind in enumerate(kinds):
            distances = np.array([float(row["distance"]) for row in rows if row["kind"] == kind])
            heights = place + 0.22 * np.sin(2.4 * np.arange(len(distances)))
            colours = np.where(distances > limit, _SECOND, _ACCENT)
            axes.scatter(
                np.maximum(distances, 1e-3), heights, s=14, c=colours, alpha=0.7, linewidths=0
            )
        axes.axvline(limit, color=_INK, linewidth=1, linestyle="--")
        axes.set_xscale("log")
        axes.set_yticks(range(len(kinds)), kinds)
        axes.set_xlabel("distance (log scale); right of the line: unfamiliar")


def _draw_gallery(path: Path, cases: Sequence[Case], note: str) -> None:
    """Draw image and overlay of each case side by side, two cases a row."""
    from matplotlib.figure import Figure

    rows = -(-len(cases) // 2)
    figure = Figure(figsize=(9.2, 2.75 * rows + 0.4), dpi=80, layout="constrained")
    grid = figure.subplots(rows, 4, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for case, pair in zip(cases, grid.reshape(-1, 2), strict=False):
        for axes, pixels in zip(pair, (case.image, case.overlay), strict=True):
            axes.imshow(pixels)
        colour = _INK if case.right else _SECOND
        pair[0].set_title(f"{case.true}\n{case.path[-36:]}", fontsize=7, color=_INK, loc="left")
        pair[1].set_title(
            f"called {case.called}, {case.probability:.2f}\n{'right' if case.right else 'wrong'}",
            fontsize=7,
            color=colour,
            loc="left",
        )
    figure.supxlabel(note, fontsize=7, color=_FAINT, x=0.02, ha="left")
    figure.savefig(path, metadata={"Software": None})


def _square(axes: "Axes", xlabel: str, ylabel: str) -> None:
    axes.set(xlabel=xlabel, ylabel=ylabel, aspect="equal", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))


def columns(path: Path) -> dict[str, list[float]]:
    """Read a table of numbers by column."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


@contextmanager
def _figure(path: Path, title: str, note: str) -> Iterator["Axes"]:
    """Draw on one pair of axes in the house's style, and save without a date."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 4.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", color=_INK, fontsize=12, pad=12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK)
    yield axes
    figure.supxlabel(note, fontsize=7, color=_FAINT, x=0.02, ha="left")
    figure.savefig(path, metadata={"Software": None})
