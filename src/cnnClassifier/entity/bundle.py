"""What training leaves and serving needs: a model and what one must know to use it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnnClassifier.entity.dicom_options import parse_window
from cnnClassifier.utils.common import load_json, save_json, sha256_of
from cnnClassifier.utils.errors import BundleError

MODEL_FILE = "model.keras"
METADATA_FILE = "model.json"
REFERENCE_FILE = "reference.npz"
HISTORY_FILE = "history.csv"
BUNDLE_FILES = (
    MODEL_FILE,
    METADATA_FILE,
    REFERENCE_FILE,
)  # what serving needs; also INT8_FILE, where the card says so
INT8_FILE = "model_int8.zip"
INT8_AGREEMENT_FILE = "int8.json"


def decide(probabilities: np.ndarray, positive: int, threshold: float) -> np.ndarray:
    """Return the class that is called for each row.

    Args:
        probabilities: float, (n, classes); rows sum to 1.
        positive: column of the positive class.
        threshold: with two classes, the positive one is called at this probability or more.

    Returns:
        int, (n,). With more than two classes the most probable one.
    """
    if probabilities.shape[1] == 2:
        return np.where(probabilities[:, positive] >= threshold, positive, 1 - positive)
    return probabilities.argmax(axis=1)


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Soften (temperature above 1) or sharpen probabilities; the order of the classes stays.

    Args:
        probabilities: float, (n, classes).
        temperature: above 0.

    Returns:
        float64, (n, classes); rows sum to 1.
    """
    logits = np.log(np.clip(probabilities.astype(np.float64), 1e-7, None)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class ModelBundle:
    """The content of `model.json`, which stands beside `model.keras`.

    Attributes:
        classes: names in the order of the model's outputs.
        positive_class: the class whose probability the threshold applies to.
        image_size: (height, width, 3) that the model takes, RGB 0-255.
        temperature: softens or sharpens the model's probabilities, see `apply_temperature`.
        threshold: the positive class is called at this calibrated probability or more (two classes only).
        operating_points: thresholds by name; `default` is `threshold`.
        validation: log loss on the validation split before and after the temperature.
        feature_layer: the layer that the head stands on.
        unfamiliar_limit: an image whose distance from the reference is larger is unlike the training images.
        backbone: such as `VGG16`.
        data_source: where the training data came from.
        synthetic: whether that was the phantom generator.
        model_sha256: of `model.keras`.
        reference_sha256: of `reference.npz`.
        manifest_sha256: of the manifest that it was trained on.
        versions: of the packages that made it.
        dicom_window: that DICOM files were read with, see `reading.parse_window`.
        int8_sha256: of `model_int8.zip`, the same model calculating in int8; None where training made none.
    """

    classes: tuple[str, ...]
    positive_class: str
    image_size: tuple[int, int, int]
    temperature: float
    threshold: float
    operating_points: dict[str, float]
    validation: dict[str, float]
    feature_layer: str
    unfamiliar_limit: float
    backbone: str
    data_source: str
    synthetic: bool
    model_sha256: str
    reference_sha256: str
    manifest_sha256: str
    versions: dict[str, str]
    dicom_window: str = "auto"
    int8_sha256: str | None = None

    @property
    def model_id(self) -> str:
        """The first twelve digits of the model's sha256."""
        return self.model_sha256[:12]

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the files that belong to the bundle."""
        return (*BUNDLE_FILES, INT8_FILE) if self.int8_sha256 else BUNDLE_FILES

    def write(self, bundle_dir: Path) -> None:
        """Write `model.json` into a folder that holds `model.keras` already."""
        save_json(bundle_dir / METADATA_FILE, asdict(self))

    @classmethod
    def read(cls, bundle_dir: Path) -> "ModelBundle":
        """Read and check a bundle.

        Raises:
            BundleError: a part is missing, unreadable, or not of this model.
        """
        mend = "run `dvc repro` or `python main.py` to train one"
        for name in BUNDLE_FILES:
            if not (bundle_dir / name).is_file():
                raise BundleError(f"no trained model: {bundle_dir / name} is missing; {mend}")
        try:
            content: dict[str, Any] = load_json(bundle_dir / METADATA_FILE)
            content["classes"] = tuple(content["classes"])
            content["image_size"] = tuple(content["image_size"])
            bundle = cls(**content)
            parse_window(bundle.dicom_window)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(
                f"{bundle_dir / METADATA_FILE}: not a model's description ({error}); {mend}"
            ) from None
        if bundle.positive_class not in bundle.classes:
            raise BundleError(
                f"{bundle_dir / METADATA_FILE}: positive_class: {bundle.positive_class!r} is none of the classes; {mend}"
            )
        expected = {MODEL_FILE: bundle.model_sha256, REFERENCE_FILE: bundle.reference_sha256}
        if bundle.int8_sha256:
            expected[INT8_FILE] = bundle.int8_sha256
        for name, digest in expected.items():
            if not (bundle_dir / name).is_file() or sha256_of(bundle_dir / name) != digest:
                raise BundleError(
                    f"{bundle_dir / name} isn't the one that {METADATA_FILE} describes (its sha256); {mend}"
                )
        return bundle

    def accepts_int8(self, evaluation_dir: Path | None) -> bool:
        """Tell whether the evaluation of this very model found that its int8 form answers alike.

        Args:
            evaluation_dir: where evaluation leaves `int8.json`; None: nowhere.
        """
        if not self.int8_sha256 or not evaluation_dir:
            return False
        try:
            record = load_json(evaluation_dir / INT8_AGREEMENT_FILE)
        except (OSError, ValueError):
            return False
        wanted = {
            "model_sha256": self.model_sha256,
            "int8_sha256": self.int8_sha256,
            "accepted": True,
        }
        return isinstance(record, dict) and wanted.items() <= record.items()

    def label(self, name: str) -> str:
        """Return a class's name as people read it: `large.cell_carcinoma` becomes `Large cell carcinoma`."""
        words = name.replace("_", " ").replace(".", " ").strip()
        return words[:1].upper() + words[1:]

    def called(self, probabilities: Sequence[float]) -> str:
        """Return the name of the class that the model calls.

        Args:
            probabilities: one for each class, in the order of `classes`.

        Returns:
            Of two classes the positive one from `threshold` on, else the other; of more the most probable.
        """
        positive = self.classes.index(self.positive_class)
        return self.classes[int(decide(np.asarray([probabilities]), positive, self.threshold)[0])]
