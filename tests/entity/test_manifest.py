import numpy as np
import pytest

from cnnClassifier.entity.manifest import Entry, Manifest
from cnnClassifier.utils.errors import ManifestError


def entry(path, label="a", split="train", reason="", group="g"):
    return Entry(path, label, "0" * 64, "f" * 16, "512x382", 123, "RGB", group, split, reason)


NAMES = [
    "plain.png",
    'quo"ted, and comma.png',
    "ünïcödé 肺 🫁.png",
    " space .png",
    "semi;colon'.png",
    "=1+1.png",
    "line\nfeed\r.png",
]


def test_what_was_written_is_read(tmp_path):
    manifest = Manifest(
        (
            *(entry(f"a/{name}", group=name) for name in NAMES),
            entry("b/x.png", "b", "", 'corrupt: "bad", very\n'),
        )
    )
    path = tmp_path / "deep" / "manifest.csv"
    manifest.write(path)
    assert Manifest.read(path) == manifest
    written = path.read_bytes()
    assert written.startswith(b"path,class,sha256,phash,size,bytes,mode,group,split,reason\n")
    Manifest.read(path).write(path)
    assert path.read_bytes() == written


GOOD = (
    b"path,class,sha256,phash,size,bytes,mode,group,split,reason\na/1.png,a,0,f,1x1,5,L,g,train,\n"
)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is missing; run data_validation first"),
        (b"", "not a manifest"),
        (b"path,class\na,b\n", "not a manifest"),
        (GOOD.replace(b",5,", b",five,"), "damaged"),
        (GOOD[:-20], "damaged"),
        (GOOD[:-1] + b",more\n", "damaged"),
        (GOOD + b"\n", "damaged"),
        (GOOD.replace(b"1.png", b"\xff"), "damaged"),
        (GOOD.replace(b",train,", b",training,"), "damaged"),
        (GOOD.replace(b"L,g", b'L,"' + b"g" * 200_000), "damaged"),
    ],
)
def test_a_damaged_manifest_is_refused_in_one_line(tmp_path, content, said):
    path = tmp_path / "manifest.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ManifestError) as caught:
        Manifest.read(path)
    assert str(caught.value).startswith(str(path))
    assert said in str(caught.value)
    assert "run data_validation" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_splits_and_labels():
    manifest = Manifest(
        (
            entry("b/1.png", "b"),
            entry("a/1.png"),
            entry("a/2.png", split="test"),
            entry("b/2.png", "b", "test"),
            entry("c/1.png", "c", "", "empty"),
            entry("a/3.png", split="validation"),
        )
    )
    assert manifest.classes == ("a", "b")
    train = manifest.of("train")
    assert [e.path for e in train] == ["b/1.png", "a/1.png"]
    labels = manifest.labels(train)
    assert labels.tolist() == [1, 0]
    assert labels.dtype == np.int64
    with pytest.raises(ManifestError, match="validation has no images of b; run data_validation"):
        manifest.of("validation")
    with pytest.raises(ManifestError, match="train has no images of any class"):
        Manifest(()).of("train")
