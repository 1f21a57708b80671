import json
import shutil
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from cnnClassifier.components.data_validation import DataValidation
from cnnClassifier.entity.config_entity import DataValidationConfig, ParallelConfig, ProjectConfig
from cnnClassifier.entity.manifest import Manifest
from cnnClassifier.utils.errors import ManifestError
from tests.dicoms import NAME, dicom, lungs
from tests.pictures import encoded, picture, save
from tests.texts import LEAVES, check_subject

GOOD = 12  # images of each class without any error
OUTPUTS = ("manifest.csv", "data_report.json", "data_report.html")


@pytest.fixture
def data_dir(tmp_path):
    """Write two classes of different images."""
    good = {f"ill/{n:02}.png": picture(n) for n in range(GOOD)}
    good |= {f"well/{n:02}.png": picture(100 + n) for n in range(GOOD)}
    save(tmp_path / "data", good)
    return tmp_path / "data"


@pytest.fixture
def validate(tmp_path):
    """Return a function that runs the stage and returns entries by path, report and page."""

    def run(output="out", **changes):
        values = {
            "source_URL": "data.zip",
            "data_dir": tmp_path / "data",
            "manifest_path": tmp_path / output / "manifest.csv",
            "report_path": tmp_path / output / "data_report.json",
            "group_pattern": None,
            "near_duplicate_correlation": 0.9,
            "conflicts": "stop",
            "split": "grouped",
            "shortcut_warning_auc": 0.75,
            "min_side": 32,
            "max_pixels": 10_000_000,
            "dicom_window": "auto",
            "shares": (0.8, 0.2),
            "seed": 3,
            "project": ProjectConfig(group_term="patient", domain="medical"),
        }
        config = DataValidationConfig(**(values | changes))
        manifest = DataValidation(config).run()
        assert manifest == Manifest.read(config.manifest_path)
        report = json.loads(config.report_path.read_text(encoding="utf-8"))
        page = config.report_path.with_suffix(".html").read_text(encoding="utf-8")
        return {entry.path: entry for entry in manifest.entries}, report, page

    return run


def reasons_of(files):
    return {path: entry.reason for path, entry in files.items() if entry.reason}


def decompression_bomb():
    """Make a PNG of a few hundred bytes whose header claims 20,000 × 20,000 pixels."""
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    idat = b"IDAT" + zlib.compress(bytes(1000))
    png = b"\x89PNG\r\n\x1a\n"
    for chunk in (ihdr, idat, b"IEND"):
        png += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return png


def plant(data_dir):
    """Plant each error, unusual property and kind of duplicate."""
    rotated = Image.Exif()
    rotated[0x0112] = 6
    transparent = picture(45).convert("RGBA")
    transparent.putalpha(picture(46))
    coarse = np.random.default_rng(0).integers(0, 256, (24, 24), np.uint8)
    detailed = Image.fromarray(coarse).resize((192, 160))
    frames = {"save_all": True, "append_images": [picture(42)]}
    planted = {
        "ill/empty.png": b"",
        "ill/text.png": b"this is not an image",
        "ill/cut.png": encoded(picture(40))[:900],
        "ill/dot.png": Image.new("L", (1, 1), 9),
        "ill/bomb.png": decompression_bomb(),
        "ill/animated.gif": encoded(picture(41), "GIF", **frames),
        "ill/deep.png": Image.fromarray(np.asarray(picture(43), np.uint16) * 200),
        "ill/cmyk.jpg": encoded(picture(44).convert("CMYK"), "JPEG", quality=90),
        "ill/transparent.png": transparent,
        "ill/rotated.jpg": encoded(picture(47), "JPEG", exif=rotated),
        "ill/really_jpeg.png": encoded(picture(48), "JPEG"),
        "ill/palette.png": picture(49).convert("P", palette=Image.Palette.ADAPTIVE),
        "ill/00 copy.png": picture(0),
        "ill/patient1_a.png": picture(1).resize((150, 125)),
        "ill/patient1_b.png": picture(50),
        "ill/01 encoded.jpg": encoded(picture(1), "JPEG", quality=60),
        "well/detailed.png": detailed,
        "well/cropped.png": detailed.crop((10, 7, 180, 151)),
    }
    save(data_dir, planted)


