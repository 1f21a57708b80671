"""Compare two evaluated models; show it as text, as Markdown, or as an HTML page."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cnnClassifier.entity.disclaimers import SYNTHETIC
from cnnClassifier.evaluation.metrics import (
    LabeledPredictions,
    bootstrap_metrics,
    compute_metrics,
    curves,
    metric_intervals,
    percentile_intervals,
)
from cnnClassifier.evaluation.scores import (
    METRIC_LABELS,
    PREDICTIONS_FILE,
    SPLIT_TEXTS,
    TEST,
    TOO_FEW_GROUPS,
    format_limits,
    read_scores,
    render_text,
)
from cnnClassifier.utils.errors import UserError
from cnnClassifier.utils.page import render_template_file
from cnnClassifier.utils.svg import polyline_points

LOWER_IS_BETTER = ("loss", "brier", "ece")
# With 12 groups 11% of 300 simulated pairs of equal models differed in ROC AUC, with 40 groups 7%.
_MIN_GROUPS = 20


@dataclass(frozen=True)
class EvaluatedModel:
    """The output of evaluation for one model.

    Attributes:
        name: for people.
        classes: names, in the order of the columns of `predictions.probabilities`.
        positive_class: the class that sensitivity is computed for, if there is one.
        synthetic: whether the images are synthetic.
        images: a row for each image with `path`, `sha256` and `actual`, the name of its class.
        predictions: of the images.
        params: the parameters that it was trained with, if known.
        split: what the predictions are of, see `SPLIT_TEXTS`.
        disclaimer: text beside the metrics, may be empty.
    """

    name: str
    classes: tuple[str, ...]
    positive_class: str | None
    synthetic: bool
    images: pd.DataFrame
    predictions: LabeledPredictions
    params: Mapping[str, str] = field(default_factory=dict)
    split: str = TEST
    disclaimer: str = ""

    @property
    def size(self) -> str:
        """Number of images and groups in words."""
        groups = len(np.unique(self.predictions.groups))
        return f"{len(self.images)} images in {groups} groups"

    @classmethod
    def read(
        cls, folder: Path, name: str, params: Mapping[str, str] | None = None
    ) -> "EvaluatedModel":
        """Read the output folder of evaluation.

        Args:
            folder: with `scores.json` and `predictions.csv`.
            name: for people.
            params: the parameters of the model, if known.

        Raises:
            UserError: a file is missing, damaged, or was made by another version.
        """
        try:
            scores = read_scores(folder)
            table = pd.read_csv(folder / PREDICTIONS_FILE, dtype=str, keep_default_na=False)
            classes, positive = tuple(scores["classes"]), scores["positive_class"]
            predictions = LabeledPredictions.from_table(table, classes, positive)
            images, synthetic = table[["path", "sha256", "actual"]], scores["synthetic"]
            split, disclaimer = scores["split"], scores.get("disclaimer", "")
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{name}: the evaluation is incomplete or damaged ({error}); run evaluation again"
            ) from None
        details = (synthetic, images, predictions, params or {}, split, disclaimer)
        return cls(name, classes, positive, *details)

    def take(self, indices: np.ndarray) -> "EvaluatedModel":
        """Select images by their index."""
        images = self.images.iloc[indices].reset_index(drop=True)
        return replace(self, images=images, predictions=self.predictions.take(indices))


@dataclass(frozen=True)
class Comparison:
    """The result of comparing two models.

    Attributes:
        a: the first model, with the images that are compared.
        b: the second model.
        paired: whether both have the same images.
        notes: sentences on the images, and warnings.
        differences: one for each of `METRIC_LABELS`, with 95% intervals: `name`, the values `a` and
            `b`, `a_interval` and `b_interval` (None if unknown), the difference B - A `value`, its
            interval from `low` to `high`, and `better`: `A`, `B`, or empty if the interval has 0.
        disagreements: images with different predictions, the most confident first: `path`,
            `actual`, `a_predicted`, `a_probability`, `b_predicted`, `b_probability` and `correct`,
            which is `A`, `B` or `neither`. Empty if the images aren't the same.
        params: name and both values of each parameter that differs.
    """

    a: EvaluatedModel
    b: EvaluatedModel
    paired: bool
    notes: list[str]
    differences: list[dict[str, Any]]
    disagreements: list[dict[str, Any]]
    params: list[tuple[str, str, str]]

    @property
    def synthetic(self) -> bool:
        """Whether one of the models was tested on synthetic images."""
        return self.a.synthetic or self.b.synthetic


def compare_models(
    a: EvaluatedModel, b: EvaluatedModel, bootstrap_samples: int, seed: int
) -> Comparison:
    """Compare two models on the images that both have; if these are too few, each on its own.

    The interval of a difference comes from a bootstrap over groups. Each sample has the same images
    for both models (paired), or is drawn for each model independently.

    Args:
        a: the first model.
        b: the second model.
        bootstrap_samples: number of resamples.
        seed: the same seed gives the same intervals.

    Raises:
        UserError: the models have different classes or positive classes.
    """
    for what, a_value, b_value in (
        ("classes", ", ".join(sorted(a.classes)), ", ".join(sorted(b.classes))),
        ("positive class", a.positive_class, b.positive_class),
    ):
        if a_value != b_value:
            raise UserError(
                f"the models can't be compared: {what} of {a.name}: {a_value}; "
                f"of {b.name}: {b_value}"
            )
    a_indices, b_indices = _shared_images(a, b)
    paired = _has_two_groups_per_class(a, a_indices)
    sizes = f"The images differ: A has {a.size}, B has {b.size}"
    if not paired:
        note = (
            f"{sizes}; {len(a_indices) or 'no'} images are in both. Each model is evaluated on its "
            "own images (unpaired), so part of the difference may come from the images."
        )
    else:
        same_images = len(a_indices) == len(a.images) == len(b.images)
        a, b = a.take(a_indices), b.take(b_indices)
        groups = _merge_groups(a.predictions.groups, b.predictions.groups)
        a = replace(a, predictions=replace(a.predictions, groups=groups))
        b = replace(b, predictions=replace(b.predictions, groups=groups))
        if same_images:
            note = f"Both models were evaluated on the same {a.size}."
        else:
            note = f"{sizes}. The models are compared on the images that both have: {a.size}."
    differences = _differences(a, b, paired, bootstrap_samples, seed)
    changed = [name for name, value in a.params.items() if value != b.params.get(name, value)]
    return Comparison(
        a,
        b,
        paired,
        [note, *_warnings(a, b, differences)],
        differences,
        _disagreements(a, b) if paired else [],
        [(name, a.params[name], b.params[name]) for name in changed],
    )


def _shared_images(a: EvaluatedModel, b: EvaluatedModel) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the images with the same content and class, in A and in B."""
    key = ["sha256", "actual"]
    a_rows = a.images[key].assign(a=np.arange(len(a.images)))
    b_rows = b.images[key].assign(b=np.arange(len(b.images)))
    pairs = a_rows.merge(b_rows.drop_duplicates(key), on=key)
    return pairs["a"].to_numpy(), pairs["b"].to_numpy()


