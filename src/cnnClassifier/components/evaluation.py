"""Stage evaluation: the bundle, as it is served, on the test split; then one MLflow run."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cnnClassifier.entity.bundle import HISTORY_FILE, INT8_AGREEMENT_FILE, ModelBundle
from cnnClassifier.entity.config_entity import EvaluationConfig
from cnnClassifier.entity.dicom_options import DicomOptions
from cnnClassifier.entity.disclaimers import DISCLAIMER, SYNTHETIC
from cnnClassifier.entity.manifest import SPLITS, Entry, Manifest
from cnnClassifier.entity.prediction import InferenceResult
from cnnClassifier.evaluation.gallery import Case, overlay, worst
from cnnClassifier.evaluation.gates import Gate, check_gates
from cnnClassifier.evaluation.metrics import Outcome, figures, scores
from cnnClassifier.evaluation.model_card import CardContent, write_card
from cnnClassifier.evaluation.ood_samples import familiarity, not_ct
from cnnClassifier.evaluation.plots import write_pictures, write_tables
from cnnClassifier.imaging.prepare import prepare, resize
from cnnClassifier.network.engine import Engine
from cnnClassifier.tracking.datasets import log_splits
from cnnClassifier.tracking.tracker import EVALUATED, TRAINED, Tracker, track
from cnnClassifier.utils.common import atomic_write, load_json, save_json, sha256_of, write_csv
from cnnClassifier.utils.errors import BundleError, GateError, ManifestError
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.progress import progress
from cnnClassifier.utils.redaction import redact_credentials

SCORES_FILE = "scores.json"
_MIN_AGREEMENT, _MAX_AUC_DIFFERENCE = 0.99, 0.005  # for int8 to be served instead
_MANY_ALARMS, _FEW_FOUND = (
    0.1,
    0.8,
)  # shares from which the limit for unfamiliar images is warned of


@dataclass(frozen=True)
class _Seen:
    """What was looked at and what the model says of it."""

    entries: list[Entry]
    outcome: Outcome
    inspection: InferenceResult
    kinds: list[str]  # of the pictures that are no CT
    names: list[str]
    distances: np.ndarray


class Evaluation:
    """Judge the trained bundle on images that nothing before has seen."""

    def __init__(self, config: EvaluationConfig) -> None:
        self.config = config

    def run(self) -> dict[str, Any]:
        """Write scores, tables, plots, predictions and the model card, then log them, then heed the gates.

        Returns:
            The content of `scores.json`.

        Raises:
            BundleError: the bundle is missing, damaged, or was trained on another manifest.
            ManifestError: the test split is empty or lacks a class, or the data's report is missing or of other data.
            GateError: a gate isn't met, and config.yaml says that this stops the pipeline.
        """
        config = self.config
        bundle = ModelBundle.read(config.bundle_dir)
        manifest = Manifest.read(config.manifest_path)
        if bundle.manifest_sha256 != sha256_of(config.manifest_path):
            raise BundleError(
                f"{config.bundle_dir} was trained on another manifest; run training again"
            )
        report = self._report(bundle)
        tags = {"manifest_sha256": bundle.manifest_sha256, "synthetic": str(bundle.synthetic)}
        resume = {"model_sha256": bundle.model_sha256, "state": TRAINED}
        with track(
            config.tracking, f"{bundle.backbone} {bundle.model_id}", tags, resume
        ) as tracker:
            tracker.model(config.bundle_dir)  # while it is judged
            seen = self._look(bundle, manifest)
            result = self._judge(bundle, report, seen)
            gates = check_gates(config.gates, manifest, report, result)
            result["gates"] = [asdict(gate) for gate in gates]
            if bundle.int8_sha256:
                result["int8"] = self._compare_int8(bundle, manifest, seen)
            self._write(bundle, report, seen, result)
            log_splits(tracker, manifest, bundle.data_source, *SPLITS)
            self._log(tracker, bundle, result)
        self._heed(gates)
        return result

    def _report(self, bundle: ModelBundle) -> dict[str, Any]:
        path = self.config.report_path
        try:
            report: dict[str, Any] = load_json(path)
        except FileNotFoundError:
            raise ManifestError(f"{path} is missing; run data_validation first") from None
        except ValueError as error:
            raise ManifestError(f"{path}: damaged ({error}); run data_validation again") from None
        if report.get("manifest_sha256", bundle.manifest_sha256) != bundle.manifest_sha256:
            raise ManifestError(f"{path} is of another manifest; run data_validation again")
        return report

    def _look(self, bundle: ModelBundle, manifest: Manifest) -> _Seen:
        entries = manifest.in_split("test")
        engine = Engine(bundle)
        shown = progress(entries, desc="test images", unit="image")
        inspection = engine.predict(self._pixels(bundle, entry) for entry in shown)
        pictures = list(not_ct())
        others = engine.predict(resize(picture.pixels, bundle.image_size) for picture in pictures)
        return _Seen(
            entries,
            _outcome(bundle, manifest, entries, inspection),
            inspection,
            [picture.kind for picture in pictures],
            [picture.name for picture in pictures],
            others.distances,
        )

    def _compare_int8(self, bundle: ModelBundle, manifest: Manifest, seen: _Seen) -> dict[str, Any]:
        """Return how alike the int8 form answers on the test split, and whether that will do."""
        engine = Engine(bundle, int8=True)
        shown = progress(seen.entries, desc="test images in int8", unit="image")
        inspection = engine.predict(self._pixels(bundle, entry) for entry in shown)
        outcome = _outcome(bundle, manifest, seen.entries, inspection)
        agreement = float((outcome.called == seen.outcome.called).mean())
        difference = figures(outcome)["roc_auc"] - figures(seen.outcome)["roc_auc"]
        return {
            "model_sha256": bundle.model_sha256,
            "int8_sha256": bundle.int8_sha256,
            "n": len(seen.entries),
            "agreement": round(agreement, 6),
            "auc_difference": round(difference, 6),
            "accepted": agreement >= _MIN_AGREEMENT and abs(difference) <= _MAX_AUC_DIFFERENCE,
        }

    def _pixels(self, bundle: ModelBundle, entry: Entry) -> np.ndarray:
        data = (self.config.data_dir / entry.path).read_bytes()
        return prepare(
            data, bundle.image_size, self.config.max_pixels, DicomOptions.parse(bundle.dicom_window)
        )

    def _judge(self, bundle: ModelBundle, report: dict[str, Any], seen: _Seen) -> dict[str, Any]:
        config = self.config
        result = scores(
            seen.outcome,
            bundle.classes,
            bundle.operating_points,
            config.bootstrap_samples,
            config.seed,
        )
        found = familiarity(
            seen.inspection.distances, seen.kinds, seen.distances, bundle.ood_threshold
        )
        warnings = list(report.get("warnings", []))
        if found["false_alarm_rate"] > _MANY_ALARMS:
            warnings.append(
                f"{found['false_alarm_rate']:.0%} of the test images look unfamiliar to the model."
            )
        if found["detection_rate"] < _FEW_FOUND:
            warnings.append(
                f"Only {found['detection_rate']:.0%} of pictures that are no CT look unfamiliar to the model."
            )
        figures = {key: value for key, value in result.items() if isinstance(value, int | float)}
        facts = {"synthetic": bundle.synthetic, "model_sha256": bundle.model_sha256}
        return figures | facts | result | {"unfamiliar": found, "warnings": warnings}

    def _write(
        self, bundle: ModelBundle, report: dict[str, Any], seen: _Seen, result: dict[str, Any]
    ) -> None:
        config, outcome, inspection = self.config, seen.outcome, seen.inspection
        far = inspection.distances > bundle.ood_threshold
        cases = [
            self._case(bundle, seen, place) for place in worst(outcome, config.error_gallery_size)
        ]
        with atomic_write(config.root_dir) as staged:
            staged.mkdir()
            save_json(staged / SCORES_FILE, result)
            if "int8" in result:
                save_json(staged / INT8_AGREEMENT_FILE, result["int8"])
            rows = zip(
                ["test images"] * len(seen.entries) + seen.kinds,
                [entry.path for entry in seen.entries] + seen.names,
                [*inspection.distances, *seen.distances],
                [*far, *(seen.distances > bundle.ood_threshold)],
                strict=True,
            )
            write_tables(staged, outcome, bundle.classes, rows)
            write_csv(
                staged / "predictions.csv",
                (
                    "path",
                    "sha256",
                    "group",
                    "actual",
                    "called",
                    *bundle.classes,
                    "distance",
                    "unfamiliar",
                ),
                (
                    (
                        entry.path,
                        entry.sha256,
                        entry.group,
                        entry.label,
                        bundle.classes[outcome.called[place]],
                        *(f"{p:.6f}" for p in inspection.probabilities[place]),
                        f"{inspection.distances[place]:.4f}",
                        far[place],
                    )
                    for place, entry in enumerate(seen.entries)
                ),
            )
            note = f"{SYNTHETIC if bundle.synthetic else ''}\n{DISCLAIMER}".strip()
            write_pictures(staged, config.bundle_dir / HISTORY_FILE, result, cases, note)
            write_card(
                staged,
                CardContent(
                    bundle, result, report, config.tracking.params, config.bootstrap_samples, cases
                ),
            )

    def _case(self, bundle: ModelBundle, seen: _Seen, place: int) -> Case:
        entry, called = seen.entries[place], int(seen.outcome.called[place])
        pixels = self._pixels(bundle, entry)
        return Case(
            path=entry.path,
            true=entry.label,
            called=bundle.classes[called],
            probability=float(seen.inspection.probabilities[place, called]),
            image=pixels,
            overlay=overlay(pixels, seen.inspection.activation_maps[place]),
        )

    def _heed(self, gates: Sequence[Gate]) -> None:
        unmet = [gate for gate in gates if not gate.met]
        for gate in unmet:
            logger.warning("gate %s is not met: %s", gate.name, gate.sentence)
        if unmet and self.config.gates.stops:
            raise GateError(
                f"{len(unmet)} of {len(gates)} gates not met: {' '.join(gate.sentence for gate in unmet)} The results "
                f"are in {self.config.root_dir}. Mend the data or the model, or change `gates` in config.yaml"
            )

    def _log(self, tracker: Tracker, bundle: ModelBundle, result: dict[str, Any]) -> None:
        config = self.config
        with (config.bundle_dir / HISTORY_FILE).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        tracker.history(
            {name: [float(row[name]) for row in rows] for name in rows[0] if name != "epoch"}
        )
        tracker.metrics(
            {
                **{key: value for key, value in result.items() if isinstance(value, float)},
                **{f"{key}_low": low for key, (low, _) in result["intervals"].items()},
                **{f"{key}_high": high for key, (_, high) in result["intervals"].items()},
                "unfamiliar_false_alarm_rate": result["unfamiliar"]["false_alarm_rate"],
                "unfamiliar_detection_rate": result["unfamiliar"]["detection_rate"],
            }
        )
        unmet = ", ".join(gate["name"] for gate in result["gates"] if not gate["met"]) or "none"
        tracker.tags(
            {
                "model_sha256": bundle.model_sha256,
                "data_source": redact_credentials(bundle.data_source),
                "intended_use": DISCLAIMER,
                "gates_not_met": unmet,
                **{f"gate.{gate['name']}": gate["sentence"] for gate in result["gates"]},
            }
        )
        reports = sorted(path for path in config.root_dir.iterdir() if path.is_file())
        tracker.files("evaluation", [path for path in reports if path.suffix != ".png"])
        tracker.files("plots", [path for path in reports if path.suffix == ".png"])
        tracker.files("data", [config.manifest_path, config.report_path])
        tracker.register(
            config.tracking.registered_model,
            {
                "model_sha256": bundle.model_sha256,
                "synthetic": str(bundle.synthetic),
                "gates_not_met": unmet,
            },
        )
        tracker.tags({"state": EVALUATED})


def _outcome(
    bundle: ModelBundle, manifest: Manifest, entries: list[Entry], inspection: InferenceResult
) -> Outcome:
    return Outcome.of(
        manifest.labels(entries),
        inspection.probabilities,
        [entry.group for entry in entries],
        bundle.classes.index(bundle.positive_class),
        bundle.threshold,
    )
