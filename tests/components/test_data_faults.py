"""A folder with planted faults comes out of data_validation as planned."""

import io
import shutil
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import zoom

from cnnClassifier.components.data_validation import DataValidation
from cnnClassifier.entity.config_entity import DataValidationConfig
from cnnClassifier.entity.manifest import Manifest
from cnnClassifier.imaging.phantom import parse_phantom, write_phantom
from cnnClassifier.utils.common import load_json
from cnnClassifier.utils.errors import ManifestError

GOOD = 12  # pictures of each class that nothing is wrong with


def picture(seed, side=96):
    """Make a smooth grey picture that is unlike that of any other seed."""
    coarse = np.random.default_rng(seed).uniform(0, 255, (7, 7))
    return Image.fromarray(zoom(coarse, side / 7, order=1).clip(0, 255).astype(np.uint8))


def encoded(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def bomb():
    """Make a PNG of a few hundred bytes that says it's 20,000 pixels wide and high."""
    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    body = (
        struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))
        for tag, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


@pytest.fixture
def folder(tmp_path):
    """Write two classes of unlike pictures; return a function that puts more files in."""
    root = tmp_path / "data"

    def put(path, data):
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data if isinstance(data, bytes) else encoded(data))

    for number in range(GOOD):
        put(f"ill/{number:02}.png", picture(number))
        put(f"well/{number:02}.png", picture(100 + number))
    return put


@pytest.fixture
def config(tmp_path):
    return DataValidationConfig(
        source_URL="somewhere.zip",
        data_dir=tmp_path / "data",
        manifest_path=tmp_path / "out" / "manifest.csv",
        report_path=tmp_path / "out" / "data_report.json",
        group_pattern=None,
        near_duplicate_correlation=0.991,
        conflicts="stop",
        split="grouped",
        shortcut_warning_auc=0.75,
        min_side=32,
        max_pixels=10_000_000,
        dicom_window="auto",
        joblib_backend="threading",
        shares=(0.6, 0.2, 0.2),
        seed=3,
    )


def run(config):
    manifest = DataValidation(config).run()
    page = config.report_path.with_suffix(".html").read_text(encoding="utf-8")
    return {entry.path: entry for entry in manifest.entries}, load_json(config.report_path), page


def plant(put):
    """Plant one of each fault that a single file can have, and copies within a class."""
    animation = [picture(seed) for seed in (41, 42)]
    deep = Image.fromarray(np.asarray(picture(43), np.uint16) * 200)
    turned = Image.Exif()
    turned[0x0112] = 6
    clear = picture(45).convert("RGBA")
    clear.putalpha(picture(46))
    put("ill/zero.png", b"")
    put("ill/text.png", b"this is no picture")
    put("ill/cut.png", encoded(picture(40))[:900])
    put("ill/dot.png", Image.new("L", (1, 1), 9))
    put("ill/bomb.png", bomb())
    put("ill/moving.gif", encoded(animation[0], "GIF", save_all=True, append_images=animation[1:]))
    put("ill/deep.png", deep)
    put("ill/cmyk.jpg", encoded(picture(44).convert("CMYK"), "JPEG", quality=90))
    put("ill/clear.png", clear)
    put("ill/turned.jpg", encoded(picture(47), "JPEG", exif=turned))
    put("ill/really_jpeg.png", encoded(picture(48), "JPEG"))
    put("ill/palette.png", picture(49).convert("P", palette=Image.Palette.ADAPTIVE))
    put("ill/00 copy.png", picture(0))
    put("ill/01 resized.png", picture(1).resize((150, 130)))
    put("ill/01 encoded.jpg", encoded(picture(1), "JPEG", quality=60))
    put("well/02 cropped.png", picture(102).crop((4, 3, 94, 93)))