def _has_two_groups_per_class(model: EvaluatedModel, indices: np.ndarray) -> bool:
    predictions = model.predictions.take(indices)
    counts = pd.Series(predictions.groups).groupby(predictions.labels).nunique()
    return len(counts) == len(model.classes) and bool(counts.min() >= 2)


def _merge_groups(a_groups: np.ndarray, b_groups: np.ndarray) -> np.ndarray:
    """Return groups that keep together what is together in A or in B.

    They are the connected components of a graph: a node for each group, an edge for each image.
    """
    b_nodes = b_groups + a_groups.max() + 1
    size = b_nodes.max() + 1
    graph = coo_array((np.ones(len(a_groups)), (a_groups, b_nodes)), shape=(size, size))
    _, component = connected_components(graph, directed=False)
    return np.unique(component[a_groups], return_inverse=True)[1]


def _warnings(a: EvaluatedModel, b: EvaluatedModel, differences: list[dict[str, Any]]) -> list[str]:
    warnings = []
    for name, model in (("A", a), ("B", b)):
        if model.split != TEST:
            warnings.append(f"{name}: {SPLIT_TEXTS[model.split]}.")
    groups = min(len(np.unique(model.predictions.groups)) for model in (a, b))
    if groups < _MIN_GROUPS:
        warnings.append(
            f"With only {groups} groups the intervals are too narrow: "
            "don't rely on small differences."
        )
    if not all(row["a_interval"] and row["b_interval"] for row in differences):
        warnings.append(TOO_FEW_GROUPS)
    if a.synthetic != b.synthetic:
        warnings.append("One model was tested on synthetic images, the other on real images.")
    return warnings


