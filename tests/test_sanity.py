"""A score must come from the labels: with shuffled labels it falls to chance."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from cnnClassifier.components.crossvalidation import CrossValidation
from cnnClassifier.config.configuration import ConfigurationManager
from cnnClassifier.entity.manifest import Manifest
from cnnClassifier.pipeline import s1_data_ingestion, s1_data_validation, s2_prepare_base_model

ROOT = Path(__file__).resolve().parents[1]
SOURCE = "phantom:patients=120,slices=1,size=128,seed=11,lesion_mm_min=70,lesion_mm_max=90"
PARAMS = {"IMAGE_SIZE": [128, 128, 3], "VIEWS": 2, "EPOCHS": 12, "FOLD_SEEDS": [0, 1]}


@pytest.mark.slow
def test_shuffled_labels_give_chance_and_true_ones_do_not(keras, tmp_path, monkeypatch):
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    config["data_ingestion"]["source_URL"] = SOURCE
    monkeypatch.chdir(tmp_path)
    Path("config").mkdir()
    Path("config/config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    Path("params.yaml").write_text(yaml.safe_dump(params | PARAMS), encoding="utf-8")
    manager = ConfigurationManager()
    for stage in (s1_data_ingestion, s1_data_validation, s2_prepare_base_model):
        stage.main(manager)
    crossvalidation = CrossValidation(manager.crossvalidation())
    true = crossvalidation.run()["roc_auc"]["mean"]

    path = manager.training().manifest_path
    entries = Manifest.read(path).entries
    labels = np.random.default_rng(5).permutation([entry.label for entry in entries])
    table = pd.DataFrame(entries).assign(label=labels)
    Manifest.from_table(table).write(path)
    chance = crossvalidation.run()["roc_auc"]["mean"]
    assert 0.35 < chance < 0.65
    assert true > 0.75, chance