def test_planted_faults_are_counted(folder, config):
    plant(folder)
    files, report, page = run(config)
    assert {
        path: entry.reason.partition(":")[0] for path, entry in files.items() if entry.reason
    } == {
        "ill/zero.png": "empty",
        "ill/text.png": "not_an_image",
        "ill/cut.png": "corrupt",
        "ill/dot.png": "too_small",
        "ill/bomb.png": "too_large",
        "ill/00 copy.png": "copy of ill/00.png",
    }
    assert report["left_out"] == {"copies": 1, "conflicts": 0, "given_split": 0, "other": 5}
    assert {name: found["files"] for name, found in report["unusual"].items()} == {
        "animated": 1,
        "16-bit": 1,
        "CMYK": 1,
        "palette": 2,  # the GIF is one too
        "alpha": 1,
        "rotated": 1,
        "misnamed": 1,
    }
    assert report["near_copies"] == {"sets": 2, "files": 5}
    assert (
        files["ill/01 resized.png"].group
        == files["ill/01 encoded.jpg"].group
        == files["ill/01.png"].group
    )
    assert files["well/02 cropped.png"].group == files["well/02.png"].group
    assert report["used"] == len(files) - 6 == 2 * GOOD + 10
    assert all(path in page for path in ("ill/bomb.png", "ill/01 resized.png", "ill/00 copy.png"))
    assert "Not a medical device" in page
    assert "http" not in page.replace("http://www.w3.org", "")


@pytest.mark.slow
def test_page_and_figures_are_the_same_twice_whatever_the_backend(folder, config, tmp_path):
    plant(folder)
    run(config)
    again = config.model_copy(
        update={
            "manifest_path": tmp_path / "again" / "manifest.csv",
            "report_path": tmp_path / "again" / "data_report.json",
            "joblib_backend": "loky",
        }
    )
    run(again)
    for name in ("manifest.csv", "data_report.json", "data_report.html"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "data_report.html",
        "data_report.json",
        "manifest.csv",
    ]


@pytest.mark.parametrize(
    "twin", [picture(5), picture(5).resize((120, 110))], ids=["copy", "near-copy"]
)
def test_one_picture_under_two_classes(folder, config, twin):
    folder("well/same.png", twin)
    with pytest.raises(
        ManifestError, match=r"two classes: ill/05\.png and well/same\.png; .*leave_out"
    ):
        DataValidation(config).run()
    assert not config.manifest_path.exists()
    folder("ill/05 third.png", picture(5).resize((80, 80)))
    files, report, page = run(config.model_copy(update={"conflicts": "leave_out"}))
    assert {path: entry.reason for path, entry in files.items() if entry.reason} == {
        "ill/05 third.png": "conflict: the same picture as well/same.png",
        "ill/05.png": "conflict: the same picture as well/same.png",
        "well/same.png": "conflict: the same picture as ill/05 third.png",
    }
    assert report["conflicts"] == {"sets": 1, "files": 3}
    assert report["warnings"][0].startswith("1 picture stands under more than one class")
    assert 'id="conflicts"' in page


def test_what_a_reader_must_know_is_said(folder, config):
    for number in range(30, 60):
        folder(f"well/a&b{number}.png", picture(200 + number, side=120))
    folder("ill/montage.png", picture(300, side=400))
    _, report, page = run(config.model_copy(update={"group_pattern": "^(?P<group>series[0-9]+)_"}))
    said = " ".join(report["warnings"])
    assert "group_pattern matches no file's name" in said
    assert "Width, height and aspect alone: AUC" in said
    assert "Few groups to judge by: ill 3 in validation" in said
    assert report["sizes"]["unfamiliar"] == {"ill/montage.png": "400x400"}
    assert any(
        "well has 3.2 times as many images as ill" in finding["text"]
        for finding in report["findings"]
    )
    assert "a&amp;b30.png" in page
    assert "a&b30.png" not in page
    assert "Synthetic" not in page
    _, report, page = run(
        config.model_copy(update={"source_URL": "phantom:patients=9", "shortcut_warning_auc": 1.0})
    )
    assert report["synthetic"]
    assert "Synthetic pictures" in page
    assert not any("alone: AUC" in text for text in report["warnings"])


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("rare/only.png", picture(60), "class rare has 1 group "),
        (
            "rare/broken.png",
            b"no picture",
            "class rare has no usable image: rare/broken.png: not_an_image",
        ),
    ],
)
def test_a_class_that_cannot_be_split(folder, config, name, data, reason):
    folder(name, data)
    with pytest.raises(ManifestError, match=reason):
        DataValidation(config).run()


