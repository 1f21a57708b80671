import re
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.trial import TrialState, create_trial

from cnnClassifier.config.configuration import ConfigurationManager
from cnnClassifier.entity.disclaimers import DISCLAIMER
from cnnClassifier.tuning.report import build_report
from cnnClassifier.tuning.report_page import render_page
from cnnClassifier.tuning.search_space import to_distributions

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def config():
    return ConfigurationManager(ROOT / "config/config.yaml", ROOT / "params.yaml").search()


def report_of(config, trials):
    """Describe a study; each trial has changes of params.yaml and the losses of its folds."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize" if config.metric == "loss" else "maximize")
    for changes, losses in trials:
        params = {key: config.params[key] for key in config.space} | changes
        early = len(losses) < config.folds
        folds = [{"loss": loss, "roc_auc": 1 - loss, "balanced_accuracy": 0.5} for loss in losses]
        values = [fold[config.metric] for fold in folds]
        study.add_trial(
            create_trial(
                state=TrialState.PRUNED if early else TrialState.COMPLETE,
                value=sum(values) / len(values),
                params=params,
                distributions=to_distributions(config.space),
                user_attrs={"folds": folds},
            )
        )
    study.add_trial(create_trial(state=TrialState.FAIL))
    report = build_report(study, config, "search-1234abcd", 30)
    report["changes"] = {"HEAD": "average", "FINE_TUNE_FROM": None} if "best" in report else {}
    return report


TRIALS = [
    ({}, [0.3, 0.4, 0.5]),
    ({"HEAD": "average"}, [0.1, 0.45, 0.2]),
    ({"LEARNING_RATE": 0.01}, [0.9]),
    *(({"LEARNING_RATE": 0.0005, "DROPOUT": n / 10}, [0.3, 0.4, 0.5 + n / 10]) for n in range(5)),
]


def test_report_says_what_was_found(config):
    report = report_of(config, TRIALS)
    assert (report["complete"], report["pruned"], report["requested"]) == (7, 1, 30)
    assert report["best"]["number"] == 1
    assert report["best"]["value"] == pytest.approx(0.25)
    assert report["initial"]["number"] == 0
    assert report["initial"]["better_folds"] == 2
    assert sum(report["importance"].values()) == pytest.approx(1)
    assert next(iter(report["importance"])) in ("HEAD", "DROPOUT")
    best_auc = report_of(config.model_copy(update={"metric": "roc_auc"}), TRIALS)["best"]
    assert (best_auc["number"], best_auc["value"]) == (1, pytest.approx(0.75))


def test_page_needs_nothing_else_and_says_all(config):
    report = report_of(config, TRIALS)
    page = render_page(report)
    assert page == render_page(report)
    assert DISCLAIMER in page
    assert "Synthetic images" in page
    assert not re.search(r"<script|https?://|src=|@import|url\(", page)
    assert "HEAD: average\nFINE_TUNE_FROM: null\n" in page
    assert "better in 2 of 3 folds" in " ".join(page.split())
    assert page.count("<circle") == len(TRIALS) * (1 + len(config.space))
    assert page.count('<circle class="pruned"') == 1 + len(config.space)
    assert len(re.findall(r'<tr class="\w*"><td>\d', page)) == len(TRIALS)
    assert re.findall(r'<tr class="(\w*)"><td>(\d)', page)[0] == ("best", "1")
    assert re.findall(r'<tr class="(\w*)"><td>(\d)', page)[-1] == ("pruned", "2")
    for key in config.space:
        assert f"<th>{key}</th>" in page
    real = config.crossvalidation.training.model_copy(update={"source_URL": "<data>.zip"})
    page = render_page(
        report_of(
            config.model_copy(
                update={
                    "crossvalidation": config.crossvalidation.model_copy(update={"training": real})
                }
            ),
            TRIALS,
        )
    )
    assert "Synthetic" not in page
    assert "&lt;data&gt;.zip" in page


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        ([], "0</b><span>trials of 30"),
        ([({}, [0.5])], "1</b><span>pruned"),
        ([({}, [0.5, 0.5, 0.5])], "too few trials to estimate"),
        ([({"DROPOUT": n / 10}, [0.5, 0.5, 0.5]) for n in range(7)], "too few trials to estimate"),
    ],
)
def test_page_of_little(config, trials, said):
    assert said in render_page(report_of(config, trials))


def test_the_shipped_space_holds_the_shipped_parameters(config):
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert report_of(config, [({}, [0.5, 0.5, 0.5])])["best"]["params"] == {
        key: params[key] for key in config.space
    }
