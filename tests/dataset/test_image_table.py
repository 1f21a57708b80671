from pathlib import Path

import pandas as pd
import pytest

from cnnClassifier.dataset.image_table import read_image_table
from cnnClassifier.utils.errors import SourceError
from tests.archives import write_files

FILES = {"scans/a/1.png": b"1", "scans/b/1.png": b"2", "other/3.dcm": b"3", "IM0001": b"4"}


@pytest.fixture
def table(tmp_path):
    """Write `labels.csv` beside some images, and return its path."""
    write_files(tmp_path, FILES)

    def write(text: str, encoding: str = "utf-8") -> Path:
        path = tmp_path / "labels.csv"
        path.write_text(text, encoding=encoding)
        return path

    return write


def test_a_table_gives_labels_and_groups(table, tmp_path):
    text = f"note,group,label,path\n,p1, ill ,scans/a/1.png\n,,well,{tmp_path}/scans/b/1.png\n"
    path = table(text, "utf-8-sig")
    expected = [
        (str(tmp_path / "scans/a/1.png"), "ill", "a/1.png", "p1"),
        (str(tmp_path / "scans/b/1.png"), "well", "b/1.png", ""),
    ]
    images = read_image_table(path)
    assert [(str(i.source), i.label, str(i.name), i.group) for i in images] == expected
    frame = pd.read_csv(path).assign(group=["p1", None], label=[0, 1])
    frame.to_parquet(tmp_path / "labels.parquet")
    images = read_image_table(tmp_path / "labels.parquet")
    assert [(image.label, image.group) for image in images] == [("0", "p1"), ("1", "")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "can't be read as a table: No columns to parse"),
        ("path,class\nscans/a/1.png,ill\n", "no column label; expected the columns path, label"),
        ("path,label\n", "no rows"),
        ("path,label\na,b,c,d\n", "row 2, column path: "),
        ("path,label\nscans/a/1.png,ill\nx.png,well\n", "row 3, column path: {}/x.png doesn't"),
        ("path,label\nscans/a/1.png,\n", "row 2, column label: '' can't name a class"),
        ("path,label\nscans/a/1.png,../x\n", "row 2, column label: '../x' can't name a class"),
        ("path,label\nlabels.csv,ill\n", "labels.csv is hidden or not an image by its suffix"),
        ("path,label\nIM0001,a\nscans/../IM0001,b\n", "IM0001 is in row 2 too; remove one"),
    ],
)
def test_an_error_names_row_and_column(table, tmp_path, text, message):
    path = table(text)
    with pytest.raises(SourceError) as raised:
        read_image_table(path)
    assert message.format(tmp_path) in str(raised.value)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


def test_a_damaged_table_is_an_error(tmp_path, table):
    (tmp_path / "labels.parquet").write_bytes(b"PAR1 damaged")
    for path in (tmp_path / "labels.parquet", table("path,label\n\xe9", "latin-1")):
        with pytest.raises(SourceError, match="can't be read as a table"):
            read_image_table(path)
