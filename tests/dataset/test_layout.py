import logging
from pathlib import PurePosixPath

import pytest

from cnnClassifier.dataset.layout import (
    arrange_images,
    find_class_folders,
    list_images,
    summarize,
    write_images,
)
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
    images = find_class_folders([PurePosixPath(path) for path in paths.split()], "the source")
    return [str(item.target) for item in arrange_images(images, patterns, count, "the source")]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a/1.png b/2.png", "a/1.png b/2.png"),
        ("x/y/a/1.png x/y/b/p7/2.png", "a/1.png b/p7/2.png"),
        ("stray.png x/a/1.png x/b/2.png", "a/1.png b/2.png"),
        ("train/a/1.png train/b/2.png", "a/1.png b/2.png"),
        ("train/a/1.png Test/b/2.png", "train/a/1.png Test/b/2.png"),
        ("x/VAL/y/a/1.png x/testing/y/b/2.png x/testing/y/a/1.png",
         "VAL/a/1.png testing/b/2.png testing/a/1.png"),
        ("train/a/1.png train/b/1.png test/a/p1/1.png test/a/p2/1.png test/9.png",
         "train/a/1.png train/b/1.png test/a/p1/1.png test/a/p2/1.png"),
        ("train/Normal/1.png train/b/1.png test/normal/1.png",
         "train/Normal/1.png train/b/1.png test/Normal/1.png"),
        ("Normal/p/1.png b/1.png normal/p/1.png", "Normal/p/1.png b/1.png Normal/p/normal_1.png"),
    ],
)  # fmt: skip
def test_finds_class_folders(source, expected):
    assert sorted(targets(source)) == sorted(expected.split())


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
        "skipped folders without a pattern: large.cell.carcinoma_left.hilum_T2_N2_M0_IIIa 1"
        in caplog.text
    )


def test_files_of_merged_folders_that_clash_are_all_kept():
    found = targets("a1/x.png a2/x.png a2/a2_x.png a3/x.png n/x.png", {"a": "a*", "n": "n"})
    assert sorted(found) == ["a/a2_a2_x.png", "a/a2_x.png", "a/a3_x.png", "a/x.png", "n/x.png"]


def test_without_a_match_the_folder_with_the_name_of_the_class_is_taken():
    found = targets("oak/1.png maple/1.png", {"oak": "oak*", "maple": "ahorn*"})
    assert sorted(found) == ["maple/1.png", "oak/1.png"]


@pytest.mark.parametrize(
    ("source", "patterns", "count", "message"),
    [
        ("", None, 2, "no image in a class folder"),
        ("1.png 2.png", None, 2, "no image in a class folder"),
        (
            "x/normal/1.png x/normal/2.png",
            None,
            2,
            r"found normal, 1 instead of 2 classes \(CLASSES in params.yaml\)",
        ),
        ("normal/1.png normal/p/2.png normal/q/2.png", None, 2, "found normal, 1 instead of 2"),
        (
            "a/1.png b/1.png c/1.png",
            None,
            2,
            "found a, b, c, 3 instead of 2 classes .*: a, b, c$",
        ),
        (" ".join(f"c{n:02}/1.png" for n in range(80)), None, 2, "found c00, .* …$"),
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
            "folder b matches the patterns of class b and of another one",
        ),
        ("a/1.png b/1.png", {"a": "?"}, 2, "found a, 1 instead of 2"),
        ("a/1.png b/1.png", {"../a": "a", "b": "b"}, 2, "is no folder name"),
    ],
)
def test_an_error_says_what_to_correct(source, patterns, count, message):
    with pytest.raises(SourceError, match=message) as raised:
        targets(source, patterns, count)
    assert "\n" not in str(raised.value)


def test_hidden_files_are_skipped_and_links_followed_once(tmp_path):
    for name in (
        "a/1.PNG",
        "a/notes.txt",
        "a/.thumb.png",
        "__MACOSX/a/1.png",
        ".git/2.png",
        "empty/readme",
        "b/2.tif",
    ):
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "3.png").write_bytes(b"x")
    (tmp_path / "source/c").symlink_to(elsewhere)
    (tmp_path / "source/a/loop").symlink_to(tmp_path / "source")
    assert [str(path) for path in list_images(tmp_path / "source")] == [
        "a/1.PNG",
        "b/2.tif",
        "c/3.png",
    ]


@pytest.mark.parametrize("move", [True, False])
def test_images_are_moved_or_copied(tmp_path, move):
    source = tmp_path / "source"
    for name in ("w/train/a/1.png", "w/train/b/1.png", "w/test/a/p/1.png"):
        (source / name).parent.mkdir(parents=True)
        (source / name).write_text(name)
    images = arrange_images(find_class_folders(list_images(source), "it"), None, 2, "it")
    write_images(images, source, tmp_path / "data", move=move)
    assert (tmp_path / "data/test/a/p/1.png").read_text() == "w/test/a/p/1.png"
    assert len(list_images(tmp_path / "data")) == 3
    assert len(list_images(source)) == (0 if move else 3)
    assert (
        summarize(images)
        == "3 images in 2 classes (a 2, b 1), split as in the source (test 1, train 2)"
    )