def _differences(
    a: EvaluatedModel, b: EvaluatedModel, paired: bool, bootstrap_samples: int, seed: int
) -> list[dict[str, Any]]:
    a_samples = bootstrap_metrics(a.predictions, bootstrap_samples, seed)
    # The same seed draws the same groups for both. Different test sets need independent samples.
    b_seed = seed if paired else seed + 1
    b_samples = bootstrap_metrics(b.predictions, bootstrap_samples, b_seed)
    columns = [name for name in METRIC_LABELS if name in a_samples]
    intervals = percentile_intervals(b_samples[columns] - a_samples[columns])
    a_intervals = metric_intervals(a.predictions, a_samples)
    b_intervals = metric_intervals(b.predictions, b_samples)
    a_metrics, b_metrics = compute_metrics(a.predictions), compute_metrics(b.predictions)
    differences = []
    for name, (low, high) in intervals.items():
        better = "A" if (high < 0) != (name in LOWER_IS_BETTER) else "B"
        difference = {
            "name": name,
            "a": a_metrics[name],
            "b": b_metrics[name],
            "a_interval": a_intervals.get(name),
            "b_interval": b_intervals.get(name),
            "value": b_metrics[name] - a_metrics[name],
            "low": low,
            "high": high,
            "better": "" if low <= 0 <= high else better,
        }
        differences.append(difference)
    return differences


def _disagreements(a: EvaluatedModel, b: EvaluatedModel) -> list[dict[str, Any]]:
    """Return the images with different predictions, the largest sum of probabilities first."""
    table = a.images[["path", "actual"]].copy()
    for side, model in (("a", a), ("b", b)):
        table[f"{side}_predicted"] = np.array(model.classes)[model.predictions.predicted]
        table[f"{side}_probability"] = model.predictions.confidence
    is_correct = [a.predictions.correct, b.predictions.correct]
    table["correct"] = np.select(is_correct, ["A", "B"], "neither")
    order = (-table["a_probability"] - table["b_probability"]).argsort(kind="stable")
    table = table.iloc[order].query("a_predicted != b_predicted")
    rows: list[Any] = table.to_dict("records")
    return rows


def verdict(comparison: Comparison) -> str:
    """Say in one sentence whether one model is better, by ROC AUC: it needs no threshold."""
    row = next(row for row in comparison.differences if row["name"] == "roc_auc")
    numbers = f"{row['value']:+.3f}, 95% interval {row['low']:+.3f} to {row['high']:+.3f}"
    result = f"Model {row['better']} is better" if row["better"] else "No significant difference"
    return f"{result}: {METRIC_LABELS['roc_auc']} B − A {numbers}."


def format_text(comparison: Comparison) -> str:
    """Format the comparison for a terminal, 79 columns wide."""
    return render_text("comparison.txt", **_content(comparison))


def format_markdown(comparison: Comparison) -> str:
    """Format the comparison as Markdown."""
    content = _content(comparison)
    return render_template_file("cnnClassifier.evaluation", "comparison.md", **content)


def format_page(comparison: Comparison) -> str:
    """Format the comparison as an HTML page without scripts and without other files."""
    content = _content(comparison) | {"curves": [_curves(comparison.a), _curves(comparison.b)]}
    return render_template_file("cnnClassifier.evaluation", "comparison.html", **content)


def _content(comparison: Comparison) -> dict[str, Any]:
    count = len(METRIC_LABELS)
    return {
        "comparison": comparison,
        "verdict": verdict(comparison),
        "disagreement_summary": _count_disagreements(comparison),
        "labels": METRIC_LABELS,
        "lower_is_better": LOWER_IS_BETTER,
        "limits": _format_limits,
        "escape": _escape_markdown,
        "multiple_tests": f"{count} metrics are compared, so one may differ by chance alone.",
        "disclaimer": comparison.a.disclaimer,
        "synthetic_notice": SYNTHETIC,
    }


def _format_limits(limits: Sequence[float] | None) -> str:
    return f"({format_limits(limits)})"


def _count_disagreements(comparison: Comparison) -> str:
    total = len(comparison.a.images)
    if not comparison.disagreements:
        return f"Both models predict the same class for all {total} images."
    correct = [row["correct"] for row in comparison.disagreements]
    neither = f", neither on {correct.count('neither')}" if "neither" in correct else ""
    return (
        f"Different predictions for {len(correct)} of {total} images: "
        f"A is right on {correct.count('A')}, B on {correct.count('B')}{neither}."
    )


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)


def _curves(model: EvaluatedModel) -> dict[str, str]:
    """Return the ROC and precision-recall curves of the positive class, or the micro-average."""
    roc, pr = curves(model.predictions)
    return {
        "roc": polyline_points(roc["fpr"].to_numpy(), roc["tpr"].to_numpy()),
        "pr": polyline_points(pr["recall"].to_numpy(), pr["precision"].to_numpy()),
    }
