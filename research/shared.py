"""What all notebooks share: the project's configuration, short errors, and the style of plots."""

import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython import get_ipython

from cnnClassifier.config.configuration import ConfigurationManager
from cnnClassifier.entity.bundle import METADATA_FILE
from cnnClassifier.entity.config_entity import FitConfig
from cnnClassifier.evaluation.metrics import (
    LabeledPredictions,
    bootstrap_metrics,
    compute_metrics,
    percentile_intervals,
)
from cnnClassifier.evaluation.scores import SCORES_FILE
from cnnClassifier.network.cross_fitting import assign_folds, fit_linear_heads
from cnnClassifier.utils.errors import UserError

BLUE, ORANGE, GRAY, LIGHT = "#0b7285", "#c2410c", "#52606d", "#dce4e5"
_STYLE = {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, "#5f3dc4", "#2b8a3e", "#e8590c", GRAY]),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.edgecolor": "#9aa5b1",
    "axes.labelcolor": GRAY,
    "xtick.color": GRAY,
    "ytick.color": GRAY,
    "font.size": 9,
    "legend.frameon": False,
}


def open_project(stage: str) -> ConfigurationManager:
    """Change to the project's folder, read its configuration, and set the style of plots.

    From then on an error of the project's own functions is one line, without a traceback.

    Args:
        stage: the last one whose results the notebook needs.

    Raises:
        UserError: the results of the stage are missing.
    """
    shell = get_ipython()
    shell.set_custom_exc((UserError,), _print_error)
    plt.rcParams.update(_STYLE)
    if Path.cwd().name == "research":
        os.chdir("..")  # the configuration's paths are relative to the project's folder
    manager = ConfigurationManager()
    results = {
        "data_ingestion": manager.data_ingestion().data_dir,
        "data_validation": manager.data_validation().manifest_path,
        "prepare_base_model": manager.prepare_base_model().updated_base_model_path,
        "training": manager.training().bundle_dir / METADATA_FILE,
        "evaluation": manager.evaluation().root_dir / SCORES_FILE,
    }
    if not results[stage].exists():
        raise UserError(f"{results[stage]} is missing: run `make pipeline` first")
    return manager


def linear_predictions(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, config: FitConfig, folds: int = 5
) -> LabeledPredictions:
    """Cross-validate logistic regression: predict each image by a model that hasn't seen its group.

    Args:
        features: float, (n, features).
        labels: class indices, (n,).
        groups: of each image, (n,).
        config: of training.
        folds: fewer are used where a class has fewer groups.
    """
    groups_per_class = [len(set(groups[labels == label])) for label in set(labels)]
    folds = min(folds, *groups_per_class)
    assignment = assign_folds(labels, groups, folds, repeats=1, seed=config.seed)
    heads = fit_linear_heads(features.astype(np.float64), labels, assignment, config.class_weights)
    probabilities = heads.out_of_fold[0]
    return LabeledPredictions.create(
        labels, probabilities, probabilities.argmax(axis=1), groups, positive=None
    )


def with_interval(
    predictions: LabeledPredictions, metric: str = "roc_auc"
) -> tuple[float, float, float]:
    """Return a metric and its 95% interval, from a bootstrap over groups."""
    samples = bootstrap_metrics(predictions, samples=100, seed=0)
    value = compute_metrics(predictions)[metric]
    low, high = percentile_intervals(samples[[metric]]).get(metric, (np.nan, np.nan))
    return value, low, high


def _print_error(
    shell: Any,
    kind: type[BaseException],
    error: BaseException,
    traceback: TracebackType,
    tb_offset: int | None = None,
) -> None:
    print(f"error: {error}", file=sys.stderr)
