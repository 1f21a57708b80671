import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from cnnClassifier.components.data_validation import DataValidation, check_disjoint
from cnnClassifier.entity.config_entity import DataValidationConfig
from cnnClassifier.entity.manifest import SPLITS, Manifest
from cnnClassifier.utils.errors import ManifestError
from tests.dicoms import NAME, dicom, lungs
from tests.pictures import COPIES, encoded, picture, save


@pytest.fixture
def config(tmp_path):
    return DataValidationConfig(
        source_URL="data.zip",
        data_dir=tmp_path / "data",
        manifest_path=tmp_path / "out" / "manifest.csv",
        report_path=tmp_path / "out" / "report.json",
        group_pattern=r"^(?P<group>patient\d+)_",
        near_duplicate_correlation=0.965,
        conflicts="stop",
        split="grouped",
        shortcut_warning_auc=0.75,
        min_side=32,
        max_pixels=100_000,
        dicom_window="auto",
        joblib_backend="threading",
        shares=(0.6, 0.2, 0.2),
        seed=1,
    )


def clean():
    """Ten patients of two slices each, and twenty single images."""
    patients = {f"ill/patient{n // 2}_{n}.png": picture(n) for n in range(20)}
    return patients | {f"well/{n}.png": picture(n) for n in range(100, 120)}


def test_planted_faults_come_out_as_planned(config):
    good = clean()
    copies = {"well/100 (1).png": good["well/100.png"], "well/100 (2).png": good["well/100.png"]}
    near = {
        "ill/zz 0.jpg": COPIES["as JPEG"](picture(0)),
        "ill/patient9_99.png": COPIES["smaller"](picture(2)),
    }
    faults = {
        "ill/none.png": (b"", "empty"),
        "well/none.png": (b"", "empty"),
        "well/text.jpg": (b"text", "not_an_image"),
        "well/half.png": (encoded(picture(1))[:900], "corrupt"),
        "well/huge.png": (encoded(picture(3, (400, 300))), "too_large"),
    }
    save(config.data_dir, good | copies | near | {path: data for path, (data, _) in faults.items()})
    manifest = DataValidation(config).run()
    assert manifest == Manifest.read(config.manifest_path)
    assert [e.path for e in manifest.entries] == sorted(good | copies | near | faults)
    entries = {e.path: e for e in manifest.entries}
    for path in copies:
        assert entries[path].reason == "copy of well/100.png"
        assert (entries[path].split, entries[path].group) == ("", entries["well/100.png"].group)
    for path, (data, code) in faults.items():
        assert entries[path].reason.startswith(f"{code}: ")
        assert (entries[path].split, entries[path].group, entries[path].phash) == ("", "", "")
        assert entries[path].bytes == len(data)
    assert all(entries[path].split in SPLITS and not entries[path].reason for path in good | near)
    # A re-encoded slice of patient 0 belongs to them; patients 1 and 9 turn out to be one.
    for group, names in {
        "ill/zz 0.jpg": ("zz 0.jpg", "patient0_0.png", "patient0_1.png"),
        "patient1": ("patient9_99.png", "patient1_2.png", "patient9_19.png"),
    }.items():
        assert {entries[f"ill/{name}"].group for name in names} == {group}
    check_disjoint(manifest)

    report = json.loads(config.report_path.read_text())
    assert (report["files"], report["used"], report["near_copies"]) == (
        49,
        42,
        {"sets": 2, "files": 4},
    )
    assert report["left_out"] == {"copies": 2, "conflicts": 0, "given_split": 0, "other": 5}
    assert report["faults"] == {path: entries[path].reason for path in faults}
    assert report["images"] == {"ill": 22, "well": 20}
    assert report["groups"] == {"ill": 9, "well": 20}
    used = [e for e in manifest.entries if e.split]
    for split, shown in report["splits"].items():
        assert shown["images"] == Counter(e.label for e in used if e.split == split)
        assert shown["wished_share"] == config.shares[SPLITS.index(split)]
        assert shown["share"] == round(sum(shown["images"].values()) / 42, 4)
        assert abs(shown["share"] - shown["wished_share"]) < 0.06
        assert shown["groups"] == {
            label: len({e.group for e in used if (e.split, e.label) == (split, label)})
            for label in ("ill", "well")
        }


