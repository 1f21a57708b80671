"""The command search: which parameters suit the data, by grouped cross-validation on cached features."""

import hashlib
import json
import math
import time
from statistics import mean
from typing import Any

from optuna.trial import Trial

from cnnClassifier.components.trial_evaluator import FIGURES, SPLITS, Judge, prepared_as
from cnnClassifier.entity.config_entity import SearchConfig, TrackingConfig
from cnnClassifier.entity.manifest import Manifest
from cnnClassifier.tracking.runs import Run, data_tags, start_run
from cnnClassifier.tuning.params_file import difference, with_values
from cnnClassifier.tuning.report import build_report
from cnnClassifier.tuning.report_page import render_page
from cnnClassifier.tuning.study import SharedStudy
from cnnClassifier.utils.common import atomic_write, create_directories, sha256_of
from cnnClassifier.utils.log import logger

_NO_MATTER = {
    "MIN_SENSITIVITY",
    "OOD_QUANTILE",
    "FOLD_SEEDS",
    "SPLIT",
}  # to a trial, but for the manifest


class Search:
    """Try parameters in grouped folds of the training and validation images, and say which did best.

    Args:
        config: what to try, and how.
        tracking: where the trials are logged, each a child of one run.
    """

    def __init__(self, config: SearchConfig, tracking: TrackingConfig | None = None) -> None:
        self.config = config
        self.tracking = tracking

    def run(
        self, trials: int | None = None, timeout_s: float | None = None, apply: bool = False
    ) -> dict[str, Any]:
        """Search until the study has enough trials; write `report.html` and `best.diff`.

        Args:
            trials: how many the study is to have in all, whoever did them; None: as search.yaml says.
            timeout_s: after so many seconds no further trial is begun.
            apply: write the best values into params.yaml.

        Returns:
            What the report says.

        Raises:
            ManifestError: a class has fewer groups than there are folds.
            SearchError: the storage can't be opened.
            ConfigError: a backbone can't be trained from a block as search.yaml has it.
        """
        config = self.config
        training = config.crossvalidation.training
        manifest = Manifest.read(training.manifest_path)
        name = study_name(config)
        study = SharedStudy(
            config.storage,
            name,
            config.metric == "loss",
            config.space,
            config.params,
            training.fit.seed,
            config.stale_after_s,
        )
        most = int(min(trials or config.trials, study.size))
        done = len(study.finished())
        logger.info("study %s has %d of %d trials", name, done, most)
        if done < most:
            until = time.monotonic() + (timeout_s or math.inf)
            tags = {"search": name, **data_tags(training.manifest_path, training.source_URL)}
            with start_run(self.tracking, f"search {name}", tags, {"search": name}) as run:
                run.log_datasets(manifest, training.source_URL, SPLITS)
                self._search(study, Judge(config, manifest), most, until, run)
                report = self._write(study, name, most)
                reports = [config.root_dir / "report.html", config.root_dir / "best.diff"]
                run.log_artifacts(reports, "search")
        else:
            report = self._write(study, name, most)
        self._say(report)
        if apply:
            self._apply(report)
        return report

    def _search(
        self, study: SharedStudy, judge: "Judge", most: int, until: float, run: Run
    ) -> None:
        while True:
            with study.begin(most, until) as trial:
                if trial is None:
                    return
                self._try(study, trial, judge, most, run)

    def _try(self, study: SharedStudy, trial: Trial, judge: "Judge", most: int, run: Run) -> None:
        metric = self.config.metric
        trial_run = run.child_run(f"trial {trial.number}")
        trial_run.log_params(trial.params)
        found: list[dict[str, float]] = []
        early = False
        for number, result in enumerate(judge.folds(trial.params), 1):
            found.append(result)
            trial_run.log_metrics({f"fold_{key}": value for key, value in result.items()}, number)
            trial.report(mean(fold[metric] for fold in found), number)
            early = number < self.config.folds and trial.should_prune()
            if early:
                break
        trial.set_user_attr("folds", found)
        value = mean(fold[metric] for fold in found)
        trial_run.log_metrics({key: mean(fold[key] for fold in found) for key in FIGURES})
        trial_run.set_tags({"given_up_early": str(early)})
        trial_run.finish()
        if not study.finish(trial, None if early else value):
            logger.warning("trial %d: another process has taken it over meanwhile", trial.number)
            return
        logger.info(
            "trial %d, %d of %d done: %s %.4f%s with %s",
            trial.number,
            len(study.finished()),
            most,
            metric,
            value,
            f", given up after fold {len(found)}" if early else "",
            _listed(trial.params),
        )

    def _write(self, study: SharedStudy, name: str, most: int) -> dict[str, Any]:
        config = self.config
        create_directories(config.root_dir)
        report = build_report(study.study, config, name, most)
        report["changes"] = self._changes(report["best"]["params"]) if "best" in report else {}
        text = config.params_path.read_text(encoding="utf-8")
        patch = difference(
            text, with_values(text, report["changes"], config.params_path), config.params_path
        )
        with atomic_write(config.root_dir / "best.diff") as staged:
            staged.write_text(patch, encoding="utf-8")
        with atomic_write(config.root_dir / "report.html") as staged:
            staged.write_text(render_page(report), encoding="utf-8")
        return report

    def _say(self, report: dict[str, Any]) -> None:
        if "best" not in report:
            logger.warning("no trial went through all folds")
            return
        logger.info(
            "best: trial %d, %s %.4f; it changes %s. Report: %s",
            report["best"]["number"],
            report["metric"],
            report["best"]["value"],
            _listed(report["changes"]) or "nothing",
            self.config.root_dir / "report.html",
        )

    def _changes(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return what the best parameters change in params.yaml."""
        backbone = params.get("BACKBONE", self.config.prepare.backbone)
        wanted = {**params, "FEATURE_LAYER": prepared_as(self.config, backbone).feature_layer}
        return {key: value for key, value in wanted.items() if self.config.params[key] != value}

    def _apply(self, report: dict[str, Any]) -> None:
        path, changes = self.config.params_path, report["changes"]
        if not changes:
            logger.info("%s stays as it is", path)
            return
        text = with_values(path.read_text(encoding="utf-8"), changes, path)
        with atomic_write(path) as staged:
            staged.write_text(text, encoding="utf-8")
        logger.info("%s: %s", path, _listed(changes))


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def study_name(config: SearchConfig) -> str:
    """Name the study by all that decides how a trial comes out: other data or settings are another study."""
    parts = [
        {
            key: value
            for key, value in config.params.items()
            if key not in _NO_MATTER and key not in config.space
        },
        {name: repr(span) for name, span in config.space.items()},
        [config.metric, config.folds, config.epochs],
        sha256_of(config.crossvalidation.training.manifest_path),
    ]
    return f"search-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]}"
