import csv
import json
from contextlib import nullcontext
from unittest.mock import create_autospec

import numpy as np
import pytest
from PIL import Image

import cnnClassifier.components.evaluation as stage
from cnnClassifier.components.evaluation import Evaluation
from cnnClassifier.components.training import out_of_fold_table
from cnnClassifier.entity.bundle import CROSS_VALIDATION_FILE, OUT_OF_FOLD_FILE, ModelBundle
from cnnClassifier.entity.config_entity import (
    EvaluationConfig,
    GatesConfig,
    ProjectConfig,
    TrackingConfig,
)
from cnnClassifier.entity.manifest import Entry, Manifest
from cnnClassifier.evaluation.scores import METRIC_LABELS, read_scores
from cnnClassifier.tracking.runs import Run
from cnnClassifier.utils.common import save_json, sha256_of
from cnnClassifier.utils.errors import BundleError, GateError, ManifestError, UserError
from tests.labeled_predictions import cross_validation, labeled, random_predictions
from tests.pictures import save

PROJECT = ProjectConfig(name="chest", domain="medical")
EASY_GATES = GatesConfig(
    min_images_per_class=1,
    min_groups_per_class=1,
    no_leakage=True,
    min_roc_auc=0.5,
    min_roc_auc_lower_bound=0.0,
    max_shortcut_auc=0.9,
    max_ece=1.0,
    on_failure="stop",
)
PARAMS = {"SEED": 3, "WEIGHTS": None, "FINE_TUNE_FROM": None, "HEAD": "conv_max"}
TABLES = {"roc", "pr", "confusion", "calibration", "out_of_distribution", "predictions"}
PLOTS = {"roc", "pr", "confusion_matrix", "calibration", "out_of_distribution", "history", "errors"}
REPORTS = {"scores.json", "MODEL_CARD.md", "MODEL_CARD.html", *(f"{name}.csv" for name in TABLES)}
FILES = REPORTS | {f"{name}.png" for name in PLOTS}


def noisy_image(seed, spot_size):
    """A dark noisy image with a bright spot, or without one."""
    pixels = np.random.default_rng(seed).integers(20, 60, (40, 40), np.uint8)
    pixels[10 : 10 + spot_size, 10 : 10 + spot_size] = 250
    return Image.fromarray(pixels)


@pytest.fixture(autouse=True)
def run(monkeypatch):
    """The MLflow run: it only records its calls."""
    run = create_autospec(Run, instance=True)
    monkeypatch.setattr(stage, "start_run", lambda *_: nullcontext(run))
    return run