def add_feedback(data_dir, images):
    """Add images as data_ingestion adds those that users corrected."""
    save(data_dir, images)
    (data_dir / "feedback.csv").write_text("\n".join(["path", *images]), encoding="utf-8")


def test_errors_and_duplicates_are_found_and_counted(data_dir, validate):
    plant(data_dir)
    files, report, page = validate(group_pattern=r"^(?P<group>patient\d+)_")
    assert list(files) == sorted(
        path.relative_to(data_dir).as_posix() for path in data_dir.rglob("*.*")
    )
    assert {path: reason.partition(":")[0] for path, reason in reasons_of(files).items()} == {
        "ill/empty.png": "empty",
        "ill/text.png": "not_an_image",
        "ill/cut.png": "corrupt",
        "ill/dot.png": "too_small",
        "ill/bomb.png": "too_large",
        "ill/00 copy.png": "exact_duplicate",
    }
    assert files["ill/00 copy.png"].duplicate_of == "ill/00.png"
    for entry in files.values():
        assert bool(entry.split) == (not entry.reason)
        assert entry.bytes == (data_dir / entry.path).stat().st_size
    assert (files["ill/cut.png"].group, files["ill/cut.png"].width) == ("", 0)
    assert report["errors"] == {
        path: reason
        for path, reason in reasons_of(files).items()
        if not reason.startswith("exact_duplicate")
    }
    assert {name: content["files"] for name, content in report["unusual"].items()} == dict.fromkeys(
        ("animated", "16-bit", "CMYK", "palette", "alpha", "rotated", "misnamed"), 1
    )
    expected = {
        "files": 42,
        "used": 36,
        "left_out": {"exact_duplicate": 1, "conflict": 0, "leakage": 0, "corrected": 0, "error": 5},
        "near_duplicates": {"sets": 2, "files": 5},
        "images": {"ill": 22, "well": 14},
        "groups": {"ill": 19, "well": 13},
    }
    assert {key: report[key] for key in expected} == expected
    joined = ("01.png", "01 encoded.jpg", "patient1_a.png", "patient1_b.png")
    assert {files[f"ill/{name}"].group for name in joined} == {"ill/01 encoded.jpg"}
    assert files["well/detailed.png"].group == files["well/cropped.png"].group
    assert all(path in page for path in ("ill/bomb.png", "ill/patient1_a.png", "ill/00 copy.png"))
    assert "Not a medical device" in page
    assert "http" not in page.replace("http://www.w3.org", "")  # no network


@pytest.mark.parametrize(
    ("shares", "targets", "finding", "few"),
    [
        (
            (0.5, 0.25, 0.25),
            {"train": 0.5, "validation": 0.25, "test": 0.25},
            ("good", "All class shares are within"),
            "ill has 3 in validation, well has 3 in validation, ill has 3 in test, well has 3",
        ),
        (
            (0.75, 0.25),
            {"train": 0.75, "test": 0.25},
            ("good", "All class shares are within"),
            "ill has 3 in test, well has 3 in test.",
        ),
        (
            (1.0, 0.0),
            {"train": 1.0},
            ("note", "No test split: the metrics will be those of the out-of-fold predictions."),
            None,
        ),
    ],
)
def test_the_report_describes_the_splits_that_exist(
    data_dir, validate, caplog, shares, targets, finding, few
):
    caplog.set_level("INFO")
    files, report, page = validate(shares=shares)
    counts = Counter(entry.split for entry in files.values())
    line = ", ".join(f"{split} {counts[split]}" for split in targets)
    assert f"{2 * GOOD} images used ({line}); left out: none" in caplog.text
    assert list(report["splits"]) == list(targets)
    for split, target in targets.items():
        content = report["splits"][split]
        assert content["target"] == content["fraction"] == target
        assert content["images"] == Counter(e.label for e in files.values() if e.split == split)
        assert f'scope="rowgroup">{split}</th>' in page
    assert page.count('scope="rowgroup"') == len(targets)
    assert ("Training cross-validates on train" in page) == ("validation" not in targets)
    level, text = finding
    texts = [found["text"] for found in report["findings"] if found["level"] == level]
    assert any(found.startswith(text) for found in texts)
    warnings = " ".join(report["warnings"])
    assert f"Few groups for evaluation: {few}" in warnings if few else "Few" not in warnings


