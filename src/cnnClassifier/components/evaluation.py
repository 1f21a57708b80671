"""Stage evaluation: the bundle, as it is served, on the test split; then one MLflow run."""

import csv
from typing import Any

import numpy as np

from cnnClassifier.assessment.metrics import scores
from cnnClassifier.assessment.plots import write_csv, write_pictures, write_tables
from cnnClassifier.entity.bundle import CARD_FILE, HISTORY_FILE, MODEL_FILE, ModelBundle, decide
from cnnClassifier.entity.config_entity import EvaluationConfig
from cnnClassifier.entity.manifest import Entry, Manifest
from cnnClassifier.entity.notices import DISCLAIMER, SYNTHETIC
from cnnClassifier.imaging.prepare import prepare
from cnnClassifier.network.engine import Engine
from cnnClassifier.tracking.mlflow_run import RunContent, TrackingError, log_run, without_password
from cnnClassifier.utils.common import replacing, save_json, sha256_of
from cnnClassifier.utils.errors import BundleError
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.progress import progress

SCORES_FILE = "scores.json"


class Evaluation:
    """Judge the trained bundle on images that nothing before has seen."""

    def __init__(self, config: EvaluationConfig) -> None:
        self.config = config

    def run(self) -> dict[str, Any]:
        """Write scores, tables, plots and predictions, then log them.

        Returns:
            The content of `scores.json`.

        Raises:
            BundleError: the bundle is missing, damaged, or was trained on another manifest.
            ManifestError: the test split is empty or lacks a class.
        """
        config = self.config
        bundle = ModelBundle.read(config.bundle_dir)
        manifest = Manifest.read(config.manifest_path)
        if bundle.manifest_sha256 != sha256_of(config.manifest_path):
            raise BundleError(f"{config.bundle_dir} was trained on another manifest; run training again")
        entries = manifest.of("test")
        labels = manifest.labels(entries)
        probabilities = self._probabilities(bundle, entries)
        result = self._write(bundle, entries, labels, probabilities)
        self._log(bundle, result)
        return result

    def _probabilities(self, bundle: ModelBundle, entries: list[Entry]) -> np.ndarray:
        config, engine, rows = self.config, Engine(self.config.bundle_dir), []
        for entry in progress(entries, desc="test images", unit="image"):
            data = (config.data_dir / entry.path).read_bytes()
            rows.append(engine.probabilities(prepare(data, bundle.image_size, config.max_pixels)[None])[0])
        return np.stack(rows)

    def _write(
        self, bundle: ModelBundle, entries: list[Entry], labels: np.ndarray, probabilities: np.ndarray
    ) -> dict[str, Any]:
        positive = bundle.classes.index(bundle.positive_class)
        called = decide(probabilities, positive, bundle.threshold)
        result = scores(labels, probabilities, bundle.classes, bundle.positive_class, bundle.threshold)
        result |= {"n_groups": len({entry.group for entry in entries}), "synthetic": bundle.synthetic}
        with replacing(self.config.root_dir) as staged:
            staged.mkdir()
            save_json(staged / SCORES_FILE, result)
            write_tables(staged, labels, called, probabilities[:, positive], bundle.classes, positive)
            write_csv(
                staged / "predictions.csv",
                ("path", "group", "actual", "called", *bundle.classes),
                (
                    (entry.path, entry.group, entry.label, bundle.classes[call], *(f"{p:.6f}" for p in row))
                    for entry, call, row in zip(entries, called, probabilities, strict=True)
                ),
            )
            note = f"{SYNTHETIC if bundle.synthetic else ''}\n{DISCLAIMER}".strip()
            write_pictures(staged, self.config.bundle_dir / HISTORY_FILE, result, note)
        return result

    def _log(self, bundle: ModelBundle, result: dict[str, Any]) -> None:
        config = self.config
        with (config.bundle_dir / HISTORY_FILE).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        history = {name: [float(row[name]) for row in rows] for name in rows[0] if name != "epoch"}
        reports = sorted(path for path in config.root_dir.iterdir() if path.is_file())
        content = RunContent(
            params=config.params,
            metrics={key: value for key, value in result.items() if isinstance(value, float)},
            tags={
                "model_sha256": bundle.model_sha256,
                "manifest_sha256": bundle.manifest_sha256,
                "data_source": bundle.data_source,
                "synthetic": str(bundle.synthetic),
                "intended_use": DISCLAIMER,
            },
            history=history,
            files={
                "model": [config.bundle_dir / MODEL_FILE, config.bundle_dir / CARD_FILE],
                "evaluation": reports,
                "data": [config.manifest_path],
            },
        )
        try:
            run_id = log_run(config.mlflow_uri, config.experiment, f"{bundle.backbone} {bundle.model_id}", content)
        except TrackingError as error:
            logger.error("NOT LOGGED TO MLFLOW: %s", error, exc_info=True)
            logger.warning(
                "The scores are safe in %s. To log them later: python main.py --only evaluation",
                config.root_dir / SCORES_FILE,
            )
            return
        uri = without_password(config.mlflow_uri)
        where = uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}"
        logger.info("MLflow run %s; to see it: %s", run_id, where)
