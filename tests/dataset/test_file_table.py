import hashlib

import numpy as np
import pytest
from PIL import Image

from cnnClassifier.dataset.file_table import read_file_table
from cnnClassifier.utils.errors import SourceError
from cnnClassifier.utils.source_files import SourceFile, write_list
from tests.pictures import encoded, picture, save


def test_each_file_becomes_one_row(tmp_path):
    files = {
        "a/1.png": encoded(picture(0), "JPEG"),
        "b/2.png": b"",
        "b/3.png": b"text",
        "b/4.png": picture(0),
        "b/5.png": Image.new("L", (40, 31)),
        "b/large.png": picture(0, (97, 80)),
        "b/blank.png": Image.new("RGB", (40, 32), (9, 9, 9)),
    }
    save(tmp_path, files)
    paths = [(path, path[0]) for path in [*files, "b/missing.png"]]
    result = read_file_table(tmp_path, paths, max_pixels=96 * 80, min_side=32)
    table = result.table
    assert list(zip(table["path"], table["label"], strict=True)) == paths
    codes = table["error"].str.partition(":")[0].tolist()
    errors = ["empty", "not_an_image", "", "too_small", "too_large", "", "unreadable"]
    assert codes == ["", *errors]
    data = (tmp_path / "a/1.png").read_bytes()
    expected = {
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "width": 96,
        "height": 80,
        "format": "JPEG",
        "mode": "L",
        "properties": "misnamed",
    }
    assert table.iloc[0][list(expected)].to_dict() == expected
    assert table["properties"].iloc[6] == "blank"
    assert (table["mean_intensity"].iloc[6], table["border_left_p95"].iloc[6]) == (9, 9)
    assert table.iloc[-1][["sha256", "bytes", "width"]].tolist() == ["", 0, 0]
    is_usable = np.array(codes) == ""
    assert (table["gray_std"].notna() == is_usable).all()
    assert result.thumbnails.shape == (8, 32, 32)
    assert [keypoints is not None for keypoints in result.keypoints] == is_usable.tolist()
    assert result.thumbnails[is_usable].any((1, 2)).all()


def test_border_statistics_describe_the_outer_pixels(tmp_path):
    gray = np.full((40, 60), 50, np.uint8)
    gray[:, :3] = 200
    save(tmp_path, {"a/1.png": Image.fromarray(gray)})
    row = read_file_table(tmp_path, [("a/1.png", "a")], max_pixels=10_000).table.iloc[0]
    assert (row["border_left_mean"], row["border_left_std"]) == (200, 0)
    assert (row["border_right_mean"], row["border_right_p95"]) == (50, 50)
    assert row["border_top_mean"] == np.float64(50 + 150 * 3 / 60)


def test_a_file_of_a_store_is_a_row_and_a_store_that_is_gone_an_error(tmp_path, memory_store):
    content = encoded(picture(0), "PNG")
    for name in ("a/1.png", "a/2.png"):
        memory_store.pipe_file(f"/clinic/{name}", content)
    files = [SourceFile(path, path, len(content), 0) for path in ("a/1.png", "a/2.png")]
    write_list(files, "memory://clinic", tmp_path)
    memory_store.rm("/clinic/a/2.png")
    paths = [("a/1.png", "a"), ("a/2.png", "a")]
    table = read_file_table(tmp_path, paths, max_pixels=10_000).table
    assert table["error"].tolist() == ["", "unreadable: No such file or directory"]
    memory_store.rm("/clinic", recursive=True)
    with pytest.raises(SourceError, match="memory://clinic: no such folder; check the address"):
        read_file_table(tmp_path, paths, max_pixels=10_000)
