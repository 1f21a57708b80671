import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cnnClassifier.components import training
from cnnClassifier.components.cross_fitting import TrainingImages
from cnnClassifier.components.training import Training, image_features, positive_class
from cnnClassifier.config.configuration import ConfigurationManager
from cnnClassifier.entity.bundle import apply_temperature
from cnnClassifier.entity.config_entity import ParallelConfig
from cnnClassifier.entity.manifest import Entry, Manifest
from cnnClassifier.imaging.augment import View, augment
from cnnClassifier.network.serialization import load_model
from cnnClassifier.pipeline import s1_data_ingestion, s1_data_validation, s2_prepare_base_model
from cnnClassifier.utils.common import load_json, sha256_of
from cnnClassifier.utils.errors import BundleError, ConfigError, ManifestError
from tests.dicoms import dicom, lungs
from tests.project import patterns, write_project

PARAMS = {
    "FEATURE_LAYER": "block3_pool",
    "WEIGHTS": None,
    "IMAGE_SIZE": [64, 64, 3],
    "SPLIT": [0.75, 0.25],
    "FOLDS": 3,
    "REPEATS": 2,
    "EPOCHS": 2,
    "VIEWS": 2,
    "PRECISION": "float32",
}


class FakeCache:
    """Needs no network: returns the keys, and the pixels of the second view of each image."""

    def features(self, keys, images, load, workers):
        return keys, [load(image, [1])[0] for image in images]


def test_features_of_another_dicom_window_have_another_key(tmp_path):
    (tmp_path / "x.dcm").write_bytes(dicom(lungs()))
    views = [View(), View(flip=True)]
    keys, pixels = {}, {}
    for window in ("auto", "lung", "bone", "-600,1500"):
        config = SimpleNamespace(
            data_dir=tmp_path,
            image_size=(64, 64, 3),
            max_pixels=10_000,
            dicom_window=window,
            parallel=ParallelConfig(),
        )
        entry = SimpleNamespace(path="x.dcm", sha256="abc")
        [keys[window]], [pixels[window]] = image_features(FakeCache(), [(entry, views)], config)
    assert len(set(map(tuple, keys.values()))) == 4
    assert keys["auto"] == [f"abc:{view}" for view in views]
    assert keys["bone"] == [f"abc:{view}:bone" for view in views]
    assert np.array_equal(pixels["lung"], pixels["-600,1500"])
    assert not np.array_equal(pixels["lung"], pixels["bone"])
    plain = training.load_image(entry, config)
    assert np.array_equal(pixels["lung"], augment(plain, views[1]))


@pytest.mark.parametrize(
    ("requested", "classes", "expected"),
    [
        ("auto", ("Normal", "tumor"), "tumor"),
        ("auto", ("benign", "healthy"), "benign"),
        ("Normal", ("Normal", "tumor"), "Normal"),
    ],
)
def test_the_positive_class_is_the_requested_one_or_the_first_that_is_not_harmless(
    requested, classes, expected
):
    assert positive_class(requested, classes) == expected
    with pytest.raises(ConfigError, match=f"expected auto or one of {', '.join(classes)}, found"):
        positive_class("other", classes)


@pytest.fixture(scope="module")
def project(keras, tmp_path_factory):
    """Return a function that prepares and trains in a folder with a small data set."""
    folder = tmp_path_factory.mktemp("training")
    config = {
        "data_ingestion.source_URL": patterns(groups=12, size=64, seed=3),
        "training.int8": False,
        "evaluation.bootstrap_samples": 100,
    }
    before = Path.cwd()
    os.chdir(folder)

    def train(stages=(s1_data_validation, s2_prepare_base_model), **changes):
        write_project(folder, config, PARAMS | changes)
        for stage in stages:
            stage.main(ConfigurationManager())
        return Training(ConfigurationManager().training()).run()

    try:
        yield lambda **changes: train(**changes)
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def trained(project):
    """Train both kinds of head in three folds, twice."""
    stages = (s1_data_ingestion, s1_data_validation, s2_prepare_base_model)
    bundle = project(stages=stages)
    paths = sorted(bundle.bundle_dir.iterdir())
    hashes = {path.name: sha256_of(path) for path in paths}
    project(stages=())
    again = {path.name: sha256_of(path) for path in sorted(bundle.bundle_dir.iterdir())}
    assert again == hashes
    return bundle


