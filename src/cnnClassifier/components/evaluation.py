"""Stage evaluation: evaluate the bundle on the test split, and log the MLflow run."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cnnClassifier.entity.bundle import HISTORY_FILE, INT8_AGREEMENT_FILE, ModelBundle, decide
from cnnClassifier.entity.config_entity import EvaluationConfig
from cnnClassifier.entity.dicom_options import DicomOptions
from cnnClassifier.entity.disclaimers import DISCLAIMER, SYNTHETIC
from cnnClassifier.entity.manifest import SPLITS, Entry, Manifest
from cnnClassifier.entity.prediction import InferenceResult
from cnnClassifier.evaluation.comparison import PREDICTIONS_FILE
from cnnClassifier.evaluation.gallery import GalleryImage, overlay, worst_predictions
from cnnClassifier.evaluation.gates import Gate, check_gates
from cnnClassifier.evaluation.metrics import LabeledPredictions, compute_metrics, compute_scores
from cnnClassifier.evaluation.model_card import CardContent, write_card
from cnnClassifier.evaluation.ood_samples import TEST_IMAGES, generate_ood_samples, ood_metrics
from cnnClassifier.evaluation.plots import write_plots, write_tables
from cnnClassifier.evaluation.scores_file import FORMAT_VERSION, SCORES_FILE
from cnnClassifier.imaging.prepare import prepare, resize
from cnnClassifier.network.engine import Engine
from cnnClassifier.tracking.datasets import log_splits
from cnnClassifier.tracking.tracker import EVALUATED, TRAINED, Tracker, track
from cnnClassifier.utils.common import (
    atomic_write,
    load_json,
    read_numeric_csv,
    save_json,
    sha256_of,
)
from cnnClassifier.utils.errors import BundleError, GateError, ManifestError
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.progress import progress
from cnnClassifier.utils.redaction import redact_credentials

_BATCH_SIZE = 8
_MIN_AGREEMENT, _MAX_AUC_DIFFERENCE = 0.99, 0.005  # int8 is served within these limits
_MAX_FALSE_POSITIVE_RATE, _MIN_DETECTION_RATE = 0.1, 0.8  # of out-of-distribution; else a warning


@dataclass(frozen=True)
class _TestResult:
    """Predictions of the model on the test split and on images that are no CT.

    Attributes:
        entries: of the manifest, in the order of `predictions`.
        predictions: on the test split.
        maps: class activation map of each test image.
        distances: a row for each image, the test images first: `kind`, `name`, `distance` from the
            training images, `out_of_distribution`.
    """

    entries: list[Entry]
    predictions: LabeledPredictions
    maps: np.ndarray
    distances: pd.DataFrame


class Evaluation:
    """Evaluate the trained bundle on the test split."""

    def __init__(self, config: EvaluationConfig) -> None:
        self.config = config

    def run(self) -> dict[str, Any]:
        """Write scores, tables, plots, predictions and the model card, log them, then check the gates.

        Returns:
            The content of `scores.json`.

        Raises:
            BundleError: the bundle is missing, damaged, or was trained on another manifest.
            ManifestError: the test split is empty or lacks a class, or the data report is missing or
                was made for other data.
            GateError: a gate failed, and config.yaml says that this stops the pipeline.
        """
        config = self.config
        bundle = ModelBundle.read(config.bundle_dir)
        manifest = Manifest.read(config.manifest_path)
        if bundle.manifest_sha256 != sha256_of(config.manifest_path):
            raise BundleError(
                f"{config.bundle_dir} was trained on another manifest; run training again"
            )
        report = _read_report(config.report_path, bundle)
        tags = {"manifest_sha256": bundle.manifest_sha256, "synthetic": str(bundle.synthetic)}
        resume = {"model_sha256": bundle.model_sha256, "state": TRAINED}
        with track(
            config.tracking, f"{bundle.backbone} {bundle.model_id}", tags, resume
        ) as tracker:
            tracker.model(config.bundle_dir)  # uploaded in the background
            result = self._predict(bundle, manifest)
            scores = self._score(bundle, report, result)
            gates = check_gates(config.gates, manifest, report, scores)
            scores["gates"] = [asdict(gate) for gate in gates]
            if bundle.int8_sha256:
                scores["int8"] = self._evaluate_int8(bundle, manifest, result)
            self._write(bundle, report, result, scores)
            log_splits(tracker, manifest, bundle.data_source, *SPLITS)
            self._log(tracker, bundle, scores)
        self._apply_gates(gates)
        return scores

    def _predict(self, bundle: ModelBundle, manifest: Manifest) -> _TestResult:
        entries = manifest.of("test")
        engine = Engine(self.config.bundle_dir)
        test = self._infer_test_images(engine, entries, "test images")
        samples = list(generate_ood_samples())
        ood = _infer(engine, (resize(sample.pixels, bundle.image_size) for sample in samples))
        distances = pd.DataFrame(
            {
                "kind": [TEST_IMAGES] * len(entries) + [sample.kind for sample in samples],
                "name": [entry.path for entry in entries] + [sample.name for sample in samples],
                "distance": np.concatenate([test.distances, ood.distances]),
            }
        )
        distances["out_of_distribution"] = distances["distance"] > bundle.unfamiliar_limit
        predictions = _label(bundle, manifest, entries, test)
        return _TestResult(entries, predictions, test.maps, distances)

    def _infer_test_images(
        self, engine: Engine, entries: Sequence[Entry], description: str
    ) -> InferenceResult:
        bar = progress(entries, desc=description, unit="image")
        return _infer(engine, (self._read_image(engine.bundle, entry) for entry in bar))

    def _read_image(self, bundle: ModelBundle, entry: Entry) -> np.ndarray:
        data = (self.config.data_dir / entry.path).read_bytes()
        options = DicomOptions.parse(bundle.dicom_window)
        return prepare(data, bundle.image_size, self.config.max_pixels, options)

    def _score(
        self, bundle: ModelBundle, report: dict[str, Any], result: _TestResult
    ) -> dict[str, Any]:
        config = self.config
        scores = compute_scores(
            result.predictions,
            bundle.classes,
            bundle.operating_points,
            config.bootstrap_samples,
            config.seed,
        )
        ood = ood_metrics(result.distances, bundle.unfamiliar_limit)
        warnings = list(report.get("warnings", []))
        if ood["false_positive_rate"] > _MAX_FALSE_POSITIVE_RATE:
            rate = f"{ood['false_positive_rate']:.0%}"
            warnings.append(f"{rate} of the test images look unfamiliar to the model.")
        if ood["detection_rate"] < _MIN_DETECTION_RATE:
            rate = f"{ood['detection_rate']:.0%}"
            warnings.append(
                f"Only {rate} of the images that are no CT look unfamiliar to the model."
            )
        return {
            **scores,
            "out_of_distribution": ood,
            "warnings": warnings,
            "synthetic": bundle.synthetic,
            "model_sha256": bundle.model_sha256,
            "format_version": FORMAT_VERSION,
        }

    def _evaluate_int8(
        self, bundle: ModelBundle, manifest: Manifest, result: _TestResult
    ) -> dict[str, Any]:
        """Compare the predictions of the int8 model with those of the original, and accept it or not."""
        engine = Engine(self.config.bundle_dir, int8=True)
        inference = self._infer_test_images(engine, result.entries, "test images (int8)")
        int8 = _label(bundle, manifest, result.entries, inference)
        agreement = float((int8.predicted == result.predictions.predicted).mean())
        original_auc = compute_metrics(result.predictions)["roc_auc"]
        difference = compute_metrics(int8)["roc_auc"] - original_auc
        return {
            "model_sha256": bundle.model_sha256,
            "int8_sha256": bundle.int8_sha256,
            "n": len(result.entries),
            "agreement": round(agreement, 6),
            "auc_difference": round(difference, 6),
            "accepted": agreement >= _MIN_AGREEMENT and abs(difference) <= _MAX_AUC_DIFFERENCE,
        }

    def _write(
        self,
        bundle: ModelBundle,
        report: dict[str, Any],
        result: _TestResult,
        scores: dict[str, Any],
    ) -> None:
        """Write the output folder, and replace the old one."""
        config = self.config
        gallery = []
        for index in worst_predictions(result.predictions, config.gallery):
            gallery.append(self._gallery_image(bundle, result, index))
        note = f"{SYNTHETIC if bundle.synthetic else ''}\n{DISCLAIMER}".strip()
        card = CardContent(
            bundle, scores, report, config.tracking.params, config.bootstrap_samples, gallery
        )
        with atomic_write(config.root_dir) as folder:
            folder.mkdir()
            save_json(folder / SCORES_FILE, scores)
            if "int8" in scores:
                save_json(folder / INT8_AGREEMENT_FILE, scores["int8"])
            _write_predictions(folder / PREDICTIONS_FILE, bundle.classes, result)
            write_tables(folder, result.predictions, bundle.classes, result.distances)
            write_plots(folder, config.bundle_dir / HISTORY_FILE, scores, gallery, note)
            write_card(folder, card)

    def _gallery_image(self, bundle: ModelBundle, result: _TestResult, index: int) -> GalleryImage:
        entry = result.entries[index]
        pixels = self._read_image(bundle, entry)
        return GalleryImage(
            path=entry.path,
            actual=entry.label,
            predicted=bundle.classes[result.predictions.predicted[index]],
            probability=float(result.predictions.confidence[index]),
            pixels=pixels,
            overlay=overlay(pixels, result.maps[index]),
        )

    def _log(self, tracker: Tracker, bundle: ModelBundle, scores: dict[str, Any]) -> None:
        config = self.config
        history = read_numeric_csv(config.bundle_dir / HISTORY_FILE)
        del history["epoch"]
        tracker.history(history)
        metrics = {key: value for key, value in scores.items() if isinstance(value, float)}
        for key, (low, high) in scores["intervals"].items():
            metrics[f"{key}_low"], metrics[f"{key}_high"] = low, high
        for key in ("false_positive_rate", "detection_rate"):
            metrics[f"out_of_distribution_{key}"] = scores["out_of_distribution"][key]
        tracker.metrics(metrics)
        failed = [gate["name"] for gate in scores["gates"] if not gate["passed"]]
        tags = {
            "model_sha256": bundle.model_sha256,
            "gates_not_met": ", ".join(failed) or "none",
        }
        details = {
            "data_source": redact_credentials(bundle.data_source),
            "intended_use": DISCLAIMER,
        }
        for gate in scores["gates"]:
            details[f"gate.{gate['name']}"] = gate["message"]
        tracker.tags(tags | details)
        plots = sorted(config.root_dir.glob("*.png"))
        tracker.files("evaluation", sorted(set(config.root_dir.iterdir()) - set(plots)))
        tracker.files("plots", plots)
        tracker.files("data", [config.manifest_path, config.report_path])
        tags["synthetic"] = str(bundle.synthetic)
        tracker.register(config.tracking.registered_model, tags)
        tracker.tags({"state": EVALUATED})

    def _apply_gates(self, gates: Sequence[Gate]) -> None:
        failed = [gate for gate in gates if not gate.passed]
        for gate in failed:
            logger.warning("gate %s failed: %s", gate.name, gate.message)
        if failed and self.config.gates.stops:
            messages = " ".join(gate.message for gate in failed)
            raise GateError(
                f"{len(failed)} of {len(gates)} gates failed: {messages} The results are in "
                f"{self.config.root_dir}. Improve the data or the model, or change `gates` in config.yaml"
            )


def _read_report(path: Path, bundle: ModelBundle) -> dict[str, Any]:
    """Read data_report.json, and check that it was made for the data of the bundle."""
    try:
        report: dict[str, Any] = load_json(path)
    except FileNotFoundError:
        raise ManifestError(f"{path} is missing; run data_validation first") from None
    except ValueError as error:
        raise ManifestError(f"{path}: damaged ({error}); run data_validation again") from None
    if report.get("manifest_sha256", bundle.manifest_sha256) != bundle.manifest_sha256:
        raise ManifestError(f"{path} was made for another manifest; run data_validation again")
    return report


def _label(
    bundle: ModelBundle, manifest: Manifest, entries: Sequence[Entry], inference: InferenceResult
) -> LabeledPredictions:
    positive = bundle.classes.index(bundle.positive_class)
    return LabeledPredictions.create(
        manifest.labels(entries),
        inference.probabilities,
        decide(inference.probabilities, positive, bundle.threshold),
        [entry.group for entry in entries],
        positive,
    )


def _infer(engine: Engine, images: Iterable[np.ndarray]) -> InferenceResult:
    """Run the model on images of one size, in small batches so that the memory is bounded."""
    iterator = iter(images)
    batches = []
    while batch := list(islice(iterator, _BATCH_SIZE)):
        batches.append(engine.inspect(np.stack(batch)))
    return InferenceResult(
        probabilities=np.concatenate([batch.probabilities for batch in batches]),
        distances=np.concatenate([batch.distances for batch in batches]),
        maps=np.concatenate([batch.maps for batch in batches]),
    )


def _write_predictions(path: Path, classes: Sequence[str], result: _TestResult) -> None:
    names = np.array(classes)
    table = pd.DataFrame(result.entries)[["path", "sha256", "group", "label"]]
    table.columns = pd.Index(["path", "sha256", "group", "actual"])
    table["predicted"] = names[result.predictions.predicted]
    probabilities = pd.DataFrame(result.predictions.probabilities.round(6), columns=names)
    distances = result.distances[["distance", "out_of_distribution"]].round(4)
    # Side by side instead of a dict: a class may have the name of another column.
    columns = [table, probabilities, distances.iloc[: len(table)]]
    pd.concat(columns, axis=1).to_csv(path, index=False, lineterminator="\n")
