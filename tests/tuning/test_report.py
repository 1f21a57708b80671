import re
import shutil
import subprocess
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.trial import TrialState, create_trial

from cnnClassifier.config.configuration import ConfigurationManager
from cnnClassifier.entity.disclaimers import MEDICAL_DISCLAIMER
from cnnClassifier.tuning.report import build_report, render_report, unified_diff
from cnnClassifier.tuning.study import distributions
from cnnClassifier.utils.yaml_edit import with_values
from tests.project import write_project

PARAMS = """# Hyperparameters
SEED: 42

WEIGHTS: imagenet             # imagenet | null (random) | path
FINE_TUNE_FROM: null          # first trainable block; null: the backbone is frozen
HEAD: auto

BATCH_SIZE: 16
LEARNING_RATE: 0.002          # of Adam
HORIZONTAL_FLIP: True
SPLIT: [0.8, 0.2]             # fractions of train and test
"""
TRIALS = [
    ({}, 0.4),
    ({"HEAD": "average"}, 0.25),
    ({"LEARNING_RATE": 0.01}, "pruned"),
    *(({"LEARNING_RATE": 0.0005, "DROPOUT": n / 10}, 0.4 + n / 30) for n in range(5)),
    ({"LEARNING_RATE": 0.009}, "diverged"),
]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = write_project(tmp_path_factory.mktemp("project"))
    return ConfigurationManager(folder / "config/config.yaml", folder / "params.yaml").search()


def report_of(config, trials):
    """The report of trials: (parameters that differ from params.yaml, loss)."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize" if config.metric == "loss" else "maximize")
    for changes, loss in trials:
        metrics = {}
        if isinstance(loss, float):
            metrics = {"loss": loss, "roc_auc": 1 - loss, "balanced_accuracy": 0.5}
        trial = create_trial(
            state=TrialState.COMPLETE if metrics else TrialState.PRUNED,
            value=0.9 if loss == "pruned" else metrics.get(config.metric),
            params={key: config.params[key] for key in config.space} | changes,
            distributions=distributions(config.space),
            user_attrs={"metrics": metrics},
        )
        study.add_trial(trial)
    study.add_trial(create_trial(state=TrialState.FAIL))
    report = build_report(study, config, 30)
    report["changes"] = {"HEAD": "average", "FINE_TUNE_FROM": None} if "best" in report else {}
    return report


def test_report_and_page(config):
    report = report_of(config, TRIALS)
    assert [trial["number"] for trial in report["trials"] if trial["pruned"]] == [2, 8]
    assert (report["best"]["number"], report["baseline"]["number"]) == (1, 0)
    assert report["best"]["value"] == 0.25
    assert sum(report["importance"].values()) == pytest.approx(1)
    assert next(iter(report["importance"])) in ("HEAD", "DROPOUT")
    page = render_report(report, config)
    assert page == render_report(report, config)
    assert not re.search(r"<script|https?://|src=|@import|url\(", page)
    text = " ".join(page.split())
    for expected in (
        MEDICAL_DISCLAIMER,
        "Synthetic images",
        "HEAD: average FINE_TUNE_FROM: null ",
        "log loss 0.2500; params.yaml has 0.4000",
        "trial 8: log loss –, pruned",
        "<td>0.9000</td><td>–</td><td>–</td>",
        "0.0003 to 0.01, logarithmic",
        "0 to 0.6, in steps of 0.1",
        *(f"<th>{key}</th>" for key in config.space),
    ):
        assert expected in text
    assert page.count("<circle") == len(TRIALS) * (1 + len(config.space))
    assert page.count('<circle class="pruned"') == 2 * (1 + len(config.space))
    rows = re.findall(r'<tr class="(\w*)"><td>(\d)', page)
    assert (len(rows), rows[0], rows[-1]) == (len(TRIALS), ("best", "1"), ("pruned", "8"))


def test_real_data_and_a_metric_that_is_better_if_higher(config):
    training = config.training.model_copy(update={"source_URL": "<data>.zip"})
    real = config.model_copy(update={"training": training, "metric": "roc_auc"})
    report = report_of(real, TRIALS)
    assert (report["best"]["number"], report["best"]["value"]) == (1, 0.75)
    page = render_report(report, real)
    assert "ynthetic" not in page
    assert "&lt;data&gt;.zip" in page


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        ([], "0</b><span>trials of 30"),
        ([({}, "pruned")], "1</b><span>pruned"),
        ([({}, "diverged")], "1</b><span>pruned"),
        ([({}, 0.5)], "Not available: too few"),
        ([({"DROPOUT": n / 10}, 0.5) for n in range(7)], "Not available: too few"),
    ],
)
def test_few_trials_or_equal_values(config, trials, expected):
    assert expected in render_report(report_of(config, trials), config)


def test_new_values_keep_comments_and_other_lines(tmp_path):
    text, before = PARAMS, yaml.safe_load(PARAMS)
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
    assert unified_diff(text, text, Path("params.yaml")) == ""


def test_a_value_of_a_section_is_changed():
    text = "a: 1\nb:\n  # why\n  c: sqlite:///x.db   # where\n  d: 1\n"
    after = with_values(text, {"b.c": "https://there.org", "a": 2})
    assert after == "a: 2\nb:\n  # why\n  c: https://there.org # where\n  d: 1\n"


def test_a_file_without_final_newline_and_with_lower_case_booleans(tmp_path):
    text = "FLIP: true   # comment\nSEED: 1"
    after = with_values(text, {"SEED": 2})
    assert after == "FLIP: true   # comment\nSEED: 2\n"
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "best.diff").write_text(unified_diff(text, after, Path("params.yaml")))
    subprocess.run([shutil.which("git"), "apply", "best.diff"], cwd=tmp_path, check=True)
    assert (tmp_path / "params.yaml").read_text(encoding="utf-8") == after
