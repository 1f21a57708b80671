"""Stage evaluation: evaluate the bundle, on the test split if there is one, and log the run."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cnnClassifier.entity.bundle import (
    CROSS_VALIDATION_FILE,
    FORMAT_VERSION,
    HISTORY_FILE,
    INT8_AGREEMENT_FILE,
    OUT_OF_FOLD_FILE,
    ModelBundle,
)
from cnnClassifier.entity.config_entity import EvaluationConfig
from cnnClassifier.entity.dicom_options import DicomOptions
from cnnClassifier.entity.disclaimers import SYNTHETIC
from cnnClassifier.entity.manifest import SPLITS, Entry, Manifest
from cnnClassifier.entity.prediction import InferenceResult
from cnnClassifier.evaluation.cross_validation import (
    baseline_note,
    heads_note,
    min_class_groups,
    reliability_note,
)
from cnnClassifier.evaluation.gates import check_gates
from cnnClassifier.evaluation.metrics import LabeledPredictions, compute_metrics, compute_scores
from cnnClassifier.evaluation.model_card import write_card
from cnnClassifier.evaluation.ood_samples import (
    DATA_IMAGES,
    OODSample,
    generate_ood_samples,
    ood_metrics,
)
from cnnClassifier.evaluation.plots import (
    GalleryImage,
    overlay,
    worst_predictions,
    write_plots,
    write_tables,
)
from cnnClassifier.evaluation.scores import OUT_OF_FOLD, SCORES_FILE, SPLIT_TEXTS, TEST
from cnnClassifier.evaluation.series_metrics import series_scores
from cnnClassifier.imaging.decode import SUFFIXES, decode, prepare, resize
from cnnClassifier.network.engine import Engine
from cnnClassifier.tracking.runs import Run, start_run
from cnnClassifier.tracking.store import EVALUATED, TRAINED
from cnnClassifier.utils.common import (
    atomic_write,
    load_json,
    read_numeric_csv,
    save_json,
    sha256_of,
)
from cnnClassifier.utils.errors import BundleError, GateError, ImageError, ManifestError, UserError
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.parallel import Workers
from cnnClassifier.utils.progress import progress
from cnnClassifier.utils.redaction import redact_credentials
from cnnClassifier.utils.source_files import read_bytes, reading_threads

_MIN_AGREEMENT, _MAX_AUC_DIFFERENCE = 0.99, 0.005  # int8 is served within these limits
_MAX_FALSE_POSITIVE_RATE, _MIN_DETECTION_RATE = 0.1, 0.8  # of unfamiliar images; else a warning


_MAX_OOD_SAMPLES = 500  # of a folder


class Evaluation:
    """Evaluate the trained bundle on the test split.

    Without a test split, the predictions are the out-of-fold ones of the training images: by heads
    that haven't seen the image.
    """

    def __init__(self, config: EvaluationConfig) -> None:
        self.config = config

    def run(self) -> dict[str, Any]:
        """Write scores, tables, plots and the model card, log them, then check the gates.

        Returns:
            The content of `scores.json`.

        Raises:
            BundleError: the bundle or its cross-validation is missing, damaged, or of another
                model or manifest.
            ManifestError: the test split is empty or lacks a class, or the data report is missing
                or was made for other data.
            GateError: a gate failed, and config.yaml says that this stops the pipeline.
        """
        config = self.config
        bundle = ModelBundle.read(config.bundle_dir)
        manifest = Manifest.read(config.manifest_path)
        report = self._read_report(bundle)
        tags = {"manifest_sha256": bundle.manifest_sha256, "synthetic": str(bundle.synthetic)}
        resume = {"model_sha256": bundle.model_sha256, "state": TRAINED}
        name = f"{bundle.backbone} {bundle.model_id}"
        with (
            config.parallel.connect() as workers,
            start_run(config.tracking, name, tags, resume) as run,
        ):
            run.log_model(config.bundle_dir)  # uploaded in the background
            has_test = any(entry.split == "test" for entry in manifest.entries)
            entries = manifest.in_split("test" if has_test else "train")
            labels = manifest.labels(entries)
            engine = Engine(bundle, shared_path=workers.shared_path("model.zip"))
            served, inference = self._predict(workers, engine, entries, labels)
            predictions = served if has_test else self._read_out_of_fold(bundle, entries)
            images = pd.DataFrame(entries)
            samples = self._ood_samples()
            distances = _distance_table(engine, images["path"], inference.distances, samples)
            scores = self._score(bundle, report, predictions, distances, has_test)
            scores["gates"] = check_gates(config.gates, manifest, report, scores)
            if bundle.int8_sha256:
                int8, _ = self._predict(workers, Engine(bundle, int8=True), entries, labels)
                scores["int8"] = _compare_int8(bundle, served, int8)
            gallery = self._gallery(bundle, entries, predictions, inference)
            with atomic_write(config.root_dir) as folder:
                folder.mkdir()
                save_json(folder / SCORES_FILE, scores)
                if "int8" in scores:
                    save_json(folder / INT8_AGREEMENT_FILE, scores["int8"])
                images = images.join(distances.drop(columns=["kind", "name"]))
                write_tables(folder, predictions, bundle.classes, images, distances)
                notices = [SYNTHETIC if bundle.synthetic else "", config.project.disclaimer]
                note = "\n".join(notices).strip()
                write_plots(folder, config.bundle_dir / HISTORY_FILE, scores, gallery, note)
                write_card(folder, bundle, scores, report, config, gallery)
            run.log_datasets(manifest, bundle.data_source, SPLITS)
            self._log(run, bundle, scores)
        logger.info(
            "ROC AUC %.3f on the %s: `python main.py scores` shows all scores, %s the errors",
            *(scores["roc_auc"], SPLIT_TEXTS[scores["split"]], config.root_dir / "MODEL_CARD.html"),
        )
        self._apply_gates(scores["gates"])
        return scores

    def _ood_samples(self) -> list[OODSample]:
        """Return images of other kinds: of the configured folder, or generated ones."""
        config = self.config
        if config.ood_samples == "auto":
            return list(generate_ood_samples(photographs=config.project.is_medical))
        folder = Path(config.ood_samples)
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not paths:
            raise UserError(
                f"{folder}: no image; set evaluation.ood_samples in config.yaml to a folder of "
                "images of other kinds, or to auto"
            )
        samples = []
        for path in paths[:_MAX_OOD_SAMPLES]:
            try:
                pixels = decode(path.read_bytes(), config.max_pixels).pixels
            except ImageError as error:
                raise UserError(f"{path}: {error}; remove it from evaluation.ood_samples") from None
            name = path.relative_to(folder).as_posix()
            samples.append(OODSample(path.parent.name, name, pixels))
        return samples

    def _read_report(self, bundle: ModelBundle) -> dict[str, Any]:
        """Read data_report.json, and check that bundle and report are of this manifest."""
        config, path = self.config, self.config.report_path
        if bundle.manifest_sha256 != sha256_of(config.manifest_path):
            raise BundleError(
                f"{config.bundle_dir} was trained on another manifest; run training again"
            )
        try:
            report: dict[str, Any] = load_json(path)
        except FileNotFoundError:
            raise ManifestError(f"{path} is missing; run data_validation first") from None
        except ValueError as error:
            raise ManifestError(f"{path}: damaged ({error}); run data_validation again") from None
        if report.get("manifest_sha256", bundle.manifest_sha256) != bundle.manifest_sha256:
            raise ManifestError(f"{path} was made for another manifest; run data_validation again")
        return report

    def _read_cross_validation(self, bundle: ModelBundle) -> dict[str, Any]:
        path = bundle.bundle_dir / CROSS_VALIDATION_FILE
        try:
            content: dict[str, Any] = load_json(path)
            if content["model_sha256"] != bundle.model_sha256:
                raise ValueError("it is of another model")
        except (OSError, ValueError, KeyError) as error:
            raise _unusable(path, error) from None
        return content

    def _read_out_of_fold(self, bundle: ModelBundle, entries: list[Entry]) -> LabeledPredictions:
        """Return training's predictions of images by heads that haven't seen them."""
        path = bundle.bundle_dir / OUT_OF_FOLD_FILE
        try:
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
            if table["sha256"].tolist() != [entry.sha256 for entry in entries]:
                raise ValueError("it has other images")
            return LabeledPredictions.from_table(table, bundle.classes, bundle.positive_class)
        except (OSError, ValueError, KeyError) as error:
            raise _unusable(path, error) from None

    def _predict(
        self, workers: Workers, engine: Engine, entries: list[Entry], labels: np.ndarray
    ) -> tuple[LabeledPredictions, InferenceResult]:
        """Return the model's predictions, and its other outputs."""
        data_dir = self.config.data_dir.absolute()
        predict = partial(_predict_images, engine, data_dir, self.config.max_pixels)
        results = workers.map(predict, entries, threads=reading_threads(data_dir))
        bar = progress(results, total=len(entries), desc=f"images ({engine.name})", unit="image")
        inference = InferenceResult.concatenate(bar)
        predictions = LabeledPredictions.create(
            labels,
            inference.probabilities,
            inference.predicted,
            [entry.group for entry in entries],
            engine.bundle.positive_index,
        )
        return predictions, inference

    def _score(
        self,
        bundle: ModelBundle,
        report: dict[str, Any],
        predictions: LabeledPredictions,
        distances: pd.DataFrame,
        has_test: bool,
    ) -> dict[str, Any]:
        cross_validation = self._read_cross_validation(bundle)
        test_groups = min_class_groups(predictions) if has_test else None
        notes = {
            "note": reliability_note(test_groups, cross_validation),
            "baseline_note": baseline_note(cross_validation),
            "heads_note": heads_note(cross_validation),
        }
        samples, seed = self.config.bootstrap_samples, self.config.seed
        points = bundle.operating_points
        scores = compute_scores(predictions, bundle.classes, points, samples, seed)
        project = self.config.project
        series = series_scores(predictions, bundle.threshold, project.group_term, samples, seed)
        ood = ood_metrics(distances, predictions.groups, bundle.ood_threshold)
        warnings = list(report.get("warnings", []))
        false_positives, detected = ood["false_positive_rate"], ood["detection_rate"]
        if false_positives > _MAX_FALSE_POSITIVE_RATE:
            warnings.append(f"{false_positives:.0%} of the images look unfamiliar.")
        if detected < _MIN_DETECTION_RATE:
            warnings.append(f"Only {detected:.0%} of the images of other kinds look unfamiliar.")
        if series and series["n_mixed"]:
            warnings.append(
                f"{series['n_mixed']} of {series['n_groups']} {project.groups} have images of "
                f"several classes; they are left out of the metrics per {project.group_term}."
            )
        return {
            **scores,
            "split": TEST if has_test else OUT_OF_FOLD,
            "cross_validation": cross_validation | notes,
            "series": series,
            "out_of_distribution": ood,
            "warnings": warnings,
            "synthetic": bundle.synthetic,
            "disclaimer": project.disclaimer,
            "model_sha256": bundle.model_sha256,
            "format_version": FORMAT_VERSION,
        }

    def _gallery(
        self,
        bundle: ModelBundle,
        entries: list[Entry],
        predictions: LabeledPredictions,
        inference: InferenceResult,
    ) -> list[GalleryImage]:
        gallery = []
        for index in worst_predictions(predictions, self.config.error_gallery_size):
            entry = entries[index]
            pixels = _read_image(bundle, self.config.data_dir, self.config.max_pixels, entry)
            image = GalleryImage(
                path=entry.path,
                actual=entry.label,
                predicted=bundle.classes[predictions.predicted[index]],
                probability=float(predictions.confidence[index]),
                pixels=pixels,
                overlay=overlay(pixels, inference.activation_maps[index]),
            )
            gallery.append(image)
        return gallery

    def _log(self, run: Run, bundle: ModelBundle, scores: dict[str, Any]) -> None:
        config = self.config
        history = read_numeric_csv(config.bundle_dir / HISTORY_FILE)
        del history["epoch"]
        run.log_history(history)
        metrics = {key: value for key, value in scores.items() if isinstance(value, float)}
        for key, (low, high) in scores["intervals"].items():
            metrics |= {f"{key}_low": low, f"{key}_high": high}
        for key in ("false_positive_rate", "detection_rate"):
            metrics[f"out_of_distribution_{key}"] = scores["out_of_distribution"][key]
        for key, value in (scores["series"] or {"metrics": {}})["metrics"].items():
            metrics[f"series_{key}"] = value
        run.log_metrics(metrics)
        failed = ", ".join(gate["name"] for gate in scores["gates"] if not gate["passed"])
        tags = {f"gate.{gate['name']}": gate["message"] for gate in scores["gates"]}
        tags |= {
            "model_sha256": bundle.model_sha256,
            "data_source": redact_credentials(bundle.data_source),
            "intended_use": config.project.disclaimer or "any",
            "gates_not_met": failed or "none",
            "state": EVALUATED,
        }
        run.set_tags(tags)
        plots = sorted(config.root_dir.glob("*.png"))
        run.log_artifacts(sorted(set(config.root_dir.iterdir()) - set(plots)), "evaluation")
        run.log_artifacts(plots, "plots")
        run.log_artifacts([config.manifest_path, config.report_path], "data")
        run.register_candidate()

    def _apply_gates(self, gates: list[dict[str, Any]]) -> None:
        failed = [gate for gate in gates if not gate["passed"]]
        for gate in failed:
            logger.warning("gate %s failed: %s", gate["name"], gate["message"])
        if failed and self.config.gates.stops:
            messages = " ".join(gate["message"] for gate in failed)
            raise GateError(
                f"{len(failed)} of {len(gates)} gates failed: {messages} The results are in "
                f"{self.config.root_dir}. Improve the data or the model, or change `gates` in "
                "config.yaml"
            )