@pytest.fixture
def prepared(tmp_path, write_bundle):
    """Write images, manifest, report and bundle; the first normal image has a large spot.

    The out-of-fold predictions have another error: the first adenocarcinoma.
    """

    def prepare(count=2, has_test=True, int8=False):
        classes = ("adenocarcinoma", "normal", "other")[:count]
        images, entries = {}, []
        for index, label in enumerate(classes):
            for n in range(10):
                spot_size = 20 if (index, n) == (1, 0) else 10 * (label == "adenocarcinoma")
                path = f"{label}/patient{n // 2}_{n}.png"
                images[path] = noisy_image(100 * index + n, spot_size)
        save(tmp_path / "data", images)
        for path in sorted(images):
            label, name = path.split("/")
            group = f"{label} {name.split('_')[0]}"
            split = "test" if has_test and group[-1] in "012" else "train"
            digest = sha256_of(tmp_path / "data" / path)
            entries.append(Entry(path, label, digest, group, split))
        manifest = Manifest(tuple(entries))
        manifest.write(tmp_path / "manifest.csv")
        digest = sha256_of(tmp_path / "manifest.csv")
        counts = dict.fromkeys(classes, 2)
        report = {
            "manifest_sha256": digest,
            "files": 20,
            "used": 20,
            "left_out": {"copies": 0},
            "groups": dict.fromkeys(classes, 5),
            "splits": {"train": {"images": counts, "groups": counts}},
            "warnings": ["A warning."],
            "shortcuts": {"gray": {"auc": 0.6, "low": 0.5, "high": 0.7}},
        }
        save_json(tmp_path / "report.json", report)
        bundle_dir = tmp_path / "bundle"
        options = {"outputs": count, "classes": classes, "int8": int8}
        write_bundle(bundle_dir, **options, manifest_sha256=digest)
        (bundle_dir / "history.csv").write_text("epoch,loss,val_loss\n1,0.9,1.0\n2,0.5,0.6\n")
        trained = manifest.in_split("train")
        labels = manifest.labels(trained)
        probabilities = np.full((len(labels), count), 0.3 / (count - 1))
        probabilities[np.arange(len(labels)), labels] = 0.7
        probabilities[0, :2] = 0.1, 0.9
        probabilities /= probabilities.sum(1, keepdims=True)
        held_out = labeled(labels, probabilities, [entry.group for entry in trained])
        table = out_of_fold_table(trained, classes, held_out)
        table.assign(fold=1).to_csv(bundle_dir / OUT_OF_FOLD_FILE, index=False)
        model, baseline = (random_predictions(count, seed=seed) for seed in (0, 1))
        digest = ModelBundle.read(bundle_dir).model_sha256
        content = cross_validation(model, baseline, model_sha256=digest)
        save_json(bundle_dir / CROSS_VALIDATION_FILE, content)
        return EvaluationConfig(
            data_dir=tmp_path / "data",
            manifest_path=tmp_path / "manifest.csv",
            report_path=tmp_path / "report.json",
            bundle_dir=bundle_dir,
            root_dir=tmp_path / "out",
            max_pixels=10**6,
            bootstrap_samples=100,
            error_gallery_size=4,
            seed=3,
            gates=EASY_GATES,
            tracking=TrackingConfig(uri="unused", project=PROJECT, params=PARAMS),
            project=PROJECT,
        )

    return prepare


