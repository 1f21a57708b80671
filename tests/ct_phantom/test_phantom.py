import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ct_phantom import (
    PhantomOptions,
    make_patient,
    parse_phantom,
    patient_classes,
    render_slice,
    write_phantom,
)
from ct_phantom.dataset import CLASSES
from ct_phantom.scanner import scan_slice

SMALL = "phantom:patients=6,slices=2,size=64,seed=5"


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_parse_reads_every_key_and_keeps_the_other_defaults() -> None:
    assert parse_phantom("phantom:") == PhantomOptions()
    assert parse_phantom("phantom: patients=40, noise=0.5,") == PhantomOptions(
        patients=40, noise=0.5
    )
    options = "patients=3,slices=4,size=65,seed=6,lesion_mm_min=20,lesion_mm_max=30"
    assert parse_phantom(f"phantom:{options},noise=0,window_jitter=1,classes=4") == PhantomOptions(
        3, 4, 65, 6, 20, 30, 0, 1, 4
    )


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("phantoms:", ["phantoms:"]),
        ("phantom:colour=1", ["colour", "unknown key", "patients, slices, size"]),
        ("phantom:patients", ["patients", "a whole number from 2 to 9999", "''"]),
        ("phantom:patients=1", ["patients", "a whole number from 2 to 9999", "found 1"]),
        ("phantom:size=2.5", ["size", "a whole number from 64 to 1024", "'2.5'"]),
        ("phantom:noise=nan", ["noise", "a number from 0 to 10", "nan"]),
        ("phantom:seed=1,seed=2", ["seed", "once"]),
        ("phantom:classes=5", ["classes", "a whole number from 2 to 4", "found 5"]),
        (
            "phantom:lesion_mm_min=50,lesion_mm_max=40",
            ["lesion_mm_min", "at most lesion_mm_max", "40"],
        ),
    ],
)
def test_an_invalid_option_is_reported_with_the_expected_value_and_an_example(
    url: str, parts: list[str]
) -> None:
    with pytest.raises(ValueError) as raised:
        parse_phantom(url)
    message = str(raised.value)
    assert "\n" not in message
    assert all(word in message for word in [*parts, "example phantom:"])


@pytest.mark.parametrize(
    ("extra", "counts"),
    [
        ("patients=6", {"adenocarcinoma": 3, "normal": 3}),
        (
            "patients=8,classes=4",
            {
                "adenocarcinoma": 2,
                "normal": 2,
                "large.cell.carcinoma": 2,
                "squamous.cell.carcinoma": 2,
            },
        ),
    ],
)
def test_writes_grey_png_files_of_equally_many_patients_to_each_class(
    tmp_path: Path, extra: str, counts: dict[str, int]
) -> None:
    options = parse_phantom(f"phantom:slices=2,size=64,seed=5,{extra}")
    assert write_phantom(tmp_path, options) == 2 * sum(counts.values())
    names = patient_classes(options)
    assert Counter(names) == counts
    expected = []
    for patient, name in enumerate(names, start=1):
        for index in (1, 2):
            expected.append(f"{name}/patient{patient:04d}_slice0{index}.png")
    assert sorted(digests(tmp_path)) == sorted(expected)
    for name in expected:
        with Image.open(tmp_path / name) as image:
            assert (image.mode, image.size, image.format) == ("L", (64, 64), "PNG")


def test_bytes_depend_on_the_options_alone(tmp_path: Path) -> None:
    options = parse_phantom(SMALL)
    for folder, workers in (("one", 1), ("two", 2)):
        write_phantom(tmp_path / folder, options, workers=workers)
    first = digests(tmp_path / "one")
    assert first == digests(tmp_path / "two")
    assert len(set(first.values())) == len(first)
    write_phantom(tmp_path / "other", parse_phantom(SMALL.replace("seed=5", "seed=6")), workers=1)
    assert not set(first.values()) & set(digests(tmp_path / "other").values())


