"""The command search: hyperparameter search by grouped cross-validation on cached features."""

import hashlib
import json
import math
import time
from typing import Any

import pandas as pd
from optuna.trial import Trial

from cnnClassifier.components.trial_evaluator import (
    METRICS,
    SPLITS,
    TrialEvaluator,
    prepare_config,
)
from cnnClassifier.entity.config_entity import SearchConfig, TrackingConfig
from cnnClassifier.entity.manifest import Manifest
from cnnClassifier.tracking.runs import Run, data_tags, start_run
from cnnClassifier.tuning.params_file import unified_diff, update_values
from cnnClassifier.tuning.report import build_report
from cnnClassifier.tuning.report_page import render_page
from cnnClassifier.tuning.study import SharedStudy
from cnnClassifier.utils.common import atomic_write, create_directories, sha256_of
from cnnClassifier.utils.log import logger

# Parameters that can't change the value of a trial; SPLIT only does so through the manifest.
_IRRELEVANT = {"MIN_SENSITIVITY", "OOD_QUANTILE", "FOLD_SEEDS", "SPLIT"}


class Search:
    """Try hyperparameters in grouped folds of the training and validation images.

    Args:
        config: of the command.
        tracking: of the runs, a parent and a child for each trial; None: they aren't logged.
    """

    def __init__(self, config: SearchConfig, tracking: TrackingConfig | None = None) -> None:
        self.config = config
        self.tracking = tracking

    def run(
        self, trials: int | None = None, timeout_s: float | None = None, apply: bool = False
    ) -> dict[str, Any]:
        """Search until the study has enough trials; write `report.html` and `best.diff`.

        Args:
            trials: total number in the study, by all processes; None: as in search.yaml.
            timeout_s: no trial begins after this time in seconds.
            apply: whether to write the best values to params.yaml.

        Returns:
            The content of the report.

        Raises:
            ManifestError: a class has fewer groups than there are folds.
            SearchError: the storage can't be opened.
            ConfigError: a backbone can't be trained from a block in search.yaml.
        """
        config = self.config
        training = config.crossvalidation.training
        manifest = Manifest.read(training.manifest_path)
        name = study_name(config)
        minimize = config.metric == "loss"
        seed, stale_after_s = training.fit.seed, config.stale_after_s
        study = SharedStudy(
            config.storage, name, minimize, config.space, config.params, seed, stale_after_s
        )
        max_trials = int(min(trials or config.trials, study.size))
        count = len(study.finished())
        logger.info("study %s has %d of %d trials", name, count, max_trials)
        if count < max_trials:
            deadline = time.monotonic() + (timeout_s or math.inf)
            tags = {"search": name, **data_tags(training.manifest_path, training.source_URL)}
            with start_run(self.tracking, f"search {name}", tags, {"search": name}) as run:
                run.log_datasets(manifest, training.source_URL, SPLITS)
                evaluator = TrialEvaluator(config, manifest)
                is_complete = False
                while not is_complete:
                    with study.next_trial(max_trials, deadline) as trial:
                        is_complete = trial is None
                        if trial:
                            self._run_trial(study, trial, evaluator, max_trials, run)
                report = self._write_report(study, name, max_trials)
                files = [config.root_dir / "report.html", config.root_dir / "best.diff"]
                run.log_artifacts(files, "search")
        else:
            report = self._write_report(study, name, max_trials)
        if apply:
            self._apply(report["changes"])
        return report

    def _run_trial(
        self,
        study: SharedStudy,
        trial: Trial,
        evaluator: TrialEvaluator,
        max_trials: int,
        parent: Run,
    ) -> None:
        metric = self.config.metric
        run = parent.child_run(f"trial {trial.number}")
        run.log_params(trial.params)
        folds: list[dict[str, float]] = []
        is_pruned = False
        for number, metrics in enumerate(evaluator.evaluate(trial.params), start=1):
            folds.append(metrics)
            run.log_metrics({f"fold_{name}": value for name, value in metrics.items()}, number)
            means = pd.DataFrame(folds).mean().to_dict()
            trial.report(means[metric], number)
            is_pruned = number < self.config.folds and trial.should_prune()
            if is_pruned:
                break
        trial.set_user_attr("folds", folds)
        run.log_metrics({name: means[name] for name in METRICS})
        run.set_tags({"pruned": str(is_pruned)})
        run.finish()
        if not study.finish(trial, None if is_pruned else means[metric]):
            logger.warning("trial %d: another process has taken it over", trial.number)
            return
        pruned = f", pruned after fold {len(folds)}" if is_pruned else ""
        logger.info(
            f"trial {trial.number}, {len(study.finished())} of {max_trials} done: "
            f"{metric} {means[metric]:.4f}{pruned} with {_format(trial.params)}"
        )

    def _write_report(self, study: SharedStudy, name: str, max_trials: int) -> dict[str, Any]:
        config = self.config
        path = config.params_path
        create_directories(config.root_dir)
        report = build_report(study.study, config, name, max_trials)
        report["changes"] = {}
        if "best" in report:
            best = report["best"]["params"]
            backbone = best.get("BACKBONE", config.prepare.backbone)
            values = {**best, "FEATURE_LAYER": prepare_config(config, backbone).feature_layer}
            changes = {key: value for key, value in values.items() if config.params[key] != value}
            report["changes"] = changes
            logger.info(
                f"best: trial {report['best']['number']}, {report['metric']} "
                f"{report['best']['value']:.4f}; changes: {_format(changes) or 'none'}. "
                f"Report: {config.root_dir / 'report.html'}"
            )
        else:
            logger.warning("no trial has completed all folds")
        text = path.read_text(encoding="utf-8")
        patch = unified_diff(text, update_values(text, report["changes"], path), path)
        for file_name, content in (("best.diff", patch), ("report.html", render_page(report))):
            with atomic_write(config.root_dir / file_name) as temp_path:
                temp_path.write_text(content, encoding="utf-8")
        return report

    def _apply(self, changes: dict[str, Any]) -> None:
        path = self.config.params_path
        text = update_values(path.read_text(encoding="utf-8"), changes, path)
        if changes:
            with atomic_write(path) as temp_path:
                temp_path.write_text(text, encoding="utf-8")
        logger.info("%s: %s", path, _format(changes) or "not changed")


def study_name(config: SearchConfig) -> str:
    """Name the study by everything that the values of its trials depend on."""
    ignored = _IRRELEVANT | config.space.keys()
    parts = [
        {key: value for key, value in config.params.items() if key not in ignored},
        {name: repr(dimension) for name, dimension in config.space.items()},
        [config.metric, config.folds, config.epochs],
        sha256_of(config.crossvalidation.training.manifest_path),
    ]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return f"search-{digest[:8]}"


def _format(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
