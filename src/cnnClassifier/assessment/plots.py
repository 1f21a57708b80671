"""Plots: tables that DVC draws, and the same as pictures for MLflow and people."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn import metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _ACCENT, _SECOND = "#1f2933", "#0b7285", "#c2410c"


def write_tables(
    folder: Path, labels: np.ndarray, called: np.ndarray, score: np.ndarray, classes: Sequence[str], positive: int
) -> None:
    """Write `roc.csv` (fpr, tpr, threshold) and `confusion.csv` (actual, predicted: a row an image)."""
    fpr, tpr, thresholds = metrics.roc_curve(labels == positive, score)
    thresholds = np.minimum(thresholds, 1.0)  # scikit-learn's first one is infinite
    write_csv(
        folder / "roc.csv",
        ("fpr", "tpr", "threshold"),
        zip(fpr.tolist(), tpr.tolist(), thresholds.tolist(), strict=True),
    )
    write_csv(
        folder / "confusion.csv",
        ("actual", "predicted"),
        ((classes[a], classes[p]) for a, p in zip(labels, called, strict=True)),
    )


def write_pictures(folder: Path, history_path: Path, scores: dict[str, Any], note: str) -> None:
    """Write `history.png`, `roc.png` and `confusion_matrix.png` from the tables in `folder`, each with a note."""
    history = _columns(history_path)
    roc = _columns(folder / "roc.csv")
    with _figure(folder / "history.png", "Training history", note) as axes:
        axes.plot(history["epoch"], history["loss"], color=_ACCENT, label="training")
        axes.plot(history["epoch"], history["val_loss"], color=_SECOND, label="validation")
        axes.set(xlabel="epoch", ylabel="loss (cross-entropy)")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
    with _figure(folder / "roc.png", f"ROC: AUC {scores['roc_auc']:.3f}, {scores['n']} images", note) as axes:
        axes.plot([0, 1], [0, 1], color="#9aa5b1", linewidth=1, linestyle=":")
        axes.plot(roc["fpr"], roc["tpr"], color=_ACCENT)
        axes.set(xlabel="1 − specificity", ylabel=f"sensitivity ({scores['positive_class']})", aspect="equal")
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
    with _figure(folder / "confusion_matrix.png", "Confusion matrix", note) as axes:
        display = metrics.ConfusionMatrixDisplay(np.array(scores["confusion_matrix"]), display_labels=scores["classes"])
        display.plot(ax=axes, cmap="BuGn", colorbar=False)
        axes.spines[:].set_visible(False)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows under a header, with line feeds on every system."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _columns(path: Path) -> dict[str, list[float]]:
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
    figure.supxlabel(note, fontsize=7, color="#52606d", x=0.02, ha="left")
    figure.savefig(path, metadata={"Software": None})
