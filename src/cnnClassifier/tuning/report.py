"""The result of a search as one dictionary."""

from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from cnnClassifier.entity.config_entity import Between, Choice, SearchConfig
from cnnClassifier.entity.disclaimers import is_synthetic
from cnnClassifier.tuning.search_space import active_trials

_MIN_TRIALS_FOR_IMPORTANCE = 6


def build_report(
    study: optuna.Study, config: SearchConfig, name: str, max_trials: int
) -> dict[str, Any]:
    """Describe the trials, the best one, and the importance of the parameters.

    Args:
        study: the Optuna study.
        config: of the search.
        name: of the study.
        max_trials: number of requested trials.

    Returns:
        Among others `trials`, `importance` and, if a trial completed all folds, `best`; `initial`
        is the trial with the parameters of params.yaml, unless it is the best one.
    """
    training = config.crossvalidation.training
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    trials = [trial for trial in active_trials(study) if trial.state in states]
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    described = {trial.number: _describe(trial, config.metric) for trial in trials}
    report: dict[str, Any] = {
        "study": name,
        "requested": max_trials,
        "complete": len(complete),
        "pruned": len(trials) - len(complete),
        "metric": config.metric,
        "minimize": config.metric == "loss",
        "folds": config.folds,
        "total_folds": config.crossvalidation.folds,
        "epochs": min(config.epochs, training.fit.epochs),
        "backbone": config.prepare.backbone,
        "source": training.source_URL,
        "synthetic": is_synthetic(training.source_URL),
        "params_file": config.params_path.name,
        "space": {key: _format_dimension(dimension) for key, dimension in config.space.items()},
        "trials": list(described.values()),
        "importance": _importance(study, complete, training.fit.seed),
    }
    if complete:
        best = report["best"] = described[study.best_trial.number]
        for trial in complete:
            is_initial = trial.params.items() <= config.params.items()
            if is_initial and trial.number != best["number"]:
                initial = described[trial.number]
                gain = pd.Series(best["folds"]) - pd.Series(initial["folds"])
                better_folds = int((gain < 0).sum() if report["minimize"] else (gain > 0).sum())
                report["initial"] = initial | {"better_folds": better_folds}
    return report


def _describe(trial: FrozenTrial, metric: str) -> dict[str, Any]:
    folds = pd.DataFrame(trial.user_attrs["folds"])
    std = folds[metric].std() if len(folds) > 1 else 0.0
    return {
        "number": trial.number,
        "pruned": trial.state == TrialState.PRUNED,
        "value": float(folds[metric].mean()),
        "std": float(std),
        "folds": folds[metric].tolist(),
        "metrics": folds.mean().to_dict(),
        "params": trial.params,
        "seconds": trial.duration.total_seconds() if trial.duration else 0.0,
    }


def _importance(study: optuna.Study, complete: list[FrozenTrial], seed: int) -> dict[str, float]:
    """Return the fraction of the variance by parameter (fANOVA, Hutter et al. 2014)."""
    if len(complete) < _MIN_TRIALS_FOR_IMPORTANCE or len({trial.value for trial in complete}) == 1:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def _format_dimension(dimension: Choice | Between) -> str:
    if isinstance(dimension, Choice):
        return ", ".join("null" if value is None else str(value) for value in dimension.values)
    text = f"{dimension.low:g} to {dimension.high:g}"
    if dimension.log:
        return f"{text}, logarithmic"
    return f"{text}, in steps of {dimension.step:g}" if dimension.step else text