def test_the_seed_decides_the_split_and_nothing_else(config):
    save(config.data_dir, clean())
    first = DataValidation(config).run()
    written = config.manifest_path.read_bytes(), config.report_path.read_bytes()
    assert DataValidation(config).run() == first
    assert (config.manifest_path.read_bytes(), config.report_path.read_bytes()) == written
    other = DataValidation(config.model_copy(update={"seed": 2})).run()
    assert other != first
    assert [replace(e, split="") for e in other.entries] == [
        replace(e, split="") for e in first.entries
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"well/same.png": encoded(picture(4))},
            "under two classes: ill/patient2_4.png and well/same.png; remove",
        ),
        (
            dict.fromkeys((path for path in clean() if path < "w"), b""),
            "class ill has no usable image: ill/.*: empty",
        ),
        (dict.fromkeys(clean(), b"text"), "class ill has no usable image: ill/.*: not_an_image"),
        ({f"few/{n}.png": picture(200 + n) for n in range(2)}, "class few has 2 groups"),
    ],
)
def test_data_that_cannot_be_used_writes_no_manifest(config, changes, said):
    save(config.data_dir, clean() | changes)
    with pytest.raises(ManifestError, match=said):
        DataValidation(config).run()
    assert not config.manifest_path.exists()
    assert not config.report_path.exists()


@pytest.mark.parametrize("name", ["sha256", "group"])
def test_what_stands_in_two_splits_is_noticed(config, name):
    save(config.data_dir, clean())
    entries = list(DataValidation(config).run().entries)
    train = next(e for e in entries if e.split == "train")
    place = next(n for n, e in enumerate(entries) if e.split == "test")
    entries[place] = replace(entries[place], **{name: getattr(train, name)})
    with pytest.raises(ManifestError, match=f"{name} .* stands in two splits"):
        check_disjoint(Manifest(tuple(entries)))


def test_dicom_files_are_audited_like_others_and_nothing_of_their_header_is_written(config, caplog):
    caplog.set_level("DEBUG")
    good = {
        f"{label}/{n}.dcm": dicom(lungs(10 * n + at), PatientID=f"{NAME} {n // 2}{label}")
        for at, label in enumerate(("ill", "well"))
        for n in range(9)
    }
    odd = {
        "ill/frames.DICOM": dicom(np.stack([lungs(98), lungs(99)]), NumberOfFrames=2),
        "ill/misnamed.png": dicom(lungs(97), PatientID="Anonymized"),
        "ill/patient3_1.dcm": dicom(lungs(96)),
        "well/half.dcm": good["well/0.dcm"][:5000],
        "well/copy.dcm": good["well/1.dcm"],
    }
    save(config.data_dir, good | odd)
    files, written = {}, {}
    for window in ("auto", "mediastinal"):
        manifest = DataValidation(config.model_copy(update={"dicom_window": window})).run()
        files[window] = {entry.path: entry for entry in manifest.entries}
        written[window] = "".join(
            path.read_text(encoding="utf-8") for path in config.manifest_path.parent.iterdir()
        )
    found = files["auto"]
    assert sorted(found) == sorted(good | odd)
    assert {path for path, entry in found.items() if not entry.split} == {
        "well/half.dcm",
        "well/copy.dcm",
    }
    assert {entry.mode for path, entry in found.items() if path != "well/half.dcm"} == {
        "MONOCHROME2"
    }
    assert found["ill/frames.DICOM"].size == "64x64"
    unusual = json.loads(config.report_path.read_text(encoding="utf-8"))["unusual"]
    assert {name: entry["files"] for name, entry in unusual.items()} == {
        "animated": 1,
        "misnamed": 1,
    }
    assert (
        files["mediastinal"]["ill/0.dcm"].phash != found["ill/0.dcm"].phash
    )  # the window reaches the pixels
    groups = {path: entry.group for path, entry in found.items() if entry.split}
    for label in ("ill", "well"):
        for n in range(0, 8, 2):  # of one patient
            assert groups[f"{label}/{n}.dcm"] == groups[f"{label}/{n + 1}.dcm"]
    assert groups["ill/patient3_1.dcm"] == "patient3"  # the name goes first
    assert groups["ill/misnamed.png"] == "ill/misnamed.png"
    assert len(set(groups.values())) == 5 + 5 + 3
    DataValidation(config).run()
    report = json.loads(config.report_path.read_text(encoding="utf-8"))
    assert report["near_copies"] == {"sets": 0, "files": 0}  # one patient isn't one picture
    assert [f["text"] for f in report["findings"] if "20 DICOM files whose name" in f["text"]]
    assert NAME.split("^")[1] not in "".join(written.values()) + caplog.text
