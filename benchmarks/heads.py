"""Which boundary, head and settings: grouped cross-validation of one change at a time against params.yaml.

Needs the stages up to data_validation (`make pipeline`). All cases share the project's feature cache.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import table

CASES: dict[str, dict[str, Any]] = {
    "as in params.yaml": {},
    "block5_pool": {"FEATURE_LAYER": "block5_pool"},
    "average pooling": {"HEAD": "average"},
    "block5_pool, average pooling": {"FEATURE_LAYER": "block5_pool", "HEAD": "average"},
    "flatten": {"HEAD": "flatten"},
    "no augmentation": {"AUGMENTATION": False},
    "flips alone": {
        "ROTATION_RANGE": 0,
        "SHIFT_RANGE": 0,
        "SHEAR_RANGE": 0,
        "ZOOM_RANGE": 0,
        "VIEWS": 4,
    },
    "6 views": {"VIEWS": 6},
    "learning rate 0.0003": {"LEARNING_RATE": 0.0003},
    "learning rate 0.003": {"LEARNING_RATE": 0.003},
    "dropout 0": {"DROPOUT": 0},
    "dropout 0.5": {"DROPOUT": 0.5},
    "batches of 32": {"BATCH_SIZE": 32},
    "no class weights": {"CLASS_WEIGHTS": None},
    "random weights": {"WEIGHTS": None},
}


def main() -> None:
    """Cross-validate every case and print a table, best balanced accuracy first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    arguments = parser.parse_args()
    rows = []
    for case in arguments.cases:
        with tempfile.TemporaryDirectory() as name:
            start = time.perf_counter()
            found = crossvalidate(Path(name), CASES[case] | {"FOLD_SEEDS": arguments.seeds})
            seconds = time.perf_counter() - start
        figures = [
            f"{found[key]['mean']:.3f} ± {found[key]['std']:.3f}"
            for key in ("balanced_accuracy", "roc_auc")
        ]
        rows.append((case, *figures, f"{found['loss']['mean']:.3f}", f"{seconds:.0f}"))
        print(*rows[-1], sep="  ", file=sys.stderr, flush=True)
    rows.sort(key=lambda row: row[1], reverse=True)
    print(table(("one change", "balanced accuracy", "ROC AUC", "log loss", "s"), rows))


def crossvalidate(folder: Path, change: dict[str, Any]) -> dict[str, Any]:
    """Run prepare_base_model and crossvalidate with changed params, and return the scores."""
    config = yaml.safe_load(Path("config/config.yaml").read_text(encoding="utf-8"))
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8")) | change
    config["log_file"] = str(folder / "running.log")
    config["crossvalidation"]["root_dir"] = str(folder / "crossvalidation")
    for key in ("base_model_path", "updated_base_model_path"):
        config["prepare_base_model"][key] = str(folder / f"{key}.keras")
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    for step in (["--only", "prepare_base_model"], ["crossvalidate"]):
        command = [
            sys.executable,
            "main.py",
            *step,
            "--config",
            f"{folder}/config.yaml",
            "--params",
            f"{folder}/params.yaml",
        ]
        subprocess.run(
            command, check=True, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": "src"}
        )
    return json.loads((folder / "crossvalidation" / "scores.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
