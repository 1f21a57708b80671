import hashlib
import os
from pathlib import Path

import pytest

from cnnClassifier.utils import common
from cnnClassifier.utils.common import (
    atomic_write,
    format_size,
    get_size,
    load_json,
    project_dir,
    read_yaml,
    remove_stale_temp,
    save_json,
    sha256_of,
)
from cnnClassifier.utils.errors import ConfigError


def put(path, kind, text):
    """Leave `text` at a path: as a file, in a folder, or nothing at all."""
    if kind == "folder":
        path.mkdir(parents=True)
        (path / "inside").write_text(text)
    elif kind == "file":
        path.write_text(text)


def found(path):
    if path.is_dir():
        return {item.name: item.read_text() for item in path.iterdir()}
    return path.read_text() if path.exists() else None


@pytest.mark.parametrize("old", ["nothing", "file", "folder"])
@pytest.mark.parametrize("new", ["file", "folder"])
def test_replacing_puts_the_new_in_the_olds_place(tmp_path, old, new):
    target = tmp_path / "deep" / "target" if old == "nothing" else tmp_path / "target"
    put(target, old, "old")
    with atomic_write(target) as staged:
        (staged.parent / "scratch").write_text("goes away")
        put(staged, new, "new")
        assert found(target) == {"nothing": None, "file": "old", "folder": {"inside": "old"}}[old]
    assert found(target) == ("new" if new == "file" else {"inside": "new"})
    assert [item.name for item in target.parent.iterdir()] == ["target"]


@pytest.mark.parametrize("old", ["nothing", "file", "folder"])
@pytest.mark.parametrize(
    "trouble", ["error inside", "nothing written", "Ctrl-C between the renames"]
)
def test_replacing_keeps_the_old_on_an_error(tmp_path, monkeypatch, old, trouble):
    target = tmp_path / "target"
    put(target, old, "old")
    before = found(target)

    def rename(source, place, rename=os.replace):
        if (
            os.path.basename(os.path.dirname(source)) != tmp_path.name
            and place == target
            and source.name == "target"
        ):
            raise KeyboardInterrupt
        rename(source, place)

    if trouble.startswith("Ctrl-C"):
        monkeypatch.setattr(common.os, "replace", rename)
    with (
        pytest.raises((RuntimeError, FileNotFoundError, KeyboardInterrupt)),
        atomic_write(target) as staged,
    ):
        if trouble != "nothing written":
            put(staged, "folder", "half")
        if trouble == "error inside":
            raise RuntimeError
    assert found(target) == before
    assert [item.name for item in tmp_path.iterdir()] == (["target"] if before else [])


@pytest.mark.parametrize(("moved", "expected"), [(False, "newer"), (True, "old")])
def test_leftovers_of_killed_runs_go_and_a_half_done_swap_is_undone(tmp_path, moved, expected):
    target, other = tmp_path / "data[1]", tmp_path / ".data2.unfinished-x"
    other.mkdir()
    for number in range(2):
        (tmp_path / f".data[1].unfinished-{number}" / "data[1]").mkdir(parents=True)
    put(tmp_path / ".data[1].unfinished-1" / "old", "folder", "old")
    if not moved:
        put(target, "folder", "newer")
    remove_stale_temp(target)
    assert found(target) == {"inside": expected}
    assert sorted(item.name for item in tmp_path.iterdir()) == [other.name, "data[1]"]


def test_json_comes_back_and_refuses_what_json_is_not(tmp_path):
    path, data = tmp_path / "a.json", {"ä": [1, 2.5, None, True], "b": {"c": "ü\n"}}
    save_json(path, data)
    assert load_json(path) == data
    assert path.read_text(encoding="utf-8").endswith("}\n")
    assert '"ä"' in path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="JSON"):
        save_json(path, float("nan"))
    assert load_json(path) == data


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (56_200_000, "56.2 MB"),
        (7e9, "7.0 GB"),
        (2e13, "20000.0 GB"),
    ],
)
def test_sizes_for_people(tmp_path, count, text):
    assert format_size(count) == text
    if count <= 1000:
        (tmp_path / "file").write_bytes(bytes(count))
        assert get_size(tmp_path / "file") == text


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        (b"", "found nothing"),
        (b"# only a comment\n", "found nothing"),
        (b"- a\n- b\n", "found a list"),
        (b"just words", "found a str"),
        (b"a: [1, 2\nb: }", "not valid YAML"),
        (b"a: \xff\xfe", "not valid YAML"),
        (b"a: !!python/object/apply:os.getcwd []", "not valid YAML"),
        (b"section: {port: 1, Port: 2}", "keys that differ by case alone"),
        ("folder", "directory"),
    ],
)
def test_yaml_that_is_no_mapping_is_refused_in_one_line(tmp_path, content, said):
    path = tmp_path / "some.yaml"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    message = str(caught.value)
    assert said in message
    assert message.startswith(str(path))
    assert "\n" not in message


def test_yaml_keys_are_attributes(tmp_path):
    (tmp_path / "a.yaml").write_text("a: {b: [1, {c: ü}]}", encoding="utf-8")
    assert read_yaml(tmp_path / "a.yaml").a.b[1].c == "ü"


@pytest.mark.parametrize("copied", ["tmpabc", "standalone/tmpabc"])
def test_an_experiment_in_a_copy_shares_what_its_clone_has(tmp_path, monkeypatch, copied):
    monkeypatch.chdir(tmp_path)
    assert project_dir() == Path()
    folder = tmp_path / ".dvc/tmp/exps" / copied
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert project_dir() / ".cache/features" == tmp_path / ".cache/features"
    assert project_dir() / "/elsewhere" == Path("/elsewhere")
