"""DVC as the README shows it, in a fresh clone with a small data set and a small network."""

import csv
import io
import json
import re
import shutil

import pytest

from tests.project import patterns, write_project
from tests.test_pipeline import STAGES, copy_repository, ran, run

pytestmark = [pytest.mark.slow, pytest.mark.full]
RATES = ("0.0001", "0.0003", "0.01")
OTHER_DATA = f'"{patterns(groups=13, size=64, seed=4)}"'


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone after its first `dvc exp run`, with dvc.lock committed."""
    folder = copy_repository(tmp_path_factory.mktemp("experiments") / "clone")
    write_project(
        folder,
        config={
            "data_ingestion.source_URL": patterns(groups=12, size=64, seed=3),
            "evaluation.bootstrap_samples": 100,
            "training.int8": False,
        },
        params={
            "IMAGE_SIZE": [64, 64, 3],
            "BACKBONE": "MobileNetV2",
            "WEIGHTS": None,
            "HEAD": "conv_max",  # random features: `auto` may leave out what EPOCHS changes
            "AUGMENTATION": False,
            "EPOCHS": 2,
            "FOLDS": 3,
            "REPEATS": 1,
        },
    )
    run(folder, "git", "config", "user.name", "n")
    run(folder, "git", "config", "user.email", "e@example.org")
    commit(folder, "first")
    assert ran(run(folder, "dvc", "exp", "run")) == STAGES
    commit(folder, "evaluated")
    return folder


def commit(folder, message):
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-q", "-m", message)


def passes(done):
    """Return (forward passes, maps from the cache) for each stage that needed features."""
    said = done.stdout + done.stderr
    return re.findall(
        r"^frozen features: (\d+) forward passes, (\d+) from the cache$", said, flags=re.MULTILINE
    )


def train_count(clone):
    with (clone / "artifacts/data_validation/manifest.csv").open(newline="") as file:
        return sum(row["split"] == "train" for row in csv.DictReader(file))


def test_experiments_rerun_what_a_parameter_changes_and_can_be_compared(clone):
    done = run(
        clone, "dvc", "exp", "run", "-n", "longer", "-S", "EPOCHS=3", "-S", "LEARNING_RATE=0.02"
    )
    assert ran(done) == ["training", "evaluation"]
    assert passes(done) == [("0", str(train_count(clone)))]
    shown = run(clone, "dvc", "exp", "show", "--csv", "--no-pager").stdout
    row = next(row for row in csv.DictReader(io.StringIO(shown)) if row["Experiment"] == "longer")
    assert (row["EPOCHS"], row["LEARNING_RATE"]) == ("3", "0.02")
    changed = json.loads(run(clone, "dvc", "metrics", "diff", "--json", "HEAD").stdout)
    assert "model_sha256" in changed["artifacts/evaluation/scores.json"]
    run(clone, "dvc", "plots", "diff", "HEAD", "longer", "-o", "plots")
    assert "Training history" in (clone / "plots/index.html").read_text(encoding="utf-8")

    text = run(
        clone, "python", "main.py", "compare", "HEAD", "longer", "--html", "comparison.html"
    ).stdout
    assert "Both models were evaluated on the same " in text
    assert "EPOCHS: A 2, B 3" in text
    assert "longer (" in (clone / "comparison.html").read_text(encoding="utf-8")
    markdown = run(
        clone, "python", "main.py", "compare", "HEAD", "--markdown", "--names", "main", "here"
    ).stdout
    assert markdown.startswith(
        "### main (A) and here (B)\n\n**No significant difference: ROC AUC B − A "
    )
    run(clone, "git", "checkout", "-q", "params.yaml", "dvc.lock")
    run(clone, "dvc", "checkout")


def test_learning_rates_in_a_queue_extract_nothing_anew(clone):
    run(clone, "dvc", "exp", "run", "--queue", "-S", f"LEARNING_RATE={','.join(RATES)}", "training")
    try:
        done = run(clone, "dvc", "exp", "run", "--run-all", "--jobs", "2")
    finally:
        run(clone, "dvc", "queue", "stop", "--kill")
    assert ran(done) == ["training"] * len(RATES)
    assert passes(done) == [("0", str(train_count(clone)))] * len(RATES)
    shown = run(clone, "dvc", "exp", "show", "--csv", "--no-pager").stdout
    rows = list(csv.DictReader(io.StringIO(shown)))
    assert set(RATES) <= {row["LEARNING_RATE"] for row in rows if row["State"] == "Success"}
    # The copies that they ran in are gone; their runs are not.
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{clone}/mlflow.db")
    (experiment,) = (found for found in client.search_experiments() if found.name == "chest-ct")
    tags = [found.data.tags for found in client.search_runs([experiment.experiment_id])]
    names = {row["Experiment"] for row in rows if row["LEARNING_RATE"] in RATES}
    assert names <= {found.get("dvc_experiment") for found in tags}


def test_other_data_are_an_experiment_as_well(clone):
    override = f"config/config.yaml:data_ingestion.source_URL={OTHER_DATA}"
    done = run(clone, "dvc", "exp", "run", "--temp", "-S", override, "data_validation")
    assert ran(done) == ["data_ingestion", "data_validation"]
    assert "26 images used" in done.stdout + done.stderr
    assert not run(clone, "git", "status", "--porcelain", "config").stdout


def test_results_go_to_a_remote_and_come_back(clone):
    assert "training" in run(clone, "dvc", "dag").stdout
    run(clone, "dvc", "remote", "add", "--default", "store", "../store")
    assert "pushed" in run(clone, "dvc", "push").stdout
    model = (clone / "artifacts/training/model.keras").read_bytes()
    shutil.rmtree(clone / "artifacts")
    shutil.rmtree(clone / ".dvc/cache")
    run(clone, "dvc", "pull")
    assert (clone / "artifacts/training/model.keras").read_bytes() == model
    assert ran(run(clone, "dvc", "repro")) == []
