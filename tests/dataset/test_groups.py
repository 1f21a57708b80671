import numpy as np
import pandas as pd
import pytest

from cnnClassifier.dataset import groups as module
from cnnClassifier.dataset.groups import (
    add_reasons,
    assign_groups,
    link_duplicates,
    mark_conflicts,
    mark_exact_duplicates,
)

PATTERN = r"^(?P<group>p\d+|\s*)_"


def table_of(paths, **columns):
    table = pd.DataFrame({"path": paths, "label": [path.split("/")[0] for path in paths]})
    defaults = {"error": "", "given_split": "", "patient": "", "duplicate_of": ""}
    return table.assign(**defaults).assign(**columns)


@pytest.fixture
def link(monkeypatch):
    """Return a function that links duplicates, with the given pairs as near-duplicates."""

    def run(table, pairs):
        monkeypatch.setattr(module, "find_near_duplicates", lambda keypoints, limit: pairs)
        return link_duplicates(table, np.full(len(table), None, object), 0.9)

    return run


@pytest.mark.parametrize(
    ("files", "kept"),
    [
        ({"a/10 (2).png": "", "a/10.png": "", "b/deep/1.png": ""}, "b/deep/1.png"),
        ({"b/1.png": "", "a/1.png": ""}, "a/1.png"),
        ({"a/1.png": "train", "a/long.png": "test", "b/longer.png": "test"}, "a/long.png"),
        ({"a/1.png": "train", "a/longer.png": "validation"}, "a/longer.png"),
    ],
    ids=["shortest name", "first path", "test", "validation"],
)
def test_of_exact_duplicates_one_is_kept(files, kept):
    table = table_of(list(files), given_split=list(files.values()), sha256="s")
    other = table_of(["c/1.png", "c/2.png", "c/3.png"], sha256=["t", "", ""])
    other.loc[1:, "error"] = "unreadable"  # files without a hash aren't duplicates
    result = mark_exact_duplicates(pd.concat([table, other], ignore_index=True))
    expected = {path: "" if path == kept else kept for path in files}
    assert dict(
        zip(result["path"], result["duplicate_of"], strict=True)
    ) == expected | dict.fromkeys(other["path"], "")


def test_links_conflicts_and_reasons(link):
    paths = ["a/1", "a/2", "a/3", "b/1", "b/2", "b/error", "c/1"]
    duplicate_of = ["", "", "a/1", "", "", "", ""]
    error = ["", "", "", "", "", "empty: no bytes", ""]
    table = link(table_of(paths, duplicate_of=duplicate_of, error=error), [(0, 2), (3, 4)])
    sets = [part["path"].tolist() for _, part in table.groupby("duplicate_set") if len(part) > 1]
    assert sorted(sets) == [["a/1", "a/3", "b/1"], ["b/2", "c/1"]]
    table = add_reasons(mark_conflicts(table))
    assert table["reason"].tolist() == [
        "conflict: same image as b/1",
        "",
        "conflict: same image as b/1",
        "conflict: same image as a/1",
        "conflict: same image as c/1",
        "empty: no bytes",
        "conflict: same image as b/2",
    ]
    table = link(table_of(["a/1", "a/2"], duplicate_of=["", "a/1"]), [])
    assert add_reasons(mark_conflicts(table))["reason"].tolist() == [
        "",
        "exact_duplicate: same bytes as a/1",
    ]


@pytest.mark.parametrize(
    ("paths", "pairs", "groups"),
    [
        (["a/p1_1.png", "a/p1_2.png", "b/p2_1.png"], [], ["p1", "p1", "p2"]),
        (["a/p1_1.png", "b/x.png", "a/p2_1.png", "a/p2_2.png"], [(0, 1), (1, 2)], ["b/x.png"] * 4),
        (["a/x.png", "b/x.png"], [], ["a/x.png", "b/x.png"]),
        (["a/_1.png", "a/_2.png", "a/ _3.png"], [], ["a/_1.png", "a/_2.png", "a/ _3.png"]),
        (["a/p3_1", "a/p2_1", "a/p1_1", "a/p4_1"], [(0, 1), (2, 3), (3, 0)], ["p1"] * 4),
    ],
)
def test_groups_are_names_joined_by_near_duplicates(link, paths, pairs, groups):
    assert assign_groups(link(table_of(paths), pairs), PATTERN)["group"].tolist() == groups


def test_groups_come_from_name_dicom_header_or_file(link):
    paths = ["a/p1_1.dcm", "a/1.dcm", "a/2.dcm", "a/3.png", "a/4.png"]
    patients = ["dicom-1", "dicom-2", "dicom-2", "", ""]
    table = link(table_of(paths, patient=patients, error=["", "", "", "", "empty"]), [])
    result = assign_groups(table, PATTERN)
    assert result["group"].tolist() == ["p1", "dicom-2", "dicom-2", "a/3.png", ""]
    assert result["group_source"].tolist() == ["name", "dicom", "dicom", "file", "file"]
    unmatched = assign_groups(table, r"p1|(?P<group>never)")
    assert unmatched["group"].tolist() == ["dicom-1", "dicom-2", "dicom-2", "a/3.png", ""]
    assert assign_groups(table, None)["group"].tolist() == unmatched["group"].tolist()