def _predict_images(
    engine: Engine, data_dir: Path, max_pixels: int, entries: Sequence[Entry]
) -> list[InferenceResult]:
    results = []
    for entry in entries:
        pixels = _read_image(engine.bundle, data_dir, max_pixels, entry)
        results.append(engine.predict([pixels]))
    return results


def _read_image(bundle: ModelBundle, data_dir: Path, max_pixels: int, entry: Entry) -> np.ndarray:
    data = read_bytes(data_dir, entry.path)
    dicom_options = DicomOptions.parse(bundle.dicom_window)
    return prepare(data, bundle.image_size, max_pixels, dicom_options)


def _unusable(path: Path, error: Exception) -> BundleError:
    return BundleError(f"{path}: missing, damaged or of another model ({error}); train again")


def _distance_table(
    engine: Engine, paths: pd.Series, distances: np.ndarray, samples: list[OODSample]
) -> pd.DataFrame:
    """Return the distance of each image from the training images, see `write_tables`."""
    bundle = engine.bundle
    ood = engine.predict(resize(sample.pixels, bundle.image_size) for sample in samples)
    data_table = pd.DataFrame({"kind": DATA_IMAGES, "name": paths, "distance": distances})
    ood_table = pd.DataFrame(samples)[["kind", "name"]].assign(distance=ood.distances)
    table = pd.concat([data_table, ood_table], ignore_index=True)
    return table.assign(out_of_distribution=table["distance"] > bundle.ood_threshold)


def _compare_int8(
    bundle: ModelBundle, original: LabeledPredictions, int8: LabeledPredictions
) -> dict[str, Any]:
    """Compare the predictions of the int8 model with those of the original; accept it or not."""
    agreement = float((int8.predicted == original.predicted).mean())
    difference = compute_metrics(int8)["roc_auc"] - compute_metrics(original)["roc_auc"]
    return {
        "model_sha256": bundle.model_sha256,
        "int8_sha256": bundle.int8_sha256,
        "n": len(int8.labels),
        "agreement": round(agreement, 6),
        "auc_difference": round(difference, 6),
        "accepted": agreement >= _MIN_AGREEMENT and abs(difference) <= _MAX_AUC_DIFFERENCE,
    }
