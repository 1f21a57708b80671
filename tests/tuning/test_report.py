import re
import shutil
import subprocess
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.trial import TrialState, create_trial

from cnnClassifier.config.configuration import ConfigurationManager
from cnnClassifier.entity.disclaimers import DISCLAIMER
from cnnClassifier.tuning.report import build_report, render_report, unified_diff, with_values
from cnnClassifier.tuning.study import distributions

ROOT = Path(__file__).resolve().parents[2]
PARAMS = ROOT / "params.yaml"
TRIALS = [
    ({}, [0.3, 0.4, 0.5]),
    ({"HEAD": "average"}, [0.1, 0.45, 0.2]),
    ({"LEARNING_RATE": 0.01}, [0.9]),
    *(({"LEARNING_RATE": 0.0005, "DROPOUT": n / 10}, [0.3, 0.4, 0.5 + n / 10]) for n in range(5)),
]


@pytest.fixture(scope="module")
def config():
    return ConfigurationManager(ROOT / "config/config.yaml", PARAMS).search()


def report_of(config, trials):
    """The report of trials: (parameters that differ from params.yaml, losses of the folds)."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize" if config.metric == "loss" else "maximize")
    for changes, losses in trials:
        params = {key: config.params[key] for key in config.space} | changes
        folds = [{"loss": loss, "roc_auc": 1 - loss, "balanced_accuracy": 0.5} for loss in losses]
        trial = create_trial(
            state=TrialState.PRUNED if len(losses) < config.folds else TrialState.COMPLETE,
            value=sum(fold[config.metric] for fold in folds) / len(folds),
            params=params,
            distributions=distributions(config.space),
            user_attrs={"folds": folds},
        )
        study.add_trial(trial)
    study.add_trial(create_trial(state=TrialState.FAIL))
    report = build_report(study, config, 30)
    report["changes"] = {"HEAD": "average", "FINE_TUNE_FROM": None} if "best" in report else {}
    return report


def test_report_and_page(config):
    report = report_of(config, TRIALS)
    assert [trial["pruned"] for trial in report["trials"]] == [False, False, True] + 5 * [False]
    assert (report["best"]["number"], report["baseline"]["number"], report["wins"]) == (1, 0, 2)
    assert report["best"]["value"] == pytest.approx(0.25)
    assert sum(report["importance"].values()) == pytest.approx(1)
    assert next(iter(report["importance"])) in ("HEAD", "DROPOUT")
    page = render_report(report, config)
    assert page == render_report(report, config)
    assert not re.search(r"<script|https?://|src=|@import|url\(", page)
    text = " ".join(page.split())
    for expected in (
        DISCLAIMER,
        "Synthetic images",
        "HEAD: average FINE_TUNE_FROM: null ",
        "better in 2 of 3 folds",
        "0.0003 to 0.01, logarithmic",
        "0 to 0.6, in steps of 0.1",
        *(f"<th>{key}</th>" for key in config.space),
    ):
        assert expected in text
    assert page.count("<circle") == len(TRIALS) * (1 + len(config.space))
    assert page.count('<circle class="pruned"') == 1 + len(config.space)
    rows = re.findall(r'<tr class="(\w*)"><td>(\d)', page)
    assert (len(rows), rows[0], rows[-1]) == (len(TRIALS), ("best", "1"), ("pruned", "2"))


def test_real_data_and_a_metric_that_is_better_if_higher(config):
    training = config.crossvalidation.training.model_copy(update={"source_URL": "<data>.zip"})
    crossvalidation = config.crossvalidation.model_copy(update={"training": training})
    changes = {"crossvalidation": crossvalidation, "metric": "roc_auc"}
    real = config.model_copy(update=changes)
    report = report_of(real, TRIALS)
    assert (report["best"]["number"], report["best"]["value"]) == (1, pytest.approx(0.75))
    assert report["wins"] == 2
    page = render_report(report, real)
    assert "ynthetic" not in page
    assert "&lt;data&gt;.zip" in page


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        ([], "0</b><span>trials of 30"),
        ([({}, [0.5])], "1</b><span>pruned"),
        ([({}, [0.5, 0.5, 0.5])], "Not available: too few"),
        ([({"DROPOUT": n / 10}, [0.5, 0.5, 0.5]) for n in range(7)], "Not available: too few"),
    ],
)
def test_few_trials_or_equal_values(config, trials, expected):
    assert expected in render_report(report_of(config, trials), config)


def test_new_values_keep_comments_and_other_lines(tmp_path):
    text = PARAMS.read_text(encoding="utf-8")
    before = yaml.safe_load(text)
    values = {
        "LEARNING_RATE": 3e-05,
        "BATCH_SIZE": 8,
        "HEAD": "average",
        "FINE_TUNE_FROM": "block4",
        "WEIGHTS": None,
        "HORIZONTAL_FLIP": False,
    }
    after = with_values(text, values)
    assert yaml.safe_load(after) == before | values
    pairs = list(zip(text.splitlines(), after.splitlines(), strict=True))
    changed = {old.partition(":")[0]: (old, new) for old, new in pairs if old != new}
    assert changed.keys() == values.keys()
    for old, new in changed.values():
        assert (old.find("#"), old.partition("#")[2]) == (new.find("#"), new.partition("#")[2])
    assert with_values(after, {key: before[key] for key in values}) == text

    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    patch = unified_diff(text, after, Path("params.yaml"))
    (tmp_path / "best.diff").write_text(patch, encoding="utf-8")
    subprocess.run([shutil.which("git"), "apply", "best.diff"], cwd=tmp_path, check=True)
    assert (tmp_path / "params.yaml").read_text(encoding="utf-8") == after
    assert unified_diff(text, text, PARAMS) == ""


def test_a_file_without_final_newline_and_with_lower_case_booleans(tmp_path):
    text = "FLIP: true   # comment\nSEED: 1"
    after = with_values(text, {"SEED": 2})
    assert after == "FLIP: true   # comment\nSEED: 2\n"
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "best.diff").write_text(unified_diff(text, after, Path("params.yaml")))
    subprocess.run([shutil.which("git"), "apply", "best.diff"], cwd=tmp_path, check=True)
    assert (tmp_path / "params.yaml").read_text(encoding="utf-8") == after