def test_patient_numbers_are_independent_of_the_class() -> None:
    drawn = [patient_classes(PhantomOptions(seed=seed)) for seed in range(30)]
    ranks = np.nonzero(np.array(drawn) == "normal")[1] + 1
    assert abs(ranks.mean() - 100.5) < 4
    assert len(set(map(tuple, drawn))) == 30


@pytest.mark.parametrize("number", range(1, 5))
@pytest.mark.parametrize("name", CLASSES[1:])
def test_the_classes_differ_only_in_a_region_of_the_lung(name: str, number: int) -> None:
    options = PhantomOptions(size=96, slices=3, classes=4)
    patient = make_patient(options, number, name)
    for index in range(options.slices):
        with_lesion, without = (
            render_slice(options, patient, index, lesion).astype(int) for lesion in (True, False)
        )
        changed = with_lesion != without
        assert (with_lesion - without).max() > 20
        dark, _ = ndimage.label(
            scan_slice(patient, index, options.size, noise=0, lesion=False) < -400
        )
        lung = ndimage.binary_closing((dark > 0) & (dark != dark[0, 0]), iterations=3)
        assert ndimage.binary_dilation(lung, iterations=3)[changed].all()
        rows, columns = np.nonzero(np.abs(with_lesion - without) > 20)
        assert (
            max(np.ptp(rows), np.ptp(columns)) * patient.anatomy.fov_mm / options.size
            < 2 * options.lesion_mm_max
        )


def test_neighbouring_slices_are_similar_but_differ() -> None:
    options = PhantomOptions(size=96, slices=2)
    for number in range(1, 5):
        patient, stranger = make_patient(options, number), make_patient(options, number + 100)
        first, second = (
            render_slice(options, patient, index, False).astype(float) for index in (0, 1)
        )
        other = render_slice(options, stranger, 0, False).astype(float)
        assert 0 < np.abs(first - second).mean() < 0.7 * np.abs(first - other).mean()


def test_noise_and_lesion_size_change_the_image() -> None:
    plain = PhantomOptions(size=96, noise=0, window_jitter=0)
    patient = make_patient(plain, 1)
    clean, usual, noisy = (
        render_slice(replace(plain, noise=noise), patient, 0, False).astype(float)
        for noise in (0, 1, 3)
    )
    assert np.abs(noisy - clean).mean() > 1.5 * np.abs(usual - clean).mean() > 0
    areas = []
    for mm in (15, 50):
        options = replace(plain, lesion_mm_min=mm, lesion_mm_max=mm)
        same = make_patient(options, 1)
        with_lesion, without = (render_slice(options, same, 0, lesion) for lesion in (True, False))
        areas.append(np.count_nonzero(with_lesion != without))
    assert areas[1] > 3 * areas[0]


@pytest.fixture(scope="module")
def default_images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("phantom")
    assert write_phantom(folder, PhantomOptions()) == 400
    return sorted(folder.glob("*/*.png"))


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.parametrize(
    "statistic",
    [
        pytest.param(lambda path, pixels: [path.stat().st_size], id="file size"),
        pytest.param(lambda path, pixels: pixels.shape, id="image size"),
        pytest.param(lambda path, pixels: [pixels.mean()], id="mean"),
        pytest.param(lambda path, pixels: [pixels.std()], id="std"),
        pytest.param(
            lambda path, pixels: np.histogram(pixels, 32, (0, 256))[0] / pixels.size, id="histogram"
        ),
    ],
)
def test_no_global_statistic_separates_the_classes(
    default_images: list[Path], statistic: Callable[[Path, np.ndarray], list[float]]
) -> None:
    features = np.array(
        [statistic(path, np.asarray(Image.open(path))) for path in default_images], dtype=float
    )
    labels = np.array([path.parent.name == "adenocarcinoma" for path in default_images])
    groups = [path.name.split("_")[0] for path in default_images]
    for model in (
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)),
        RandomForestClassifier(100, min_samples_leaf=3, random_state=0),
    ):
        folds = GroupKFold(5, shuffle=True, random_state=0)
        scores = cross_val_predict(
            model, features, labels, groups=groups, cv=folds, method="predict_proba"
        )
        assert roc_auc_score(labels, scores[:, 1]) <= 0.60
