import csv
import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cnnClassifier.components.evaluation as stage
from cnnClassifier.components.evaluation import Evaluation
from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.entity.config_entity import EvaluationConfig, GatesConfig, TrackingConfig
from cnnClassifier.entity.manifest import Entry, Manifest
from cnnClassifier.tracking.tracker import Tracker
from cnnClassifier.utils.common import save_json, sha256_of
from cnnClassifier.utils.errors import BundleError, GateError, ManifestError
from tests.pictures import save

CONTRACT = [
    "loss",
    "accuracy",
    "balanced_accuracy",
    "roc_auc",
    "pr_auc",
    "sensitivity",
    "specificity",
    "precision",
    "recall",
    "f1",
    "mcc",
    "brier",
    "ece",
    "n",
    "n_groups",
    "synthetic",
]
EASY = GatesConfig(
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
FILES = {
    *("scores.json", "predictions.csv", "MODEL_CARD.md", "MODEL_CARD.html"),
    *("roc.csv", "pr.csv", "confusion.csv", "calibration.csv", "unfamiliar.csv"),
    *(
        "roc.png",
        "pr.png",
        "confusion_matrix.png",
        "calibration.png",
        "unfamiliar.png",
        "history.png",
        "errors.png",
    ),
}


def spot(seed, bright):
    """A dim noisy picture, with or without a bright spot."""
    pixels = np.random.default_rng(seed).integers(20, 60, (40, 40), np.uint8)
    if bright:
        pixels[10:20, 10:20] = 250
    return Image.fromarray(pixels)


@pytest.fixture
def logged(monkeypatch):
    """Keep what would go to MLflow."""
    events = []
    monkeypatch.setattr(stage, "track", lambda *_: nullcontext(Tracker(events.append)))
    return events


def said(events, what):
    """The values of all events of a kind, together."""
    together = {}
    for event in events:
        if event["what"] == what:
            together |= (
                event["values"]
                if isinstance(event["values"], dict)
                else {v[0]: v[1] for v in event["values"]}
            )
    return together


def uploaded(events):
    """The names of the files that went to each folder."""
    return {
        event["folder"]: {Path(path).name for path in event["paths"]}
        for event in events
        if event["what"] == "files"
    }


@pytest.fixture
def prepared(tmp_path, write_bundle):
    """Write test images, manifest, report and bundle, for 2 or 3 classes; the first normal image has a spot."""

    def make(count=2):
        classes = ("adenocarcinoma", "normal", "other")[:count]
        images = {
            f"{label}/patient{n // 2}_{n}.png": spot(
                100 * place + n, label == "adenocarcinoma" or (place, n) == (1, 0)
            )
            for place, label in enumerate(classes)
            for n in range(10)
        }
        save(tmp_path / "data", images)
        entries = []
        for path in sorted(images):
            label, name = path.split("/")
            group = f"{label} {name.split('_')[0]}"
            split = {"3": "train", "4": "validation"}.get(group[-1], "test")
            digest = sha256_of(tmp_path / "data" / path)
            entries.append(Entry(path, label, digest, group, split))
        manifest = Manifest(tuple(entries))
        manifest.write(tmp_path / "manifest.csv")
        tally = dict.fromkeys(classes, 2)
        report = {
            "manifest_sha256": sha256_of(tmp_path / "manifest.csv"),
            "files": 20,
            "used": 20,
            "left_out": {"copies": 0},
            "groups": dict.fromkeys(classes, 5),
            "splits": {"train": {"images": tally, "groups": tally}},
            "warnings": ["Mind the gap."],
            "shortcuts": {"grey": {"auc": 0.6, "low": 0.5, "high": 0.7}},
        }
        save_json(tmp_path / "report.json", report)
        write_bundle(
            tmp_path / "bundle",
            outputs=count,
            classes=classes,
            manifest_sha256=sha256_of(tmp_path / "manifest.csv"),
        )
        (tmp_path / "bundle/history.csv").write_text("epoch,loss,val_loss\n1,0.9,1.0\n2,0.5,0.6\n")
        return EvaluationConfig(
            data_dir=tmp_path / "data",
            manifest_path=tmp_path / "manifest.csv",
            report_path=tmp_path / "report.json",
            bundle_dir=tmp_path / "bundle",
            root_dir=tmp_path / "out",
            max_pixels=10**6,
            bootstrap_samples=100,
            error_gallery_size=4,
            seed=3,
            gates=EASY,
            tracking=TrackingConfig(
                uri="unused", experiment="unused", registered_model="chest", params=PARAMS
            ),
        )

    return make


@pytest.mark.parametrize("count", [2, 3])
def test_writes_everything_and_logs_it(prepared, logged, count):
    config = prepared(count)
    result = Evaluation(config).run()
    text = (config.root_dir / "scores.json").read_text(encoding="utf-8")
    assert json.loads(text) == result
    assert list(result)[: len(CONTRACT)] == CONTRACT
    assert (result["n"], result["n_groups"], result["synthetic"]) == (6 * count, 3 * count, True)
    assert result["model_sha256"] == ModelBundle.read(config.bundle_dir).model_sha256
    assert (
        result["confusion_matrix"][:2] == [[6, 0], [1, 5]] if count == 2 else [[6, 0, 0], [1, 5, 0]]
    )
    assert result["sensitivity"] == 1.0
    assert result["unfamiliar"]["n_not_ct"] >= 40
    assert "Mind the gap." in result["warnings"]
    assert [gate["met"] for gate in result["gates"]] == [True] * 7
    assert {path.name for path in config.root_dir.iterdir()} == FILES
    with (config.root_dir / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [
        e.path for e in Manifest.read(config.manifest_path).in_split("test")
    ]
    (wrong,) = (row for row in rows if row["path"] == "normal/patient0_0.png")
    assert (wrong["called"], wrong["group"], wrong["unfamiliar"]) == (
        "adenocarcinoma",
        "normal patient0",
        "False",
    )
    assert float(wrong["adenocarcinoma"]) > 0.5
    page = (config.root_dir / "MODEL_CARD.html").read_text(encoding="utf-8")
    assert page.index("normal/patient0_0.png") == min(
        page.index(row["path"]) for row in rows if row["path"] in page
    )
    pictures = {name for name in FILES if name.endswith(".png")}
    assert uploaded(logged) == {
        "evaluation": FILES - pictures,
        "plots": pictures,
        "data": {"manifest.csv", "report.json"},
    }
    metrics = said(logged, "metrics")
    assert metrics["roc_auc"] == result["roc_auc"]
    assert metrics["roc_auc_low"] == result["intervals"]["roc_auc"][0]
    assert said(logged, "history") == {"loss": 0.5, "val_loss": 0.6}
    tags = said(logged, "tags")
    assert (tags["gates_not_met"], tags["state"]) == ("none", "evaluated")
    assert [event["values"]["split"] for event in logged if event["what"] == "dataset"] == [
        "train",
        "validation",
        "test",
    ]
    assert [event["name"] for event in logged if event["what"] == "register"] == ["chest"]


def test_int8_is_compared_on_the_test_split(prepared, logged, write_bundle):
    config = prepared()
    write_bundle(config.bundle_dir, int8=True, manifest_sha256=sha256_of(config.manifest_path))
    result = Evaluation(config).run()
    bundle = ModelBundle.read(config.bundle_dir)
    assert result["int8"] == {
        "model_sha256": bundle.model_sha256,
        "int8_sha256": bundle.int8_sha256,
        "n": 12,
        "agreement": 1.0,
        "auc_difference": 0.0,
        "accepted": True,
    }
    assert bundle.accepts_int8(config.root_dir)
    assert "model_int8.zip" in bundle.parts


def test_the_same_inputs_give_the_same_bytes(prepared, logged):
    config = prepared()
    Evaluation(config).run()
    again = config.model_copy(update={"root_dir": config.root_dir.with_name("again")})
    Evaluation(again).run()
    for path in config.root_dir.iterdir():
        assert path.read_bytes() == (again.root_dir / path.name).read_bytes(), path.name


def test_an_unmet_gate_stops_after_all_is_written(prepared, logged):
    config = prepared()
    asked = EASY.model_copy(update={"min_groups_per_class": 9, "max_shortcut_auc": 0.55})
    with pytest.raises(GateError) as caught:
        Evaluation(config.model_copy(update={"gates": asked})).run()
    message = str(caught.value)
    assert message.startswith(
        "2 of 7 gates not met: Class adenocarcinoma has the fewest groups, 5; at least 9"
    )
    assert "AUC 0.600" in message
    assert "\n" not in message
    assert {path.name for path in config.root_dir.iterdir()} == FILES
    assert said(logged, "tags")["gates_not_met"] == "min_groups_per_class, max_shortcut_auc"
    assert "at least 9" in said(logged, "tags")["gate.min_groups_per_class"]
    assert "NOT MET" in (config.root_dir / "MODEL_CARD.md").read_text(encoding="utf-8")
    warned = Evaluation(
        config.model_copy(update={"gates": asked.model_copy(update={"stops": False})})
    ).run()
    assert [gate["name"] for gate in warned["gates"] if not gate["met"]] == [
        "min_groups_per_class",
        "max_shortcut_auc",
    ]


def test_no_gallery_shows_no_picture_of_the_data(prepared, logged):
    config = prepared().model_copy(update={"error_gallery_size": 0})
    Evaluation(config).run()
    assert {path.name for path in config.root_dir.iterdir()} == FILES - {"errors.png"}
    assert "<img" not in (config.root_dir / "MODEL_CARD.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (lambda c: c.report_path.unlink(), ManifestError, "is missing; run data_validation first"),
        (
            lambda c: c.report_path.write_text("{"),
            ManifestError,
            "damaged .*; run data_validation again",
        ),
        (
            lambda c: save_json(c.report_path, {"manifest_sha256": "0"}),
            ManifestError,
            "is of another manifest",
        ),
        (
            lambda c: Manifest(Manifest.read(c.manifest_path).entries[1:]).write(c.manifest_path),
            BundleError,
            "another manifest",
        ),
        (
            lambda c: (c.bundle_dir / "ood_detector.npz").unlink(),
            BundleError,
            "ood_detector.npz is missing",
        ),
    ],
    ids=["no report", "damaged report", "other report", "other manifest", "no reference"],
)
def test_refuses_what_does_not_belong_together(prepared, logged, spoil, error, said):
    config = prepared()
    spoil(config)
    with pytest.raises(error, match=said):
        Evaluation(config).run()
    assert not config.root_dir.exists()
