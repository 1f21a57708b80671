import re

import numpy as np
import pandas as pd
import pytest

from cnnClassifier.entity.manifest import Entry, Manifest
from cnnClassifier.utils.errors import ManifestError

HEADER = (
    b"path,label,sha256,group,split,reason,duplicate_of,width,height,bytes,format,mode,"
    b"mean_intensity\n"
)
GOOD = HEADER + b"a/1.png,a,0f,g,train,,,2,3,5,PNG,L,9.5\n"
NAMES = [
    "plain.png",
    'quo"ted, and comma.png',
    "ünïcödé 肺 🫁.png",
    " space .png",
    "semi;colon'.png",
    "=1+1.png",
    "line\nfeed\r.png",
    "NA",
    "1e5",
]


def entry(path, label="a", split="train", reason="", group="g"):
    return Entry(path, label, "0" * 64, group, split, reason, "", 512, 382, 123, "PNG", "RGB")


def test_what_was_written_is_read(tmp_path):
    entries = [entry(f"a/{name}", group=name) for name in NAMES]
    entries.append(entry("b/x.png", "b", "", 'corrupt: "bad", very\n'))
    manifest = Manifest(tuple(entries))
    path = tmp_path / "deep" / "manifest.csv"
    manifest.write(path)
    assert Manifest.read(path) == manifest
    assert Manifest.from_table(pd.DataFrame(entries)) == manifest
    assert path.read_bytes().startswith(HEADER)
    path.write_bytes(GOOD)
    expected = Entry("a/1.png", "a", "0f", "g", "train", "", "", 2, 3, 5, "PNG", "L", 9.5)
    assert Manifest.read(path).entries == (expected,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is missing; run data_validation first"),
        (b"", "damaged"),
        (b"path,class\na,b\n", "made by version 1; run data_validation again"),
        (GOOD.replace(b",5,", b",five,"), "damaged"),
        (GOOD[:-20], "damaged"),
        (GOOD[:-1] + b",more\n", "damaged"),
        (GOOD.replace(b"1.png", b"\xff"), "damaged"),
    ],
)
def test_a_damaged_manifest_is_an_error_in_one_line(tmp_path, content, message):
    path = tmp_path / "manifest.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ManifestError) as caught:
        Manifest.read(path)
    assert re.fullmatch(rf"{re.escape(str(path))}.*{re.escape(message)}.*", str(caught.value))
    assert "run data_validation" in str(caught.value)


def test_splits_and_labels():
    entries = [
        entry("b/1.png", "b"),
        entry("a/1.png"),
        entry("a/2.png", split="test"),
        entry("b/2.png", "b", "test"),
        entry("c/1.png", "c", "", "empty"),
        entry("a/3.png", split="validation"),
    ]
    manifest = Manifest(tuple(entries))
    assert manifest.classes == ("a", "b")
    train = manifest.in_split("train")
    assert train == entries[:2]
    np.testing.assert_array_equal(manifest.labels(train), np.int64([1, 0]), strict=True)
    with pytest.raises(ManifestError, match="validation has no images of b; run data_validation"):
        manifest.in_split("validation")
    with pytest.raises(ManifestError, match="train has no images of any class"):
        Manifest(()).in_split("train")
