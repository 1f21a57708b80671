import hashlib
import os
from pathlib import Path

import pytest

from cnnClassifier.utils import common
from cnnClassifier.utils.common import (
    atomic_write,
    format_size,
    load_json,
    project_dir,
    read_numeric_csv,
    read_yaml,
    remove_stale_temp,
    save_json,
    sha256_of,
)
from cnnClassifier.utils.errors import ConfigError


def create(path, kind, text):
    """Write `text` to a file, or to a file in a folder; or write nothing."""
    if kind == "folder":
        path.mkdir(parents=True)
    if kind != "nothing":
        (path / "inside" if kind == "folder" else path).write_text(text)


def contents(folder):
    """The text of each file in a folder, by its path."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in paths}


@pytest.mark.parametrize("old", ["nothing", "file", "folder"])
@pytest.mark.parametrize("new", ["file", "folder"])
def test_an_atomic_write_replaces_the_target_at_the_end(tmp_path, old, new):
    target = tmp_path / ("deep/target" if old == "nothing" else "target")
    create(target, old, "old")
    with atomic_write(target) as temp_path:
        (temp_path.parent / "other").write_text("is deleted")
        assert target.exists() == (old != "nothing")
        create(temp_path, new, "new")
    suffix = "/inside" if new == "folder" else ""
    assert contents(target.parent) == {f"target{suffix}": "new"}


@pytest.mark.parametrize("old", ["nothing", "file", "folder"])
@pytest.mark.parametrize("cause", ["error", "nothing written", "Ctrl-C between the renames"])
def test_an_atomic_write_keeps_the_old_target_on_an_error(tmp_path, monkeypatch, old, cause):
    target = tmp_path / "target"
    create(target, old, "old")
    before = contents(tmp_path)

    def replace(source, destination, replace=os.replace):
        if destination == target and source.name == "target":
            raise KeyboardInterrupt
        replace(source, destination)

    if cause.startswith("Ctrl-C"):
        monkeypatch.setattr(common.os, "replace", replace)
    errors = (RuntimeError, FileNotFoundError, KeyboardInterrupt)
    with pytest.raises(errors), atomic_write(target) as temp_path:
        if cause != "nothing written":
            create(temp_path, "folder", "half")
        if cause == "error":
            raise RuntimeError
    assert contents(tmp_path) == before


@pytest.mark.parametrize(("kind", "expected"), [("folder", "new"), ("nothing", "old")])
def test_remains_of_killed_writes_are_removed_and_a_moved_target_is_restored(
    tmp_path, kind, expected
):
    target = tmp_path / "data[1]"
    create(tmp_path / ".data2.unfinished-x", "folder", "other")
    create(tmp_path / ".data[1].unfinished-0" / "data[1]", "folder", "half")
    create(tmp_path / ".data[1].unfinished-1" / "old", "folder", "old")
    create(target, kind, "new")
    remove_stale_temp(target)
    assert contents(tmp_path) == {
        "data[1]/inside": expected,
        ".data2.unfinished-x/inside": "other",
    }


def test_json_and_csv_round_trip(tmp_path):
    path, data = tmp_path / "a.json", {"ä": [1, 2.5, None, True], "b": {"c": "ü\n"}}
    save_json(path, data)
    with pytest.raises(ValueError, match="JSON"):
        save_json(path, float("nan"))
    assert load_json(path) == data
    assert path.read_text(encoding="utf-8").endswith('"c": "ü\\n"\n  }\n}\n')

    (tmp_path / "a.csv").write_bytes(b"x,y\n1,0.5\n2,1e-09\n")
    assert read_numeric_csv(tmp_path / "a.csv") == {"x": [1, 2], "y": [0.5, 1e-9]}
    (tmp_path / "a.csv").write_text("x,y\n", encoding="utf-8")  # the history of linear heads
    assert read_numeric_csv(tmp_path / "a.csv") == {"x": [], "y": []}


def test_sizes_and_hashes_of_files(tmp_path):
    counts = (0, 999, 1000, 999_999, 56_200_000, 7e9, 2e13)
    expected = ["0 B", "999 B", "1.0 kB", "1000.0 kB", "56.2 MB", "7.0 GB", "20000.0 GB"]
    assert list(map(format_size, counts)) == expected
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("folder", "Is a directory"),
        (b"", "found None"),
        (b"# only a comment\n", "found None"),
        (b"- a\n- b\n", r"found \['a', 'b'\]"),
        (b"just words", "found 'just words'"),
        (b"a: [1, 2\nb: }", "not valid YAML"),
        (b"a: \xff\xfe", "not valid YAML"),
        (b"a: !!python/object/apply:os.getcwd []", "not valid YAML"),
        (b"section: {port: 1, Port: 2}", "keys that differ only in case"),
    ],
)
def test_yaml_that_is_not_a_mapping_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "some.yaml"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^{path}: [^\n]*{message}[^\n]*$"):
        read_yaml(path)


def test_yaml_keys_are_attributes(tmp_path):
    (tmp_path / "a.yaml").write_text("a: {b: [1, {c: ü}]}", encoding="utf-8")
    assert read_yaml(tmp_path / "a.yaml").a.b[1].c == "ü"


@pytest.mark.parametrize("copy", ["tmpabc", "standalone/tmpabc"])
def test_an_experiment_in_a_copy_uses_the_folder_of_its_clone(tmp_path, monkeypatch, copy):
    monkeypatch.chdir(tmp_path)
    assert project_dir() == Path()
    folder = tmp_path / ".dvc/tmp/exps" / copy
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert project_dir() == tmp_path
