"""The real pipeline on a small data set, as a new user runs it: a clone, `dvc repro`, app.py."""

import base64
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from tests.mlflow_server import LACKING, without
from tests.project import ROOT, patterns, write_project
from tests.waiting import app_in, reserved_port

STAGES = ["data_ingestion", "data_validation", "prepare_base_model", "training", "evaluation"]

pytestmark = pytest.mark.slow


def edit(path, **values):
    text = path.read_text(encoding="utf-8")
    for key, value in values.items():
        text, count = re.subn(rf"^(\s*{key}:) .*$", rf"\1 {value}", text, flags=re.MULTILINE)
        assert count == 1, key
    path.write_text(text, encoding="utf-8")


def copy_repository(folder):
    """Copy what git would clone into a folder, and make it a git repository."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    for name in filter(None, listed):
        if name != "dvc.lock" and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    subprocess.run(["git", "init", "-q", "."], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """Clone the repository, with a small data set and a small model, and run the pipeline once."""
    folder = copy_repository(tmp_path_factory.mktemp("clone"))
    write_project(
        folder,
        config={
            "data_ingestion.source_URL": patterns(groups=12, size=128, seed=3),
            "evaluation.bootstrap_samples": 100,
        },
        params={"IMAGE_SIZE": [96, 96, 3], "EPOCHS": 2, "FOLDS": 3, "REPEATS": 2},
    )
    done = run(folder, "dvc", "repro")
    assert ran(done) == STAGES, done.stderr
    return folder


def run(folder, *words, code=0, **environment):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        words,
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path, **environment},
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def ran(done):
    return re.findall(r"^Running stage '(\w+)'", done.stdout, flags=re.MULTILINE)


def test_leaves_scores_bundle_and_run(clone):
    scores = json.loads((clone / "artifacts/evaluation/scores.json").read_text())
    assert scores["synthetic"] is True
    assert scores["n"] == sum(map(sum, scores["confusion_matrix"])) > 0
    assert {
        "loss",
        "accuracy",
        "balanced_accuracy",
        "roc_auc",
        "sensitivity",
        "specificity",
    } < scores.keys()
    bundle = {path.name for path in (clone / "artifacts/training").iterdir()}
    assert bundle == {
        "model.keras",
        "model.json",
        "model_int8.zip",
        "ood_detector.npz",
        "history.csv",
        "out_of_fold.csv",
        "cross_validation.json",
    }
    validated = scores["cross_validation"]
    assert scores["split"] == "test"
    assert validated["n"] + scores["n"] == 24
    assert validated["metrics"].keys() == validated["baseline"]["metrics"].keys()
    assert (clone / "mlflow.db").exists()
    (stored,) = (clone / "mlruns").rglob("artifacts/model/model.keras")
    assert stored.read_bytes() == (clone / "artifacts/training/model.keras").read_bytes()
    shown = run(clone, "python", "main.py", "scores").stdout
    assert "SYNTHETIC" in shown
    assert "Cross-validated    Linear baseline" in shown
    assert validated["heads_note"] in shown
    assert "Not a medical device" in shown


def test_nothing_runs_twice_and_force_changes_nothing(clone):
    lock = (clone / "dvc.lock").read_bytes()
    assert ran(run(clone, "dvc", "repro")) == []
    shutil.rmtree(clone / ".cache")  # so that the features are computed again as well
    assert ran(run(clone, "dvc", "repro", "--force")) == STAGES
    assert (clone / "dvc.lock").read_bytes() == lock


def test_a_learning_rate_reruns_the_head_alone(clone):
    edit(clone / "params.yaml", LEARNING_RATE="0.003")
    done = run(clone, "dvc", "repro")
    assert ran(done) == ["training", "evaluation"]
    assert " 0 forward passes" in done.stderr


def test_a_dead_tracking_server_costs_nothing(clone):
    scores = clone / "artifacts/evaluation/scores.json"
    before = scores.read_bytes()
    with reserved_port() as nobodys:
        uri = f"http://someone:secret@127.0.0.1:{nobodys}"
        done = run(clone, "python", "main.py", "--only", "evaluation", MLFLOW_TRACKING_URI=uri)
    assert "NOT LOGGED TO MLFLOW'S SERVER" in done.stderr
    assert "python main.py sync" in done.stderr
    assert "secret" not in done.stderr
    assert scores.read_bytes() == before


@pytest.mark.parametrize(
    "hidden",
    [False, pytest.param(True, marks=pytest.mark.full)],
    ids=["as it is", "without logged models and registry"],
)
def test_the_pipeline_is_one_run_on_a_server(clone, tracking_server, hidden, tmp_path, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    with without(LACKING, tracking_server) if hidden else nullcontext(tracking_server) as server:
        for key, value in server.environment.items():
            monkeypatch.setenv(key, value)
        experiment = f"pipeline-{hidden}".lower()
        edit(clone / "config/config.yaml", name=experiment)
        done = run(clone, "python", "main.py", "--from", "training")
        stages = re.findall(r"^== (\w+)$", done.stderr, flags=re.MULTILINE)
        assert stages == ["training", "evaluation"]
        assert "Test split" in done.stdout
        assert "NOT LOGGED" not in done.stderr
        assert ("MLflow: the server has no logged models" in done.stderr) is hidden
        client = MlflowClient(server.uri)
        (found,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
        assert (found.info.status, found.data.tags["state"]) == ("FINISHED", "evaluated")
        scores = json.loads((clone / "artifacts/evaluation/scores.json").read_text())
        assert found.data.metrics["roc_auc"] == scores["roc_auc"]
        assert [
            point.step for point in client.get_metric_history(found.info.run_id, "val_loss")
        ] == [1, 2]
        assert {
            "synthetic",
            "manifest_sha256",
            "dvc_lock_sha256",
            "gates_not_met",
        } < found.data.tags.keys()
        splits = sorted(tag.value for used in found.inputs.dataset_inputs for tag in used.tags)
        assert splits == ["test", "train"]
        got = download_artifacts(
            run_id=found.info.run_id,
            artifact_path="model/model.keras",
            dst_path=str(tmp_path),
            tracking_uri=server.uri,  # an address set by another test overrides the environment
        )
        assert Path(got).read_bytes() == (clone / "artifacts/training/model.keras").read_bytes()


def test_a_failing_stage_leaves_the_last_good_output(clone):
    config = (clone / "config/config.yaml").read_text()
    edit(clone / "config/config.yaml", source_URL='"no-such-folder"')
    before = sorted((clone / "artifacts/data_ingestion/data").rglob("*.png"))
    done = run(clone, "dvc", "repro", code=255)
    assert "no-such-folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted((clone / "artifacts/data_ingestion/data").rglob("*.png")) == before
    (clone / "config/config.yaml").write_text(config)


def test_an_unmet_gate_stops_the_pipeline_and_loses_nothing(clone):
    config = (clone / "config/config.yaml").read_text()
    edit(clone / "config/config.yaml", min_images_per_class="1000", on_failure="stop")
    done = run(clone, "dvc", "repro", code=255)
    assert "class adenocarcinoma is 12; the minimum is 1000." in done.stderr
    assert "Traceback" not in done.stderr
    scores = json.loads((clone / "artifacts/evaluation/scores.json").read_text())
    assert [
        gate["passed"] for gate in scores["gates"] if gate["name"] == "min_images_per_class"
    ] == [False]
    assert "gate min_images_per_class failed" in run(clone, "python", "main.py", "scores").stdout
    (clone / "config/config.yaml").write_text(config)


@contextmanager
def serving(folder):
    """Run app.py in a folder; yield a function from a picture's bytes to its answer."""

    def ask(data, **options):
        body = json.dumps({"image": base64.b64encode(data).decode(), **options}).encode()
        request = urllib.request.Request(
            f"{url}/predict", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)[0]

    with app_in(folder) as url:
        yield ask


