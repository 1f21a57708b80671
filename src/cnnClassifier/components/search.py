"""The command search: find better parameters by cross-fitting on cached features."""

import hashlib
import math
import time
from contextlib import suppress
from functools import partial
from typing import Any

import optuna

from cnnClassifier.components.trial_evaluator import TrialEvaluator, backbone_config
from cnnClassifier.entity.config_entity import SearchConfig, TrackingConfig
from cnnClassifier.entity.manifest import Manifest
from cnnClassifier.tracking.runs import Run, data_tags, start_run
from cnnClassifier.tuning.report import build_report, render_report, unified_diff
from cnnClassifier.tuning.study import SharedStudy, finished_trials
from cnnClassifier.utils.common import atomic_write, sha256_of
from cnnClassifier.utils.errors import DivergenceError
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.yaml_edit import with_values

# Parameters that don't change the result of a trial, except through the manifest.
_IRRELEVANT = {"MIN_SENSITIVITY", "OOD_QUANTILE", "REPEATS", "SPLIT"}


class Search:
    """Try parameters on the images outside the test split, each as training would with one repeat.

    Args:
        config: of the command.
        tracking: of the runs: one for the search, with a child for each trial.
    """

    def __init__(self, config: SearchConfig, tracking: TrackingConfig | None = None) -> None:
        self.config = config
        self.tracking = tracking

    def run(
        self, trials: int | None = None, timeout_s: float | None = None, apply: bool = False
    ) -> dict[str, Any]:
        """Search until the study has enough trials; write `report.html` and `best.diff`.

        Args:
            trials: total number of trials of all processes; None: as in search.yaml.
            timeout_s: seconds after which no further trial starts.
            apply: write the best values into params.yaml.

        Returns:
            The content of the report.

        Raises:
            ManifestError: a class is missing, or has a single group.
            UserError: the storage can't be opened.
            ConfigError: a backbone has no such block.
        """
        deadline = time.monotonic() + (timeout_s or math.inf)  # preparation counts
        config = self.config
        training, name = config.training, study_name(config)
        manifest = Manifest.read(training.manifest_path)
        study = SharedStudy(
            config.storage,
            name,
            config.metric == "loss",
            config.space,
            config.params,
            training.fit.seed,
            config.stale_after_s,
        )
        max_trials = int(min(trials or config.trials, study.size))
        done = len(finished_trials(study.study))
        logger.info("study %s has %d of %d trials", name, done, max_trials)
        if done >= max_trials:
            return self._write(study.study, max_trials, apply)
        tags = {"search": name, **data_tags(training.manifest_path, training.source_URL)}
        with start_run(self.tracking, f"search {name}", tags, {"search": name}) as run:
            run.log_datasets(manifest, training.source_URL, ("train", "validation"))
            evaluate = partial(self._evaluate, TrialEvaluator(config, manifest), run)
            study.run(evaluate, max_trials, deadline)
            report = self._write(study.study, max_trials, apply)
            reports = [config.root_dir / "report.html", config.root_dir / "best.diff"]
            run.log_artifacts(reports, "search")
        return report

    def _evaluate(
        self, evaluator: TrialEvaluator, run: Run, trial: optuna.trial.Trial
    ) -> float | None:
        """Return the metric of the out-of-fold predictions; None if the trial is pruned."""
        metric = self.config.metric
        trial_run = run.child_run(f"trial {trial.number}")
        trial_run.log_params(trial.params)

        def on_epoch(metrics: dict[str, float], epoch: int) -> None:
            trial_run.log_metrics(metrics, epoch)
            if metric == "loss" and "val_loss" in metrics:
                trial.report(metrics["val_loss"], epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned

        metrics: dict[str, float] = {}
        with suppress(optuna.TrialPruned, DivergenceError):
            metrics = evaluator.metrics(trial.params, on_epoch)
        trial.set_user_attr("metrics", metrics)
        trial_run.log_metrics({f"cv_{name}": value for name, value in metrics.items()})
        trial_run.set_tags({"pruned": str(not metrics)})
        trial_run.finish()
        return metrics.get(metric)

    def _write(self, study: optuna.Study, max_trials: int, apply: bool) -> dict[str, Any]:
        """Write the report and the patch, and params.yaml if `apply`."""
        config, params_path = self.config, self.config.params_path
        report = build_report(study, config, max_trials)
        changes = self._changes(report["best"]["params"]) if "best" in report else {}
        report["changes"] = changes
        before = params_path.read_text(encoding="utf-8")
        after = with_values(before, changes) if changes else before
        contents = {
            config.root_dir / "best.diff": unified_diff(before, after, params_path),
            config.root_dir / "report.html": render_report(report, config),
        }
        if apply and changes:
            contents[params_path] = after
        for path, content in contents.items():
            with atomic_write(path) as temp_path:
                temp_path.write_text(content, encoding="utf-8")
        values = ", ".join(f"{key} {value}" for key, value in changes.items()) or "nothing"
        if "best" in report:
            number, value = report["best"]["number"], report["best"]["value"]
            action = "changed" if apply else "would change"
            logger.info("best: trial %d, %s %.4f", number, config.metric, value)
            logger.info("it %s in %s: %s", action, params_path, values)
        else:
            logger.warning("no trial is complete")
        logger.info("report: %s", config.root_dir / "report.html")
        return report

    def _changes(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return the values of params.yaml that the best parameters change."""
        config = self.config
        backbone = params.get("BACKBONE", config.prepare.backbone)
        best = params | {"FEATURE_LAYER": backbone_config(config, backbone).feature_layer}
        return {key: value for key, value in best.items() if value != config.params[key]}


def study_name(config: SearchConfig) -> str:
    """Return a name that differs if the data or a setting that changes the results differs."""
    fixed = []
    for key, value in sorted(config.params.items()):
        if key not in _IRRELEVANT and key not in config.space:
            fixed.append((key, value))
    digest = sha256_of(config.training.manifest_path)
    parts = (fixed, config.space, config.metric, config.epochs, digest)
    return f"search-{hashlib.sha256(repr(parts).encode()).hexdigest()[:8]}"