def files_in(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("count", [2, 3])
def test_writes_and_logs_everything(prepared, run, count):
    config = prepared(count)
    scores = Evaluation(config).run()
    assert read_scores(config.root_dir) == scores
    assert list(scores)[: len(METRIC_LABELS)] == list(METRIC_LABELS)
    assert (scores["n"], scores["n_groups"], scores["synthetic"]) == (6 * count, 3 * count, True)
    assert scores["model_sha256"] == ModelBundle.read(config.bundle_dir).model_sha256
    assert [row[:2] for row in scores["confusion_matrix"][:2]] == [[6, 0], [1, 5]]
    assert scores["sensitivity"] == 1.0
    series = scores["series"]
    assert (series["n"], series["n_groups"], series["n_mixed"]) == (6 * count, 3 * count, 0)
    assert scores["split"] == "test"
    validated = scores["cross_validation"]
    assert (validated["n"], validated["weights"]) == (120, {"conv_max": 0.6, "linear": 0.4})
    assert validated["note"].startswith("The cross-validated metrics are more reliable")
    assert "baseline" in validated["baseline_note"]
    assert scores["out_of_distribution"]["n_ood"] >= 40
    assert "A warning." in scores["warnings"]
    assert [gate["passed"] for gate in scores["gates"]] == [True] * 7
    more = {"roc_per_class.csv"} if count > 2 else set()
    assert files_in(config.root_dir) == FILES | more

    with (config.root_dir / "predictions.csv").open(newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert list(rows) == [
        entry.path for entry in Manifest.read(config.manifest_path).in_split("test")
    ]
    error = rows["normal/patient0_0.png"]
    assert (error["actual"], error["predicted"]) == ("normal", "adenocarcinoma")
    assert (error["group"], error["out_of_distribution"]) == ("normal patient0", "False")
    assert float(error["adenocarcinoma"]) > 0.5
    page = (config.root_dir / "MODEL_CARD.html").read_text(encoding="utf-8")
    first = min((path for path in rows if path in page), key=page.index)
    assert rows[first]["actual"] != rows[first]["predicted"], "errors come first in the gallery"

    artifacts = {}
    for paths, folder in (call.args for call in run.log_artifacts.call_args_list):
        artifacts[folder] = {path.name for path in paths}
    assert artifacts == {
        "evaluation": REPORTS | more,
        "plots": FILES - REPORTS,
        "data": {"manifest.csv", "report.json"},
    }
    (metrics,) = run.log_metrics.call_args.args
    assert metrics["roc_auc"] == scores["roc_auc"]
    assert metrics["roc_auc_low"] == scores["intervals"]["roc_auc"][0]
    assert metrics["series_loss"] == series["metrics"]["loss"]
    run.log_history.assert_called_once_with({"loss": [0.9, 0.5], "val_loss": [1.0, 0.6]})
    (tags,) = run.set_tags.call_args.args
    assert (tags["gates_not_met"], tags["state"]) == ("none", "evaluated")
    assert run.log_datasets.call_args.args[2] == ("train", "validation", "test")  # that exist
    run.register_candidate.assert_called_once()


def test_without_a_test_split_the_out_of_fold_predictions_are_evaluated(prepared, run):
    config = prepared(has_test=False)
    scores = Evaluation(config).run()
    assert (scores["split"], scores["n"], scores["n_groups"]) == ("out_of_fold", 20, 10)
    assert scores["confusion_matrix"] == [[9, 1], [0, 10]]
    assert scores["out_of_distribution"]["n"] == 20
    assert "no test split" in scores["cross_validation"]["note"]
    (message,) = (gate["message"] for gate in scores["gates"] if gate["name"] == "min_roc_auc")
    assert "ROC AUC of the out-of-fold predictions of the training images is 0.9" in message
    assert files_in(config.root_dir) == FILES
    with (config.root_dir / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [
        entry.path for entry in Manifest.read(config.manifest_path).entries
    ]
    assert (rows[0]["predicted"], float(rows[0]["adenocarcinoma"])) == ("normal", 0.1)
    page = (config.root_dir / "MODEL_CARD.html").read_text(encoding="utf-8")
    assert "There is no test split" in page
    assert "test images" not in page
    first = min((row["path"] for row in rows if row["path"] in page), key=page.index)
    assert first == rows[0]["path"]


@pytest.mark.parametrize("has_test", [True, False])
def test_int8_is_compared_on_the_same_images(prepared, has_test):
    config = prepared(has_test=has_test, int8=True)
    scores = Evaluation(config).run()
    bundle = ModelBundle.read(config.bundle_dir)
    assert scores["int8"] == {
        "model_sha256": bundle.model_sha256,
        "int8_sha256": bundle.int8_sha256,
        "n": 12 if has_test else 20,
        "agreement": 1.0,
        "auc_difference": 0.0,
        "accepted": True,
    }
    assert bundle.accepts_int8(config.root_dir)
    assert "model_int8.zip" in bundle.parts


def test_the_same_inputs_give_the_same_bytes(prepared):
    config = prepared()
    Evaluation(config).run()
    again = config.model_copy(update={"root_dir": config.root_dir.with_name("again")})
    Evaluation(again).run()
    for path in config.root_dir.iterdir():
        assert path.read_bytes() == (again.root_dir / path.name).read_bytes(), path.name


def test_a_failed_gate_stops_after_everything_is_written(prepared, run):
    config = prepared()
    gates = EASY_GATES.model_copy(update={"min_groups_per_class": 9, "max_shortcut_auc": 0.55})
    with pytest.raises(GateError) as caught:
        Evaluation(config.model_copy(update={"gates": gates})).run()
    message = str(caught.value)
    assert message.startswith(
        "2 of 7 gates failed: Number of groups of class adenocarcinoma is 5; the minimum is 9."
    )
    assert "(gray) is 0.600; the maximum is 0.55." in message
    assert "\n" not in message
    assert files_in(config.root_dir) == FILES
    (tags,) = run.set_tags.call_args.args
    assert tags["gates_not_met"] == "min_groups_per_class, max_shortcut_auc"
    assert "the minimum is 9" in tags["gate.min_groups_per_class"]
    assert "FAILED" in (config.root_dir / "MODEL_CARD.md").read_text(encoding="utf-8")
    warn = gates.model_copy(update={"on_failure": "warn"})
    scores = Evaluation(config.model_copy(update={"gates": warn})).run()
    failed = [gate["name"] for gate in scores["gates"] if not gate["passed"]]
    assert failed == ["min_groups_per_class", "max_shortcut_auc"]


def test_without_a_gallery_no_image_of_the_data_is_written(prepared):
    config = prepared().model_copy(update={"error_gallery_size": 0})
    Evaluation(config).run()
    assert files_in(config.root_dir) == FILES - {"errors.png"}
    assert "<img" not in (config.root_dir / "MODEL_CARD.html").read_text(encoding="utf-8")


def test_images_of_other_kinds_come_from_a_folder(prepared, run, tmp_path, picture):
    config = prepared(2).model_copy(update={"ood_samples": str(tmp_path / "others")})
    with pytest.raises(UserError, match=r"others: no image; set evaluation\.ood_samples"):
        Evaluation(config).run()
    (tmp_path / "others/maps").mkdir(parents=True)
    for level in (0, 255):
        (tmp_path / f"others/maps/{level}.png").write_bytes(picture(level))
    scores = Evaluation(config).run()["out_of_distribution"]
    assert [(row["kind"], row["n"]) for row in scores["by_kind"]] == [("maps", 2)]
    (tmp_path / "others/broken.png").write_bytes(b"text")
    with pytest.raises(UserError, match=r"broken\.png: .*; remove it from evaluation.ood_samples"):
        Evaluation(config).run()


def drop_first_entry(config):
    entries = Manifest.read(config.manifest_path).entries
    Manifest(entries[1:]).write(config.manifest_path)


def drop_first_prediction(config):
    path = config.bundle_dir / OUT_OF_FOLD_FILE
    header, _, *rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join([header, *rows]))


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda c: c.report_path.unlink(), ManifestError, "is missing; run data_validation first"),
        (
            lambda c: c.report_path.write_text("{"),
            ManifestError,
            "damaged .* data_validation again",
        ),
        (
            lambda c: c.report_path.write_text(json.dumps({"manifest_sha256": "0"})),
            ManifestError,
            "made for another manifest",
        ),
        (drop_first_entry, BundleError, "another manifest"),
        (lambda c: (c.bundle_dir / "ood_detector.npz").unlink(), BundleError, "npz is missing"),
        (
            lambda c: (c.bundle_dir / CROSS_VALIDATION_FILE).unlink(),
            BundleError,
            "json: missing, .* train again",
        ),
        (
            lambda c: save_json(c.bundle_dir / CROSS_VALIDATION_FILE, {"model_sha256": "0"}),
            BundleError,
            "it is of another model",
        ),
        (
            lambda c: (c.bundle_dir / OUT_OF_FOLD_FILE).unlink(),
            BundleError,
            "csv: missing, .* train again",
        ),
        (drop_first_prediction, BundleError, "it has other images"),
    ],
    ids=[
        *("no report", "damaged report", "other report", "other manifest", "incomplete bundle"),
        *("no cross-validation", "other cross-validation", "no predictions", "other predictions"),
    ],
)
def test_inputs_that_do_not_match_are_refused(prepared, damage, error, message):
    config = prepared(has_test=False)
    damage(config)
    with pytest.raises(error, match=message):
        Evaluation(config).run()
    assert not config.root_dir.exists()