@pytest.mark.parametrize("engine", ["local", pytest.param("dask", marks=pytest.mark.slow)])
def test_equal_seeds_give_equal_bytes(data_dir, validate, tmp_path, monkeypatch, engine):
    monkeypatch.chdir(tmp_path)
    plant(data_dir)
    first, _, _ = validate()
    validate(output="again", parallel=ParallelConfig(engine=engine, workers=2))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(OUTPUTS)
    for name in OUTPUTS:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    other, _, _ = validate(seed=4)
    assert other != first
    assert [e._replace(split="") for e in other.values()] == [
        e._replace(split="") for e in first.values()
    ]


@pytest.mark.parametrize(
    ("planted", "message"),
    [
        (
            {"well/same.png": picture(5)},
            r"two classes: ill/05\.png and well/same\.png; .*leave_out",
        ),
        ({"rare/1.png": b"text"}, "class rare has no usable image: rare/1.png: not_an_image"),
        ({"rare/1.png": picture(60)}, "class rare needs a group .* has 1 in all"),
        (
            {f"rare/{n}.png": picture(60 + n) for n in range(2)},
            "class rare needs a group .* has 2 in all",
        ),
    ],
)
def test_an_error_keeps_the_last_good_outputs(data_dir, validate, tmp_path, planted, message):
    validate()
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    save(data_dir, planted)
    with pytest.raises(ManifestError, match=message):
        validate()
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_the_report_speaks_of_the_project_s_subject(data_dir, validate):
    for pattern, warning in ((None, "images of one plant may be"), ("none", "No test split")):
        _, report, page = validate(project=LEAVES, group_pattern=pattern, shares=(1.0, 0.0))
        assert warning in check_subject(page)
    assert not any("group_pattern" in text for text in report["warnings"])


def test_an_image_in_two_classes_is_left_out_on_request(data_dir, validate):
    resized = {"well/same.png": (120, 100), "ill/05 third.png": (84, 70)}
    save(data_dir, {path: picture(5).resize(size) for path, size in resized.items()})
    files, report, page = validate(conflicts="leave_out")
    assert reasons_of(files) == {
        "ill/05 third.png": "conflict: same image as well/same.png",
        "ill/05.png": "conflict: same image as well/same.png",
        "well/same.png": "conflict: same image as ill/05 third.png",
    }
    assert report["conflicts"] == {"sets": 1, "files": 3}
    assert report["warnings"][0].startswith("More than one class for 1 image; all 3 files")
    assert 'id="conflicts"' in page


def test_findings_warn_of_what_distorts_scores(data_dir, validate):
    large = {f"well/large{n}.png": picture(200 + n, (120, 120)) for n in range(30, 60)}
    save(data_dir, large | {"ill/a&b.png": picture(300, (400, 400))})
    _, report, page = validate(group_pattern="^(?P<group>series[0-9]+)_")
    warnings = " ".join(report["warnings"])
    assert "group_pattern matches no file name" in warnings
    assert "Width, height and aspect ratio alone: AUC" in warnings
    assert "Few groups for evaluation: ill has 3 in test" in warnings
    assert report["sizes"]["outliers"] == {"ill/a&b.png": "400×400"}
    texts = " ".join(finding["text"] for finding in report["findings"])
    assert "well has 3.2 times as many images as ill" in texts
    assert "a&amp;b.png" in page
    assert "a&b.png" not in page
    assert "Synthetic" not in page
    _, report, page = validate(source_URL="patterns:groups=9", shortcut_warning_auc=1.0)
    assert report["synthetic"]
    assert "Synthetic images" in page
    assert not any("alone: AUC" in text for text in report["warnings"])


