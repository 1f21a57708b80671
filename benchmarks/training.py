"""Training against the usual recipe: the same images, test split and weights, in one run.

Needs the stages up to prepare_base_model (`make pipeline`). Ours starts from an empty cache.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from benchmarks.measure import run, table


def main() -> None:
    """Measure both and print a table with the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=15, help="of the usual recipe")
    arguments = parser.parse_args()
    environment = {**os.environ, "PYTHONPATH": "src", "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = yaml.safe_load(Path("config/config.yaml").read_text(encoding="utf-8"))
        params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
        config["log_file"] = str(folder / "running.log")
        config["training"] |= {
            "bundle_dir": str(folder / "bundle"),
            "cache_dir": str(folder / "cache"),
        }
        config["evaluation"] |= {
            "root_dir": str(folder / "evaluation"),
            "mlflow_uri": f"sqlite:///{folder}/mlflow.db",
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
        files = ["--config", str(folder / "config.yaml"), "--params", str(folder / "params.yaml")]
        main_py = [sys.executable, "main.py", *files, "--only"]
        ours = run([*main_py, "training"], env=environment)
        again = run([*main_py, "training"], env=environment)
        subprocess.run(
            [*main_py, "evaluation"], check=True, env={**environment, "MLFLOW_TRACKING_URI": ""}
        )
        our_scores = json.loads((folder / "evaluation" / "scores.json").read_text(encoding="utf-8"))

        manifest, data = (
            config["data_validation"]["manifest_path"],
            config["data_ingestion"]["data_dir"],
        )
        recipe = [
            sys.executable,
            "-m",
            "benchmarks.usual_recipe",
            manifest,
            data,
            "--epochs",
            str(arguments.epochs),
        ]
        answer = folder / "usual.json"
        with answer.open("w", encoding="utf-8") as file:
            usual = run(recipe, env=environment, stdout=file)
        usual_scores = json.loads(answer.read_text(encoding="utf-8").splitlines()[-1])
    rows = [
        ("usual recipe", usual, usual_scores),
        ("ours, empty cache", ours, our_scores),
        ("ours, cached", again, our_scores),
    ]
    print(
        table(
            ("training", "s", "times faster", "peak GB", "test balanced accuracy", "test ROC AUC"),
            [
                (
                    label,
                    f"{cost.seconds:.0f}",
                    f"{usual.seconds / cost.seconds:.1f}",
                    f"{cost.peak_gb:.2f}",
                    f"{scores['balanced_accuracy']:.3f}",
                    f"{scores['roc_auc']:.3f}",
                )
                for label, cost, scores in rows
            ],
        )
    )


if __name__ == "__main__":
    main()