@pytest.mark.full
def test_forty_images_are_answered_as_they_were_evaluated(clone, tmp_path):
    from cnnClassifier.entity.manifest import Entry, Manifest
    from cnnClassifier.utils.common import save_json, sha256_of
    from image_patterns import parse_patterns, write_patterns

    folder = tmp_path / "clone"
    shutil.copytree(
        clone, folder, ignore=shutil.ignore_patterns(".git", ".cache", "mlruns", "mlflow.db")
    )
    edit(
        folder / "config/config.yaml",
        data_dir="pictures",
        manifest_path="data/manifest.csv",
        error_gallery_size="0",
    )
    edit(folder / "config/config.yaml", report_path="data/report.json")
    write_patterns(
        folder / "pictures",
        parse_patterns(patterns(groups=20, size=128, seed=9)),
    )
    entries = [
        Entry(
            path=f"{path.parent.name}/{path.name}",
            label=path.parent.name,
            sha256=sha256_of(path),
            group=path.name,
            split="test",
        )
        for path in sorted((folder / "pictures").rglob("*.png"))
    ]
    Manifest(tuple(entries)).write(folder / "data/manifest.csv")
    digest = sha256_of(folder / "data/manifest.csv")
    report = json.loads((clone / "artifacts/data_validation/data_report.json").read_text())
    save_json(folder / "data/report.json", report | {"manifest_sha256": digest})
    card = json.loads((folder / "artifacts/training/model.json").read_text())
    save_json(folder / "artifacts/training/model.json", card | {"manifest_sha256": digest})
    run(folder, "python", "main.py", "--only", "evaluation")
    with (folder / "artifacts/evaluation/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    record = json.loads((folder / "artifacts/evaluation/int8.json").read_text())
    assert len(rows) == record["n"] == 40

    def answers(accepted):
        save_json(folder / "artifacts/evaluation/int8.json", record | {"accepted": accepted})
        with serving(folder) as ask:
            return [ask((folder / "pictures" / row["path"]).read_bytes()) for row in rows]

    served = answers(accepted=False)
    assert [answer["class"] for answer in served] == [row["predicted"] for row in rows]
    for answer, row in zip(served, rows, strict=True):
        assert answer["probabilities"]["normal"] == pytest.approx(float(row["normal"]), abs=1e-3)
    agreed = [
        answer["class"] == row["predicted"]
        for answer, row in zip(answers(accepted=True), rows, strict=True)
    ]
    assert sum(agreed) / 40 == pytest.approx(record["agreement"])


def test_every_way_gives_one_image_the_same_probabilities(clone, keras):
    """Evaluation, the server's answer, and the training framework agree on a stored image."""
    import numpy as np

    from cnnClassifier.entity.bundle import ModelBundle, apply_temperature
    from cnnClassifier.imaging.decode import prepare

    run(clone, "dvc", "repro")
    with (clone / "artifacts/evaluation/predictions.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    data = (clone / "artifacts/data_ingestion/data" / row["path"]).read_bytes()
    evaluated = float(row["adenocarcinoma"])

    (clone / "artifacts/evaluation/int8.json").unlink()  # int8 answers a little otherwise
    with serving(clone) as ask:
        served = ask(data)
    assert served["image"].lower() == row["predicted"]
    assert served["synthetic"] is True
    assert served["probabilities"]["adenocarcinoma"] == pytest.approx(evaluated, abs=2e-6)

    model = keras.models.load_model(clone / "artifacts/training/model.keras")
    pixels = prepare(data, (96, 96, 3), 10**7)[np.newaxis].astype(np.float32)
    temperature = ModelBundle.read(clone / "artifacts/training").temperature
    trained = float(apply_temperature(model.predict(pixels, verbose=0), temperature)[0, 0])
    assert trained == pytest.approx(evaluated, abs=0.02)  # OpenVINO takes bfloat16