@pytest.fixture
def split_data_dir(data_dir):
    """Divide the data as sources do, 6:2:4 of each class."""
    splits = ["Train"] * 6 + ["valid"] * 2 + ["test"] * 4
    for label in ("ill", "well"):
        for n, split in enumerate(splits):
            (data_dir / split / label).mkdir(parents=True, exist_ok=True)
            (data_dir / label / f"{n:02}.png").rename(data_dir / split / label / f"{n:02}.png")
        (data_dir / label).rmdir()
    return data_dir


@pytest.mark.parametrize(
    ("shares", "counts", "given", "reasons"),
    [
        (
            (0.6, 0.2, 0.2),
            {"train": 12, "validation": 4, "test": 8, "": 4},
            {"train": 15, "validation": 5, "test": 8},
            {"Train/well/spare.png": "leakage: its group is in validation"},
        ),
        ((0.8, 0.2), {"train": 17, "test": 8, "": 3}, {"train": 20, "test": 8}, {}),
    ],
    ids=["three splits", "two splits"],
)
def test_a_given_split_is_kept_without_leakage(
    split_data_dir, validate, shares, counts, given, reasons
):
    duplicates = {
        "Train/ill/leak.png": picture(9),  # of test/ill/09.png
        "Train/ill/leak2.png": picture(10).resize((120, 100)),  # of test/ill/10.png
        "valid/well/leak3.png": picture(111).resize((84, 70)),  # of test/well/11.png
        "Train/well/spare.png": picture(106).resize((90, 75)),  # of valid/well/06.png
    }
    save(split_data_dir, duplicates)
    files, report, _ = validate(split="as_given", shares=shares)
    assert Counter(entry.split for entry in files.values()) == counts
    assert reasons_of(files) == reasons | {
        "Train/ill/leak.png": "exact_duplicate: same bytes as test/ill/09.png",
        "Train/ill/leak2.png": "leakage: its group is in test",
        "valid/well/leak3.png": "leakage: its group is in test",
    }
    has_validation = "validation" in given
    leaked = 2 if has_validation else 3
    assert report["given_split"] == {
        "images": given,
        "test_images_with_duplicate_in_train": leaked,
        "validation_taken_from_train": False,
    }
    assert list(report["splits"]) == list(given)
    warnings = " ".join(report["warnings"])
    assert f"{leaked} of 8 test images have a duplicate" in warnings
    assert ("their group is in test or validation:" in warnings) == has_validation
    assert ("their group is in test:" in warnings) != has_validation


def test_a_given_test_split_is_not_ignored(split_data_dir, validate):
    with pytest.raises(ManifestError, match="the data has a test split, but SPLIT has none"):
        validate(split="as_given", shares=(1.0, 0.0))
    files, _, _ = validate(split="grouped", shares=(1.0, 0.0))
    assert {entry.split for entry in files.values()} == {"train"}


def test_a_given_split_without_validation_takes_it_from_train(split_data_dir, validate):
    shutil.rmtree(split_data_dir / "valid")
    files, report, _ = validate(split="as_given", shares=(0.6, 0.2, 0.2))
    splits = Counter((path.split("/")[0], entry.split) for path, entry in files.items())
    assert splits == {("test", "test"): 8, ("Train", "train"): 8, ("Train", "validation"): 4}
    assert report["given_split"]["validation_taken_from_train"]


