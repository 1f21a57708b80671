"""A score must come from what the labels say: with shuffled labels it falls to chance."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from cnnClassifier.entity.manifest import Manifest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_shuffled_labels_give_chance_and_true_ones_do_not(tmp_path):
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    config["data_ingestion"]["source_URL"] = (
        "phantom:patients=120,slices=1,size=128,seed=11,lesion_mm_min=70,lesion_mm_max=90"
    )
    config["data_ingestion"]["download_dir"] = str(tmp_path / "data")
    params |= {"IMAGE_SIZE": [128, 128, 3], "VIEWS": 2, "EPOCHS": 12, "FOLD_SEEDS": [0, 1]}
    for section in config.values():
        for key, value in section.items() if isinstance(section, dict) else ():
            if isinstance(value, str) and value.startswith(("artifacts/", ".cache/")):
                section[key] = str(tmp_path / value)
    config["log_file"] = str(tmp_path / "running.log")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")

    def run(*words):
        files = ["--config", tmp_path / "config.yaml", "--params", tmp_path / "params.yaml"]
        done = subprocess.run(
            [sys.executable, ROOT / "main.py", *words, *files],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]

    def auc():
        run("crossvalidate")
        scores = json.loads(
            (tmp_path / "artifacts/crossvalidation/scores.json").read_text(encoding="utf-8")
        )
        return scores["roc_auc"]["mean"]

    for stage in ("data_ingestion", "data_validation", "prepare_base_model"):
        run("--only", stage)
    true = auc()

    path = tmp_path / "artifacts/data_validation/manifest.csv"
    entries = Manifest.read(path).entries
    shuffled = np.random.default_rng(5).permutation([entry.label for entry in entries])
    Manifest(
        tuple(replace(e, label=str(label)) for e, label in zip(entries, shuffled, strict=True))
    ).write(path)
    chance = auc()
    assert 0.35 < chance < 0.65
    assert true > 0.75, chance