@pytest.fixture
def split_folder(folder, config):
    """Divide the folder as sources do, 6:2:4 of each class; return `put`."""
    for path in sorted(config.data_dir.rglob("*.png")):
        number = int(path.stem)
        split = "Train" if number < 6 else "valid" if number < 8 else "test"
        folder(f"{split}/{path.parent.name}/{path.name}", path.read_bytes())
    for label in ("ill", "well"):
        shutil.rmtree(config.data_dir / label)
    return folder


def test_given_split_is_kept_and_mended_in_train(split_folder, config):
    split_folder("Train/ill/leak.png", picture(9))  # a copy of test/ill/09.png
    split_folder(
        "Train/ill/leak2.png", picture(10).resize((120, 120))
    )  # a near-copy of test/ill/10.png
    split_folder(
        "valid/well/leak3.png", picture(111).resize((70, 70))
    )  # a near-copy of test/well/11.png
    split_folder(
        "Train/well/spare.png", picture(106).resize((90, 90))
    )  # a near-copy of valid/well/06.png
    files, report, _ = run(config.model_copy(update={"split": "as_given"}))
    assert Counter(entry.split for entry in files.values()) == {
        "train": 12,
        "validation": 4,
        "test": 8,
        "": 4,
    }
    assert {path: entry.reason for path, entry in files.items() if entry.reason} == {
        "Train/ill/leak.png": "copy of test/ill/09.png",
        "Train/ill/leak2.png": "given split: its group stands in test",
        "Train/well/spare.png": "given split: its group stands in validation",
        "valid/well/leak3.png": "given split: its group stands in test",
    }
    assert report["given_split"] == {
        "images": {"train": 15, "validation": 5, "test": 8},
        "test_images_with_copy_in_train": 2,
        "validation_taken_from_train": False,
    }
    assert any(
        "2 of 8 test images have a copy or near-copy in train" in text
        for text in report["warnings"]
    )


def test_given_split_without_validation_takes_it_from_train(split_folder, config):
    shutil.rmtree(config.data_dir / "valid")
    files, report, _ = run(config.model_copy(update={"split": "as_given"}))
    assert {entry.split for path, entry in files.items() if path.startswith("test")} == {"test"}
    assert Counter(e.split for path, e in files.items() if path.startswith("Train")) == {
        "train": 8,
        "validation": 4,
    }
    assert report["given_split"]["validation_taken_from_train"]


def test_given_split_needs_folders_that_give_it(folder, config):
    with pytest.raises(
        ManifestError, match=r"folders give no split; set data_validation\.split to grouped"
    ):
        DataValidation(config.model_copy(update={"split": "as_given"})).run()
    shutil.move(config.data_dir, config.data_dir.with_name("all"))
    shutil.move(config.data_dir.with_name("all"), config.data_dir / "train")
    with pytest.raises(ManifestError, match="no folder for test"):
        DataValidation(config.model_copy(update={"split": "as_given"})).run()


def test_last_good_outputs_stay_when_a_run_fails(folder, config):
    run(config)
    before = {path.name: path.read_bytes() for path in config.manifest_path.parent.iterdir()}
    folder("well/same.png", picture(5))
    with pytest.raises(ManifestError):
        DataValidation(config).run()
    assert {
        path.name: path.read_bytes() for path in config.manifest_path.parent.iterdir()
    } == before
    assert len(Manifest.read(config.manifest_path).entries) == 2 * GOOD


@pytest.mark.slow
def test_phantom_has_no_shortcut_and_no_patient_twice(config):
    write_phantom(config.data_dir, parse_phantom("phantom:"))
    pattern = r"^(?P<group>patient\d+)_"
    files, report, _ = run(
        config.model_copy(update={"source_URL": "phantom:", "group_pattern": pattern, "seed": 42})
    )
    assert report["used"] == len(files) == 400
    assert (
        sum(report["groups"].values()) == 200
    )  # near-copies join nothing but slices of one patient
    assert {name for name, reach in report["shortcuts"].items() if reach["auc"] > 0.6} <= {
        "thumbnail"
    }
