"""The tables of evaluation, which `dvc plots` draws, plots, and the worst predictions as images."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from sklearn import metrics

from cnnClassifier.evaluation.metrics import (
    LabeledPredictions,
    calibration_curve,
    curves,
)

_TEXT, _MUTED, _PRIMARY, _SECONDARY, _LINE = "#1f2933", "#52606d", "#0b7285", "#c2410c", "#9aa5b1"
_UNIT_SQUARE = {"aspect": "equal", "xlim": (-0.02, 1.02), "ylim": (-0.02, 1.02)}


@dataclass(frozen=True)
class GalleryImage:
    """An image of the gallery.

    Attributes:
        path: as in the manifest.
        actual: its class.
        predicted: the class that the model predicts.
        probability: of the predicted class.
        pixels: the input of the model, uint8 (height, width, 3).
        overlay: the image with its class activation map.
    """

    path: str
    actual: str
    predicted: str
    probability: float
    pixels: np.ndarray
    overlay: np.ndarray


def worst_predictions(predictions: LabeledPredictions, count: int) -> list[int]:
    """Return the indices of the errors, largest loss first, then of the least certain images.

    Args:
        predictions: of the evaluated images.
        count: maximum number of indices.
    """
    labels = predictions.labels[:, None]
    true_class = np.take_along_axis(predictions.probabilities, labels, axis=1)[:, 0]
    return np.lexsort((true_class, predictions.correct))[:count].tolist()


def overlay(image: np.ndarray, activation: np.ndarray) -> np.ndarray:
    """Draw a class activation map over an image: bright and opaque where the activation is high.

    Args:
        image: uint8, (height, width, 3).
        activation: float, (h, w), 0 to 1; scaled to the image.

    Returns:
        uint8, (height, width, 3).
    """
    size = (image.shape[1], image.shape[0])
    smooth = Image.fromarray(activation.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    strength = np.asarray(smooth).clip(0, 1)
    color = 255 * colormaps["inferno"](strength)[..., :3]
    opacity = 0.65 * strength[..., None]
    return (image * (1 - opacity) + color * opacity).round().astype(np.uint8)


ROC_PER_CLASS_FILE = "roc_per_class.csv"


def write_tables(
    folder: Path,
    predictions: LabeledPredictions,
    classes: Sequence[str],
    images: pd.DataFrame,
    distances: pd.DataFrame,
) -> None:
    """Write the predictions and the tables of the plots.

    `roc.csv` (fpr, tpr, threshold) and `pr.csv` (recall, precision) are the curves of the positive
    class against the rest, or micro-averages if there is none. With more than two classes,
    `roc_per_class.csv` (class, fpr, tpr) has each class against the rest. `predictions.csv` and
    `confusion.csv` (actual, predicted) have a row for each image, `calibration.csv` for each bin,
    see `calibration_curve`, and `out_of_distribution.csv` for each image of `distances`.

    Args:
        folder: output folder.
        predictions: of the evaluated images.
        classes: names, in the order of the columns.
        images: a row for each of these images with `path`, `sha256`, `group`, `distance` and
            `out_of_distribution`.
        distances: a row for each image, also for those of other kinds, with `kind`, `name`,
            `distance` and `out_of_distribution`.
    """
    names = np.array(classes)
    labels = {"actual": names[predictions.labels], "predicted": names[predictions.predicted]}
    confusion = pd.DataFrame(labels, images.index)
    probabilities = pd.DataFrame(predictions.probabilities.round(6), images.index, names)
    ood_columns = ["distance", "out_of_distribution"]
    # Concatenated, not a dict of columns: a class may have the name of another column.
    columns = [images[["path", "sha256", "group"]], confusion, probabilities, images[ood_columns]]
    roc, pr = curves(predictions)
    calibration = calibration_curve(predictions)
    calibration.insert(1, "ideal", calibration["confidence"])
    tables = {
        "predictions.csv": pd.concat(columns, axis=1),
        "roc.csv": roc,
        "pr.csv": pr,
        "confusion.csv": confusion,
        "calibration.csv": calibration,
        "out_of_distribution.csv": distances,
    }
    if len(classes) > 2:
        of_classes = []
        for index, name in enumerate(classes):
            of_classes.append(curves(predictions, index)[0].assign(**{"class": name}))
        tables[ROC_PER_CLASS_FILE] = pd.concat(of_classes)[["class", "fpr", "tpr"]]
    for name, table in tables.items():
        table.to_csv(folder / name, index=False, lineterminator="\n")


def read_class_curves(folder: Path) -> dict[str, pd.DataFrame]:
    """Return the ROC curve (fpr, tpr) of each class that `write_tables` wrote, by class."""
    # A class may be named NA.
    table = pd.read_csv(folder / ROC_PER_CLASS_FILE, dtype={"class": str}, keep_default_na=False)
    return {str(name): curve for name, curve in table.groupby("class", sort=False)}


def write_plots(
    folder: Path,
    history_path: Path,
    scores: dict[str, Any],
    gallery: Sequence[GalleryImage],
    note: str,
) -> None:
    """Draw the tables in `folder`, the training history and the gallery as PNG files.

    Args:
        folder: with the tables of `write_tables`.
        history_path: history.csv of the bundle.
        scores: content of scores.json.
        gallery: may be empty, then nothing is drawn.
        note: printed below each plot.
    """
    size = f"{scores['n']} images, {scores['n_groups']} groups"
    with _axes(folder / "history.png", "Training history", note) as axes:
        history = pd.read_csv(history_path)
        axes.plot(history["epoch"], history["loss"], color=_PRIMARY, label="training")
        if "val_loss" in history:  # a network with trained blocks ends with a fit on all images
            val_loss = history["val_loss"]
            axes.plot(history["epoch"], val_loss, color=_SECONDARY, label="held-out images")
        axes.set(xlabel="epoch", ylabel="loss (cross-entropy)", ylim=(0, None))
        axes.legend(frameon=False)
    _plot_curves(folder, scores, size, note)
    matrix = np.array(scores["confusion_matrix"])
    with _axes(folder / "confusion_matrix.png", f"Confusion matrix; {size}", note) as axes:
        display = metrics.ConfusionMatrixDisplay(matrix, display_labels=scores["classes"])
        display.plot(ax=axes, cmap="BuGn", colorbar=False)
        axes.set(xlabel="predicted", ylabel="actual")
        axes.spines[:].set_visible(False)
    _plot_calibration(folder, scores, note)
    _plot_distances(folder, scores["out_of_distribution"]["limit"], note)
    if gallery:
        _plot_gallery(folder / "errors.png", gallery, note)


def _plot_curves(folder: Path, scores: dict[str, Any], size: str, note: str) -> None:
    """Draw the ROC of each class against the rest (of two, the positive one), and the PR curve."""
    roc, pr = pd.read_csv(folder / "roc.csv"), pd.read_csv(folder / "pr.csv")
    matrix = np.array(scores["confusion_matrix"])
    positive, prevalence, area = scores["positive_class"], 1 / len(matrix), ""
    if positive:
        index = scores["classes"].index(positive)
        prevalence = matrix[index].sum() / matrix.sum()
        of_positive = scores["per_class"][index] if scores["per_class"] else scores
        area = f" AUC {of_positive['pr_auc']:.3f}"
    title = f"ROC: {'macro ' if scores['per_class'] else ''}AUC {scores['roc_auc']:.3f}; {size}"
    with _axes(folder / "roc.png", title, note) as axes:
        axes.plot([0, 1], [0, 1], color=_LINE, linewidth=1, linestyle=":")
        if scores["per_class"]:
            for label, curve in read_class_curves(folder).items():
                axes.plot(curve["fpr"], curve["tpr"], linewidth=1.2, label=label)
            axes.legend(frameon=False, fontsize="small", ncols=1 + len(matrix) // 12)
            axes.set(xlabel="1 − specificity", ylabel="sensitivity (class against rest)")
        else:
            axes.plot(roc["fpr"], roc["tpr"], color=_PRIMARY)
            axes.set(xlabel="1 − specificity", ylabel=f"sensitivity ({positive})")
        axes.set(**_UNIT_SQUARE)
    title = f"Precision-recall ({positive or 'micro-average'}):{area}; {size}"
    with _axes(folder / "pr.png", title, note) as axes:
        axes.axhline(prevalence, color=_LINE, linewidth=1, linestyle=":")
        axes.step(pr["recall"], pr["precision"], where="pre", color=_PRIMARY)
        axes.set(xlabel="recall", ylabel="precision", **_UNIT_SQUARE)


def _plot_calibration(folder: Path, scores: dict[str, Any], note: str) -> None:
    """Draw the reliability diagram, with the number of images in each bin as bars at the bottom."""
    bins = pd.read_csv(folder / "calibration.csv")
    x, y, counts = bins["confidence"], bins["accuracy"], bins["n"]
    left, height = np.minimum((x * 10).astype(int), 9) / 10, 0.25 * counts / counts.max()
    error = np.abs(bins[["low", "high"]].T - y)
    title = f"Calibration: ECE {scores['ece']:.3f}; {scores['n']} images"
    with _axes(folder / "calibration.png", title, note) as axes:
        bars = axes.bar(left, height, 0.1, align="edge", color="#dce4e5", edgecolor="white")
        axes.bar_label(bars, counts, fontsize=7, color=_MUTED)
        axes.plot([0, 1], [0, 1], color=_LINE, linewidth=1, linestyle=":")
        axes.errorbar(x, y, error, color=_PRIMARY, marker="o", markersize=5, capsize=3)
        xlabel = "probability of the predicted class"
        axes.set(xlabel=xlabel, ylabel="accuracy", **_UNIT_SQUARE)


def _plot_distances(folder: Path, limit: float, note: str) -> None:
    """Draw the distance of each image, a row for each kind.

    The jitter is a fixed wave, so the same data give the same bytes.
    """
    table = pd.read_csv(folder / "out_of_distribution.csv")
    kinds = table["kind"].unique()[::-1]
    title = f"Distance from the training images; limit {limit:.2f}"
    with _axes(folder / "out_of_distribution.png", title, note) as axes:
        for row, kind in enumerate(kinds):
            distances = table.loc[table["kind"] == kind, "distance"].to_numpy()
            heights = row + 0.22 * np.sin(2.4 * np.arange(len(distances)))
            colors = np.where(distances > limit, _SECONDARY, _PRIMARY)
            x = np.maximum(distances, 1e-3)
            axes.scatter(x, heights, s=14, c=colors, alpha=0.7, linewidths=0)
        axes.axvline(limit, color=_TEXT, linewidth=1, linestyle="--")
        axes.set_xscale("log")
        axes.set_yticks(range(len(kinds)), kinds)
        axes.set_xlabel("distance (log scale); right of the line: unfamiliar")


def _plot_gallery(path: Path, gallery: Sequence[GalleryImage], note: str) -> None:
    """Draw two gallery images in a row, each with its overlay on the right."""
    rows = -(-len(gallery) // 2)
    figure = Figure(figsize=(9.2, 2.75 * rows + 0.4), dpi=80, layout="constrained")
    grid = figure.subplots(rows, 4, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for image, (left, right) in zip(gallery, grid.reshape(-1, 2), strict=False):
        left.imshow(image.pixels)
        right.imshow(image.overlay)
        correct = image.actual == image.predicted
        color = _TEXT if correct else _SECONDARY
        verdict = "right" if correct else "wrong"
        prediction = f"{verdict}: {image.predicted}, {image.probability:.2f}"
        left.set_title(f"actual: {image.actual}\n{image.path[-36:]}", fontsize=7, loc="left")
        right.set_title(f"predicted\n{prediction}", fontsize=7, color=color, loc="left")
    figure.supxlabel(note, fontsize=7, color=_MUTED, x=0.02, ha="left")
    figure.savefig(path, metadata={"Software": None})


@contextmanager
def _axes(path: Path, title: str, note: str) -> Iterator[Axes]:
    """Yield axes in the style of all plots, and save them without a date."""
    figure = Figure(figsize=(5.2, 4.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", color=_TEXT, fontsize=12, pad=12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_TEXT)
    yield axes
    figure.supxlabel(note, fontsize=7, color=_MUTED, x=0.02, ha="left")
    figure.savefig(path, metadata={"Software": None})
