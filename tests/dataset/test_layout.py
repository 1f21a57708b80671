import logging
from pathlib import PurePosixPath

import pytest

from cnnClassifier.dataset.layout import arrange, list_images, place, summary
from cnnClassifier.utils.errors import SourceError

KAGGLE = """
    Data/train/adenocarcinoma_left.lower.lobe_T2_N0_M0_Ib/1.png
    Data/train/large.cell.carcinoma_left.hilum_T2_N2_M0_IIIa/1.png
    Data/train/normal/1.png
    Data/valid/adenocarcinoma_left.lower.lobe_T2_N0_M0_Ib/2.png
    Data/valid/normal/2.png
    Data/test/adenocarcinoma/3.png
    Data/test/normal/3.png
"""


def targets(paths: str, patterns=None, count=2) -> list[str]:
    images = [PurePosixPath(path) for path in paths.split()]
    return [str(item.target) for item in arrange(images, patterns, count, "the source")]


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        ("a/1.png b/2.png", "a/1.png b/2.png"),
        ("x/y/a/1.png x/y/b/p7/2.png", "a/1.png b/p7/2.png"),
        ("stray.png x/a/1.png x/b/2.png", "a/1.png b/2.png"),
        ("train/a/1.png train/b/2.png", "a/1.png b/2.png"),
        ("train/a/1.png Test/b/2.png", "train/a/1.png Test/b/2.png"),
        ("x/VAL/x/a/1.png x/testing/b/2.png x/testing/a/1.png", "VAL/a/1.png testing/b/2.png testing/a/1.png"),
        ("train/a/1.png train/b/1.png test/a/p1/1.png test/a/p2/1.png test/9.png",
         "train/a/1.png train/b/1.png test/a/p1/1.png test/a/p2/1.png"),
        ("train/Normal/1.png train/b/1.png test/normal/1.png", "train/Normal/1.png train/b/1.png test/Normal/1.png"),
        ("Normal/p/1.png b/1.png normal/p/1.png", "Normal/p/1.png b/1.png Normal/p/normal_1.png"),
    ],
)  # fmt: skip
def test_finds_class_folders(received, expected):
    assert sorted(targets(received)) == sorted(expected.split())


def test_patterns_choose_merge_and_rename_folders(caplog):
    patterns = {"adenocarcinoma": "Adenocarcinoma*", "normal": "normal*"}
    with caplog.at_level(logging.INFO, logger="cnnClassifier"):
        found = targets(KAGGLE, patterns)
    assert sorted(found) == [
        f"{split}/{label}/{n}.png"
        for split, n in (("test", 3), ("train", 1), ("valid", 2))
        for label in patterns
    ]
    assert (
        "left out, as no pattern matches: large.cell.carcinoma_left.hilum_T2_N2_M0_IIIa 1"
        in caplog.text
    )


def test_files_of_merged_folders_that_clash_are_all_kept():
    found = targets("a1/x.png a2/x.png a2/a2_x.png a3/x.png n/x.png", {"a": "a*", "n": "n"})
    assert sorted(found) == ["a/a2_a2_x.png", "a/a2_x.png", "a/a3_x.png", "a/x.png", "n/x.png"]


@pytest.mark.parametrize(
    ("received", "patterns", "count", "message"),
    [
        ("", None, 2, "no image inside"),
        ("1.png 2.png", None, 2, "no class folder"),
        (
            "x/normal/1.png x/normal/2.png",
            None,
            2,
            "one class only, normal; CLASSES in params.yaml says 2",
        ),
        ("normal/1.png normal/p/2.png normal/q/2.png", None, 2, "one class only, normal"),
        (
            "a/1.png b/1.png c/1.png",
            None,
            2,
            r"3 classes found, CLASSES in params.yaml says 2.*: a, b, c$",
        ),
        (" ".join(f"c{n:02}/1.png" for n in range(20)), None, 2, "c11 and 8 more$"),
        (
            "a/1.png b/1.png",
            {"a": "a", "n": "normal*"},
            2,
            r"no folder matches 'normal\*' of class n; found a, b",
        ),
        (
            "a/1.png b/1.png",
            {"a": "*", "b": "b"},
            2,
            "folder b matches the patterns of both a and b",
        ),
        ("a/1.png b/1.png", {"a": "?"}, 2, "one class only, a"),
        ("a/1.png b/1.png", {"../a": "a", "b": "b"}, 2, "can't name a folder"),
    ],
)
def test_refusals_name_cause_and_mend(received, patterns, count, message):
    with pytest.raises(SourceError, match=message) as caught:
        targets(received, patterns, count)
    assert "\n" not in str(caught.value)


def test_lists_images_but_no_litter_and_follows_links_once(tmp_path):
    for name in (
        "a/1.PNG",
        "a/notes.txt",
        "a/.thumb.png",
        "__MACOSX/a/1.png",
        ".git/2.png",
        "empty/readme",
        "b/2.tif",
    ):
        path = tmp_path / "received" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "3.png").write_bytes(b"x")
    (tmp_path / "received/c").symlink_to(elsewhere)
    (tmp_path / "received/a/loop").symlink_to(tmp_path / "received")
    assert [str(path) for path in list_images(tmp_path / "received")] == [
        "a/1.PNG",
        "b/2.tif",
        "c/3.png",
    ]


@pytest.mark.parametrize("move", [True, False])
def test_places_the_images(tmp_path, move):
    received = tmp_path / "received"
    for name in ("w/train/a/1.png", "w/train/b/1.png", "w/test/a/p/1.png"):
        (received / name).parent.mkdir(parents=True)
        (received / name).write_text(name)
    placed = arrange(list_images(received), None, 2, "it")
    place(placed, received, tmp_path / "data", move=move)
    assert (tmp_path / "data/test/a/p/1.png").read_text() == "w/test/a/p/1.png"
    assert len(list_images(tmp_path / "data")) == 3
    assert len(list_images(received)) == (0 if move else 3)
    assert (
        summary(placed) == "3 images in 2 classes (a 2, b 1), split as received (test 1, train 2)"
    )