@pytest.mark.slow
def test_training_writes_out_of_fold_predictions_and_their_metrics(trained):
    """The same seed gives the same bytes: see `trained`."""
    folder = trained.bundle_dir
    table = pd.read_csv(folder / "out_of_fold.csv")
    manifest = Manifest.read(Path("artifacts/data_validation/manifest.csv"))
    assert table["path"].tolist() == [entry.path for entry in manifest.in_split("train")]
    assert set(table["fold"]) == {1, 2, 3}
    assert table.groupby("group")["fold"].nunique().max() == 1
    weights = {kind: head.weight for kind, head in trained.heads.items()}
    assert sum(weights.values()) == pytest.approx(1)
    classes = list(trained.classes)
    combined = sum(
        weight * table[[f"{kind}:{name}" for name in classes]].to_numpy()
        for kind, weight in weights.items()
    )
    expected = apply_temperature(combined, trained.temperature)
    assert np.allclose(table[classes], expected, atol=1e-5)
    assert {"linear:normal", "conv_max:normal", "disagreement"} < set(table)
    summary = load_json(folder / "cross_validation.json")
    assert (summary["folds"], summary["repeats"], summary["n"]) == (3, 2, len(table))
    accuracy = (table["actual"] == table["predicted"]).mean()
    assert summary["metrics"]["accuracy"] == pytest.approx(accuracy, abs=1e-6)
    loss = -np.log(table.to_numpy()[np.arange(len(table)), _column_of_label(table)].astype(float))
    assert summary["metrics"]["loss"] == pytest.approx(loss.mean(), abs=1e-4)
    assert summary["baseline"]["metrics"].keys() == summary["metrics"].keys()
    assert trained.max_disagreement > 0
    reference = trained.drift_reference
    assert (reference.groups, reference.group_size) == (table["group"].nunique(), 1)
    probability = reference.features["probability"]
    by_class = table["predicted"].value_counts().reindex(classes, fill_value=0)
    assert np.sum(probability.counts, axis=1).tolist() == by_class.tolist()
    is_high = table.apply(lambda row: row[row["predicted"]], axis=1) > probability.edges[4]
    assert np.sum(probability.counts, axis=0)[5:].sum() == pytest.approx(is_high.sum(), abs=1)
    assert 64 in reference.features["width"].edges
    mean_intensities = [entry.mean_intensity for entry in manifest.in_split("train")]
    edges = reference.features["mean_intensity"].edges
    assert min(mean_intensities) < edges[0] < edges[-1] < max(mean_intensities)
    history = pd.read_csv(folder / "history.csv")
    assert list(history) == ["epoch", "loss", "val_loss", "val_accuracy"]


def _column_of_label(table):
    return [table.columns.get_loc(label) for label in table["actual"]]


@pytest.mark.slow
def test_the_model_is_the_mean_of_the_heads_of_all_folds(trained, keras):
    model = load_model(trained.bundle_dir / "model.keras", "")
    of_heads = keras.Model(model.input, model.get_layer("head_probabilities").output)
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3)).astype(np.float32)
    probabilities = np.asarray(of_heads(images))
    weights = [head.weight / 3 for head in trained.heads.values() for _ in range(3)]
    assert probabilities.shape == (4, len(weights), 2)
    expected = np.einsum("nhc,h->nc", probabilities, weights)
    assert np.allclose(model(images), expected, atol=1e-5)
    assert trained.disagreement(probabilities).shape == (4,)


@pytest.mark.slow
def test_a_model_that_was_prepared_with_other_parameters_is_refused(trained, project):
    for changes in ({"FOLDS": 4}, {"HEAD": "average"}):
        with pytest.raises(BundleError, match=r"asks for . heads .*run prepare_base_model again"):
            project(stages=(), **changes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "heads"),
    [
        ({"SPLIT": [0.5, 0.25, 0.25], "HEAD": "flatten"}, {"flatten"}),
        ({"FINE_TUNE_FROM": "block3"}, {"conv_max"}),
        ({"HEAD": "linear", "SPLIT": [1.0, 0.0]}, {"linear"}),
    ],
)
def test_other_splits_and_heads(trained, project, keras, changes, heads):
    bundle = project(**changes)
    assert bundle.heads.keys() <= heads
    table = pd.read_csv(bundle.bundle_dir / "out_of_fold.csv")
    manifest = Manifest.read(Path("artifacts/data_validation/manifest.csv"))
    model = load_model(bundle.bundle_dir / "model.keras", "")
    count = model.get_layer("head_probabilities").output.shape[1] // len(bundle.heads)
    summary = load_json(bundle.bundle_dir / "cross_validation.json")
    fixed = len(changes.get("SPLIT", [])) == 3
    assert summary["fixed_validation_split"] == fixed
    held_out = manifest.in_split("validation" if fixed else "train")
    assert set(table["path"]) == {entry.path for entry in held_out}
    if fixed:
        assert (count, bundle.max_disagreement) == (1, None)
    elif "FINE_TUNE_FROM" in changes:
        assert (count, bundle.max_disagreement, set(table["fold"])) == (1, None, {1, 2, 3})
        base = load_model(Path("artifacts/prepare_base_model/base_model.keras"), "")
        for name, is_trained in (("block2_conv1", False), ("block3_conv1", True)):
            kernels = [np.asarray(each.get_layer(name).kernel) for each in (base, model)]
            assert np.array_equal(*kernels) != is_trained
    else:
        assert len(table) == len([entry for entry in manifest.entries if entry.split])
        assert count == 3
        assert pd.read_csv(bundle.bundle_dir / "history.csv").empty


def entries(groups, split="train"):
    return tuple(
        Entry(f"{label}/{number}.png", label, group=f"{label}{group}", split=split)
        for label in ("ill", "well")
        for number, group in enumerate(groups)
    )


@pytest.mark.parametrize(("groups", "folds"), [([0, 1, 2, 3, 4, 5], 5), ([0, 0, 1, 2], 3)])
def test_there_are_no_more_folds_than_groups_of_a_class(groups, folds):
    config = SimpleNamespace(folds=5, fit=SimpleNamespace(seed=0))
    images = TrainingImages.read(Manifest(entries(groups)), config, repeats=2)
    assert (images.fold_count, images.folds.shape) == (folds, (2, 2 * len(groups)))
    assert images.is_held_out.all()
    with pytest.raises(ManifestError, match=r"class ill has one group .*add images"):
        TrainingImages.read(Manifest(entries([0, 0, 0])), config, repeats=1)