def test_feedback_keeps_a_given_split(split_data_dir, validate):
    _, before, _ = validate(split="as_given")
    images = {
        "Train/ill/feedback-new.png": picture(300),
        "Train/well/feedback-tested.png": picture(10).resize((84, 70)),
    }
    add_feedback(split_data_dir, images)
    files, report, _ = validate(split="as_given")
    reason = "leakage: same image as test/ill/10.png, which is in test"
    assert reasons_of(files) == {"Train/well/feedback-tested.png": reason}
    assert files["Train/ill/feedback-new.png"].split == "train"
    assert report["given_split"] == before["given_split"]


def test_dicom_files_are_grouped_by_patient_without_revealing_it(validate, tmp_path, caplog):
    caplog.set_level("DEBUG")
    good = {
        f"{label}/{n}.dcm": dicom(lungs(10 * n + offset), PatientID=f"{NAME} {n // 2}{label}")
        for offset, label in enumerate(("ill", "well"))
        for n in range(9)
    }
    special = {
        "ill/frames.DICOM": dicom(np.stack([lungs(98), lungs(99)]), NumberOfFrames=2),
        "ill/misnamed.png": dicom(lungs(97), PatientID="Anonymized"),
        "ill/patient3_1.dcm": dicom(lungs(96)),
        "well/half.dcm": good["well/0.dcm"][:5000],
        "well/copy.dcm": good["well/1.dcm"],
    }
    save(tmp_path / "data", good | special)
    pattern = r"^(?P<group>patient\d+)_"
    _, mediastinal, _ = validate(output="mediastinal", dicom_window="mediastinal")
    files, report, _ = validate(group_pattern=pattern, near_duplicate_correlation=0.999)
    assert mediastinal["shortcuts"] != report["shortcuts"]  # the window changes the pixels
    assert set(reasons_of(files)) == {"well/half.dcm", "well/copy.dcm"}
    assert {entry.mode for entry in files.values()} == {"MONOCHROME2", ""}
    assert (files["ill/frames.DICOM"].width, files["ill/frames.DICOM"].height) == (64, 64)
    counts = {name: content["files"] for name, content in report["unusual"].items()}
    assert counts == {"animated": 1, "misnamed": 1}
    groups = {path: entry.group for path, entry in files.items() if entry.split}
    assert groups["ill/2.dcm"] == groups["ill/3.dcm"]  # slices of one patient
    assert groups["ill/patient3_1.dcm"] == "patient3"  # the name overrides the header
    assert groups["ill/misnamed.png"] == "ill/misnamed.png"
    assert len(set(groups.values())) == 5 + 5 + 3
    assert any("DICOM header: 20 files" in finding["text"] for finding in report["findings"])
    written = [path.read_text(encoding="utf-8") for path in tmp_path.glob("*/*.*")]
    assert len(written) == 6
    assert NAME.split("^")[1] not in "".join(written) + caplog.text


@pytest.mark.slow
@pytest.mark.full
def test_the_phantom_has_no_shortcut_and_no_patient_twice(validate, tmp_path):
    ct_phantom = pytest.importorskip("ct_phantom")
    options = ct_phantom.parse_phantom("phantom:patients=100")
    ct_phantom.write_phantom(tmp_path / "data", options)
    pattern = r"^(?P<group>patient\d+)_"
    files, report, _ = validate(source_URL="phantom:", group_pattern=pattern, seed=42)
    assert report["used"] == len(files) == 200
    assert sum(report["groups"].values()) == 100  # near-duplicates join no two patients
    high = {name for name, score in report["shortcuts"].items() if score["auc"] > 0.6}
    assert high <= {"thumbnail"}


def test_groups_of_the_source_reach_the_manifest(validate, data_dir):
    rows = [f"{label}/{n:02}.png,g{n // 2}{label}" for label in ("ill", "well") for n in range(10)]
    (data_dir / "groups.csv").write_text("\n".join(["path,group", *rows]), encoding="utf-8")
    files, report, _ = validate(group_pattern=r"^(?P<group>\d)")
    assert files["ill/02.png"].group == files["ill/03.png"].group == "g1ill"
    assert files["ill/10.png"].group == files["well/11.png"].group == "1"
    assert len(files) == 2 * GOOD
    assert not any("group_pattern" in finding["text"] for finding in report["findings"])


