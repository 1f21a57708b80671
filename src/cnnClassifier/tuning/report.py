"""What a study found, in plain numbers."""

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from cnnClassifier.entity.config_entity import Between, Choice, SearchConfig
from cnnClassifier.entity.disclaimers import is_synthetic
from cnnClassifier.tuning.search_space import living

_FEW = 6  # finished trials, below which no importance is told


def build_report(study: optuna.Study, config: SearchConfig, name: str, most: int) -> dict[str, Any]:
    """Describe the trials, the best of them, and what mattered.

    Args:
        study: Optuna's.
        config: what was to be tried, and how.
        name: of the study.
        most: how many trials were asked for.

    Returns:
        Among others `trials`, `importance` and, where a trial has been through all folds, `best` and `first`: the
        parameters that the search began with.
    """
    finished = [trial for trial in living(study) if trial.state.is_finished()]
    complete = [trial for trial in finished if trial.state == TrialState.COMPLETE]
    report: dict[str, Any] = {
        "study": name,
        "asked": most,
        "complete": len(complete),
        "early": len(finished) - len(complete),
        "metric": config.metric,
        "minimise": config.metric == "loss",
        "folds": config.folds,
        "of_folds": config.crossvalidation.folds,
        "epochs": min(config.epochs, config.crossvalidation.training.fit.epochs),
        "backbone": config.prepare.backbone,
        "source": config.crossvalidation.training.source_URL,
        "synthetic": is_synthetic(config.crossvalidation.training.source_URL),
        "params_file": config.params_path.name,
        "space": {key: _words(span) for key, span in config.space.items()},
        "log": sorted(
            key for key, span in config.space.items() if isinstance(span, Between) and span.log
        ),
        "trials": [_describe(trial, config.metric) for trial in finished],
        "importance": _importance(study, complete, config.crossvalidation.training.fit.seed),
    }
    if complete:
        best = _describe(study.best_trial, config.metric)
        report["best"] = best
        first = next(
            (t for t in report["trials"] if _is(t["params"], config.params) and not t["early"]),
            None,
        )
        if first and first["number"] != best["number"]:
            wins = _wins(best["folds"], first["folds"], report["minimise"])
            report["first"] = {**first, "wins": wins}
    return report


def _describe(trial: FrozenTrial, metric: str) -> dict[str, Any]:
    folds: list[dict[str, float]] = trial.user_attrs["folds"]
    values = [fold[metric] for fold in folds]
    took = trial.duration
    return {
        "number": trial.number,
        "early": trial.state == TrialState.PRUNED,
        "value": mean(values),
        "spread": stdev(values) if len(values) > 1 else 0.0,
        "folds": values,
        "figures": {name: mean(fold[name] for fold in folds) for name in folds[0]},
        "params": trial.params,
        "seconds": took.total_seconds() if took else 0.0,
    }


def _importance(
    study: optuna.Study, complete: Sequence[FrozenTrial], seed: int
) -> dict[str, float]:
    """Return each parameter's share of what the trials' values differ by (fANOVA, Hutter et al. 2014)."""
    if len(complete) < _FEW or len({trial.value for trial in complete}) == 1:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def _wins(best: Sequence[float], first: Sequence[float], minimise: bool) -> int:
    return sum(b < f if minimise else b > f for b, f in zip(best, first, strict=True))


def _is(params: dict[str, Any], known: dict[str, Any]) -> bool:
    return all(known[key] == value for key, value in params.items())


def _words(span: Choice | Between) -> str:
    if isinstance(span, Choice):
        return ", ".join("null" if value is None else str(value) for value in span.values)
    how = ", logarithmic" if span.log else f", in steps of {span.step:g}" if span.step else ""
    return f"{span.low:g} to {span.high:g}{how}"
