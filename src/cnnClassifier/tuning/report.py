"""The report of a search as one HTML page, and the change of params.yaml that it proposes."""

import difflib
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from cnnClassifier.entity.config_entity import Between, Choice, SearchConfig
from cnnClassifier.entity.disclaimers import is_synthetic
from cnnClassifier.tuning.study import finished_trials
from cnnClassifier.utils.page import render_template_file
from cnnClassifier.utils.svg import polyline_points

METRIC_NAMES = {"loss": "log loss", "roc_auc": "ROC AUC", "balanced_accuracy": "balanced accuracy"}
_MIN_TRIALS = 6  # complete ones that importance is computed from
_MAX_MEDIANS = 3.0  # a trial further from the best than this many medians is drawn at the edge


def build_report(study: optuna.Study, config: SearchConfig, max_trials: int) -> dict[str, Any]:
    """Describe the trials, the best one, and the importance of each parameter.

    Args:
        study: of the search.
        config: of the search.
        max_trials: number of trials that was requested.

    Returns:
        Among others `trials`, `importance` (fANOVA, Hutter et al. 2014; empty with few trials), and
        if a trial is complete `best` and perhaps `baseline`, the trial with the parameters of
        params.yaml.
    """
    training = config.training
    trials = [_describe(trial, config.metric) for trial in finished_trials(study)]
    complete = [trial for trial in trials if not trial["pruned"]]
    report: dict[str, Any] = {
        "study": study.study_name,
        "max_trials": max_trials,
        "metric": config.metric,
        "epochs": min(config.epochs, training.fit.epochs),
        "backbone": config.prepare.backbone,
        "source": training.source_URL,
        "synthetic": is_synthetic(training.source_URL),
        "params_file": config.params_path.name,
        "trials": trials,
        "importance": {},
    }
    if len(complete) >= _MIN_TRIALS and len({trial["value"] for trial in complete}) > 1:
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=training.fit.seed)
        report["importance"] = optuna.importance.get_param_importances(study, evaluator=evaluator)
    for trial in complete:
        if trial["number"] == study.best_trial.number:
            report["best"] = trial
        elif trial["params"].items() <= config.params.items():
            report["baseline"] = trial
    return report


def render_report(report: dict[str, Any], config: SearchConfig) -> str:
    """Render `report.html`, which needs no script and no other file.

    Args:
        report: from `build_report`, with `changes` if it has a best trial.
        config: of the search.
    """
    trials = pd.DataFrame(report["trials"], columns=["value", "pruned", "params", "number"])
    losses = trials["value"].astype(float) * (1 if config.metric == "loss" else -1)
    distance = losses - losses.min()
    scale = min(distance.max(), _MAX_MEDIANS * distance.median()) or 1.0
    y = (100 * (distance / scale).fillna(1).clip(upper=1)).round(1)
    x = (np.arange(len(y)) + 0.5) / len(y)
    complete = ~trials["pruned"].astype(bool)
    best_so_far = np.minimum.accumulate(y[complete]) / 100
    slices = []
    for key, span in config.space.items():
        positions, ticks = _axis(span, [params[key] for params in trials["params"]])
        slices.append({"key": key, "x": positions, "ticks": ticks})
    return render_template_file(
        "cnnClassifier.tuning",
        "report.html",
        report=report,
        names=METRIC_NAMES,
        project=config.project,
        x=(300 * x).round(1).tolist(),
        y=y.tolist(),
        line=polyline_points(x[complete], best_so_far) if complete.any() else "",
        slices=slices,
        ranked=trials.assign(loss=losses).sort_values(["pruned", "loss"]).index.tolist(),
        space=config.space,
    )


def unified_diff(before: str, after: str, path: Path) -> str:
    """Return a patch for `git apply`; empty if nothing differs."""
    name = path.as_posix().lstrip("/")
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    patch = ""
    for line in difflib.unified_diff(old, new, f"a/{name}", f"b/{name}"):
        patch += line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
    return patch


def _describe(trial: FrozenTrial, metric: str) -> dict[str, Any]:
    pruned = trial.state == TrialState.PRUNED
    return {
        "number": trial.number,
        "pruned": pruned,
        "value": trial.value,
        "metrics": {metric: trial.value} if pruned else trial.user_attrs["metrics"],
        "params": trial.params,
        "seconds": trial.duration.total_seconds() if trial.duration else 0.0,
    }


def _axis(span: Choice | Between, values: list[Any]) -> tuple[list[float], list[tuple[float, Any]]]:
    """Return the positions of values on an axis from 0 to 100, and its ticks with their labels."""
    if isinstance(span, Choice):
        width = 100 / len(span.values)
        ticks = [(width * (index + 0.5), value) for index, value in enumerate(span.values)]
        positions = [width * (span.values.index(value) + 0.5) for value in values]
        return positions, ticks
    scale = np.log if span.log else np.asarray
    positions = np.interp(scale(values), scale([span.low, span.high]), [5, 95]).tolist()
    return positions, [(5, float(span.low)), (95, float(span.high))]