def test_a_warning_names_at_most_ten_classes(validate, tmp_path):
    images = {f"c{n:02}/{i}.png": picture(10 * n + i) for n in range(12) for i in range(3)}
    save(tmp_path / "data", images)
    _, report, _ = validate()
    texts = " ".join(finding["text"] for finding in report["findings"])
    assert "c08 has 1 in test, c09 has 1 in test, 2 more. Scores depend" in texts


@pytest.mark.parametrize("shares", [(0.75, 0.25), (0.5, 0.25, 0.25)])
def test_feedback_is_trained_on_and_changes_no_split(data_dir, validate, shares):
    before, _, _ = validate(shares=shares)
    in_split = {split: [] for split in ("train", "validation", "test")}
    for path, entry in before.items():
        in_split[entry.split].append((path, int(path.split("/")[1][:2])))
    wrong, n = next(item for item in in_split["train"] if item[0].startswith("ill"))
    near, m = next(item for item in in_split["train"] if item[0].startswith("well"))
    tested, k = next(item for item in in_split["test"] if item[0].startswith("ill"))
    other = next(path for path, _ in in_split["train"] if path.startswith("ill") and path != wrong)
    images = {
        "ill/feedback-new.png": picture(300),
        "well/feedback-new.png": picture(301),
        "well/feedback-new small.png": picture(301).resize((60, 50)),
        "well/feedback-wrong.png": picture(n),
        "well/feedback-near.png": encoded(picture(100 + m), "JPEG", quality=80),
        "ill/feedback-right.png": (data_dir / other).read_bytes(),
        "well/feedback-tested.png": picture(k),
        "well/feedback-tested near.png": picture(k).resize((84, 70)),
        "ill/feedback-both.png": picture(303),
        "well/feedback-both.png": picture(303),
        "well/feedback-broken.png": b"this is not an image",
    }
    add_feedback(data_dir, images)
    files, report, page = validate(shares=shares)
    corrected = "corrected: same image as well/feedback-wrong.png, whose class is right"
    assert reasons_of(files) == {
        wrong: corrected,
        "ill/feedback-right.png": f"exact_duplicate: same bytes as {other}",
        "well/feedback-tested.png": f"leakage: same image as {tested}, which is in test",
        "well/feedback-tested near.png": f"leakage: same image as {tested}, which is in test",
        "ill/feedback-both.png": "conflict: same image as well/feedback-both.png",
        "well/feedback-both.png": "conflict: same image as ill/feedback-both.png",
        "well/feedback-broken.png": files["well/feedback-broken.png"].reason,
    }
    assert files["well/feedback-broken.png"].reason.startswith("not_an_image")
    kept = before.keys() - {wrong}
    assert {path: files[path] for path in kept} == {path: before[path] for path in kept}
    assert files[wrong].duplicate_of == "well/feedback-wrong.png"
    used = {path: files[path] for path in images if files[path].split}
    assert {entry.split for entry in used.values()} == {"train"}
    groups = {path.partition("-")[2]: entry.group for path, entry in used.items()}
    assert groups.pop("wrong.png") == wrong
    assert groups.pop("near.png") == near
    assert groups == {
        "new.png": "well/feedback-new small.png",
        "new small.png": "well/feedback-new small.png",
    }
    assert files["ill/feedback-new.png"].group == "ill/feedback-new.png"
    expected = {"files": 11, "used": 5, "images": {"ill": 1, "well": 4}, "in_test": 2}
    assert report["feedback"] == expected | {"corrected": 1}
    assert report["left_out"]["corrected"] == 1
    text = "Feedback of users: 5 of 11 images are trained on (ill 1, well 4). Left out because they"
    assert text in page
    assert not any("misses its target" in warning for warning in report["warnings"])
