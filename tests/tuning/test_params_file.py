import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from cnnClassifier.tuning.params_file import unified_diff, update_values
from cnnClassifier.utils.errors import ConfigError

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"


def test_a_value_changes_and_everything_else_stays():
    text = PARAMS.read_text(encoding="utf-8")
    before = yaml.safe_load(text)
    values = {
        "LEARNING_RATE": 3e-05,
        "BATCH_SIZE": 8,
        "HEAD": "average",
        "DROPOUT": before["DROPOUT"],
        "FINE_TUNE_FROM": "block4",
        "WEIGHTS": None,
        "BACKBONE": "EfficientNetB0",
    }
    after = update_values(text, values, PARAMS)
    assert yaml.safe_load(after) == before | values
    changed = [(a, b) for a, b in zip(text.splitlines(), after.splitlines(), strict=True) if a != b]
    assert {a.partition(":")[0] for a, _ in changed} == values.keys() - {"DROPOUT"}
    for a, b in changed:
        assert a.partition("#")[2] == b.partition("#")[2]
        assert a.find("#") == b.find("#")
    assert update_values(after, before, PARAMS) == text


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("A: 1\nB: 2", {"B": 3}, "A: 1\nB: 3\n"),
        ("A: true\nB: 2\n", {"B": 3}, "A: true\nB: 3\n"),
        ("A: 1   # one\n", {"A": 123456789}, "A: 123456789 # one\n"),
        ("A: 'x # y'  # z\n", {"A": "null"}, "A: 'null'   # z\n"),
        ("# A: 1\nA: 1\nAB: 1\n", {"A": 2}, "# A: 1\nA: 2\nAB: 1\n"),
        ("{A: 1, B: 2}\n", {"A": 3, "B": 0.5}, "{A: 3, B: 0.5}\n"),
        ("A: 1\r\nB: 2\r\n", {"A": 5}, "A: 5\nB: 2\n"),
    ],
)
def test_small_files(text, values, expected):
    assert update_values(text, values, Path("params.yaml")) == expected


def test_a_value_that_cannot_be_changed_safely_is_named():
    text = "A: &x [1]\nB: *x\nC: 2\n"
    with pytest.raises(ConfigError, match=r"params\.yaml: can't be changed .* by hand C: yes"):
        update_values(text, {"C": "yes"}, Path("params.yaml"))  # YAML 1.1 reads `yes` as true


@pytest.mark.parametrize("end", ["\n", ""])
def test_the_difference_is_a_patch(tmp_path, end):
    git = shutil.which("git")
    text = PARAMS.read_text(encoding="utf-8").rstrip("\n") + end
    after = update_values(text, {"HORIZONTAL_FLIP": False, "SEED": 1}, PARAMS)
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "best.diff").write_text(
        unified_diff(text, after, Path("params.yaml")), encoding="utf-8"
    )
    subprocess.run([git, "apply", "best.diff"], cwd=tmp_path, check=True)
    assert (tmp_path / "params.yaml").read_text(encoding="utf-8") == after
    assert unified_diff(text, text, Path("params.yaml")) == ""
