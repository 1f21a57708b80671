"""The bundle: what training writes and serving reads, a model and all that is needed to use it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cnnClassifier.entity.dicom_options import parse_window
from cnnClassifier.entity.drift import DriftReference
from cnnClassifier.utils.common import load_json, save_json, sha256_of
from cnnClassifier.utils.errors import BundleError

# Of bundles, scores.json and registry entries; raise it when an old one can't be used.
FORMAT_VERSION = 3
MODEL_FILE = "model.keras"
METADATA_FILE = "model.json"
OOD_DETECTOR_FILE = "ood_detector.npz"
HISTORY_FILE = "history.csv"
OUT_OF_FOLD_FILE = "out_of_fold.csv"
CROSS_VALIDATION_FILE = "cross_validation.json"
INT8_FILE = "model_int8.zip"  # only where training made it
INT8_AGREEMENT_FILE = "int8.json"
BUNDLE_FILES = (MODEL_FILE, METADATA_FILE, OOD_DETECTOR_FILE)  # what serving needs
_HINT = "run `dvc repro` or `python main.py` to train one"


def check_format_version(content: Mapping[str, Any], source: object) -> None:
    """Check that a file or registry entry has the format of this version.

    Args:
        content: what was read; version 1 wrote no `format_version`.
        source: where it was read from, for the message.

    Raises:
        BundleError: another version made it.
    """
    version = content.get("format_version", 1)
    if str(version) != str(FORMAT_VERSION):  # MLflow's tags are texts
        raise BundleError(f"{source}: made by version {version!s:.20}; run dvc repro")


def apply_threshold(
    probabilities: np.ndarray, positive: int | None, threshold: float | None
) -> np.ndarray:
    """Return the predicted class of each row.

    Args:
        probabilities: float, (n, classes); rows sum to 1.
        positive: index of the positive class; with two classes there is one.
        threshold: with two classes, the positive one is predicted from this probability on.

    Returns:
        int, (n,). With more than two classes the most probable one.
    """
    if probabilities.shape[1] == 2 and positive is not None and threshold is not None:
        return np.where(probabilities[:, positive] >= threshold, positive, 1 - positive)
    return probabilities.argmax(axis=1)


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Scale the logits by a temperature (Guo et al. 2017); the order of the classes stays.

    Args:
        probabilities: float, (n, classes).
        temperature: above 0; above 1 softens, below 1 sharpens.

    Returns:
        float64, (n, classes); rows sum to 1.
    """
    return _softmax(_log(probabilities) / temperature)


def pool_probabilities(
    probabilities: np.ndarray, groups: Sequence[str] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Combine the images of each group: the mean of their log probabilities, then softmax.

    With two classes this is the mean of the log odds. One very certain image can't decide alone,
    and a group with many images is no more certain than one with few: they aren't independent.

    Args:
        probabilities: float, (n, classes).
        groups: name or number of the group of each image, (n,).

    Returns:
        The groups, sorted, (g,), and their probabilities, float64 (g, classes); rows sum to 1.
    """
    names, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
    means = np.zeros((len(names), probabilities.shape[1]))
    np.add.at(means, index, _log(probabilities))
    return names, _softmax(means / counts[:, np.newaxis])


def _log(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.clip(probabilities.astype(np.float64), 1e-7, None))


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def heads_disagreement(probabilities: np.ndarray) -> np.ndarray:
    """Return how much heads disagree on each image.

    Args:
        probabilities: float, (n, heads, classes).

    Returns:
        float, (n,): the standard deviation of a class's probability over the heads, of the class
        where it is largest; 0 with a single head.
    """
    if probabilities.shape[1] == 1:
        return np.zeros(len(probabilities), probabilities.dtype)
    return probabilities.std(axis=1, ddof=1).max(axis=1)


class HeadKind(BaseModel):
    """The heads of a kind in a model.

    Attributes:
        weight: of their mean in the model's output; the weights of all kinds sum to 1.
        temperature: that their logits are divided by, inside the model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    weight: float = Field(gt=0, le=1)
    temperature: float = Field(gt=0)


class ModelBundle(BaseModel):
    """The content of `model.json`, and the folder that it describes.

    Attributes:
        format_version: see `FORMAT_VERSION`.
        classes: names in the order of the model's outputs.
        positive_class: the class whose probability the threshold applies to.
        image_size: (height, width, 3) of the model's input, RGB 0-255.
        heads: the kinds of head by name, in the order of the model's output per head.
        temperature: of the model's output, see `apply_temperature`: the mean of the heads needs
            another one than each of them.
        threshold: see `apply_threshold`; of calibrated probabilities.
        operating_points: thresholds by name; `default` is `threshold`.
        calibration: number of images that decided on temperature and threshold, and their log loss
            before and after the calibration of the model's output.
        max_disagreement: of the heads, see `heads_disagreement`; above it a prediction is
            uncertain. None: there is one head, or one repeat of the folds.
        feature_layer: the layer that the local heads see.
        ood_threshold: an image with a larger distance is out of distribution.
        backbone: such as `VGG16`.
        data_source: URL of the training data.
        synthetic: whether that was a generator of synthetic images.
        model_sha256: of `model.keras`.
        ood_detector_sha256: of `ood_detector.npz`.
        manifest_sha256: of the manifest that the model was trained on.
        versions: of the packages that made it.
        dicom_window: that DICOM files were decoded with, see `parse_window`.
        int8_sha256: of `model_int8.zip`, the same model in int8; None where there is none.
        drift_reference: what served images are compared with; None if an older version trained it.
        bundle_dir: the folder; not in `model.json`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format_version: int = FORMAT_VERSION
    classes: tuple[str, ...] = Field(min_length=2)
    positive_class: str | None
    image_size: tuple[int, int, int]
    heads: dict[str, HeadKind] = Field(min_length=1)
    temperature: float = Field(gt=0)
    threshold: float | None
    operating_points: dict[str, float]
    calibration: dict[str, int | float]
    max_disagreement: float | None
    feature_layer: str
    ood_threshold: float
    backbone: str
    data_source: str
    synthetic: bool
    model_sha256: str
    ood_detector_sha256: str
    manifest_sha256: str
    versions: dict[str, str]
    dicom_window: str = "auto"
    int8_sha256: str | None = None
    drift_reference: DriftReference | None = None
    bundle_dir: Path = Field(default=Path(), exclude=True)

    @model_validator(mode="after")
    def _check_values(self) -> Self:
        parse_window(self.dicom_window)
        if len(self.classes) > 2 and self.positive_class is None:
            return self
        if self.positive_class not in self.classes:
            raise ValueError(f"positive_class: {self.positive_class!r} is none of the classes")
        return self

    @classmethod
    def read(cls, bundle_dir: Path) -> "ModelBundle":
        """Read a bundle and check the sha256 of each of its files.

        Raises:
            BundleError: a file is missing, unreadable, or of another model, or version 1 made it.
        """
        path = bundle_dir / METADATA_FILE
        if not path.is_file():
            raise BundleError(f"no trained model: {path} is missing; {_HINT}")
        try:
            content = dict(load_json(path))
            check_format_version(content, path)
            bundle = cls.model_validate({**content, "bundle_dir": bundle_dir})
        except (OSError, ValueError, TypeError) as error:
            reason = _first_message(error) if isinstance(error, ValidationError) else error
            raise BundleError(f"{path}: invalid model description ({reason}); {_HINT}") from None
        for name, expected in bundle.file_hashes.items():
            if not (bundle_dir / name).is_file():
                raise BundleError(f"no trained model: {bundle_dir / name} is missing; {_HINT}")
            try:
                found = sha256_of(bundle_dir / name)
            except OSError as error:  # perhaps another folder has just replaced this one
                raise BundleError(f"{bundle_dir / name}: {error.strerror}; {_HINT}") from None
            if found != expected:
                raise BundleError(
                    f"{bundle_dir / name} isn't the one that {METADATA_FILE} describes "
                    f"(its sha256); {_HINT}"
                )
        return bundle

    def write(self, bundle_dir: Path) -> None:
        """Write `model.json` into a folder that holds the other files already."""
        save_json(bundle_dir / METADATA_FILE, self.model_dump(mode="json"))

    @property
    def model_id(self) -> str:
        """The first twelve digits of the model's sha256."""
        return self.model_sha256[:12]

    @property
    def file_hashes(self) -> dict[str, str]:
        """The expected sha256 of each file beside `model.json`."""
        hashes = {MODEL_FILE: self.model_sha256, OOD_DETECTOR_FILE: self.ood_detector_sha256}
        if self.int8_sha256:
            hashes[INT8_FILE] = self.int8_sha256
        return hashes

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the files that belong to the bundle."""
        return (METADATA_FILE, *self.file_hashes)

    @property
    def positive_index(self) -> int | None:
        """Index of the positive class among the model's outputs, if there is one."""
        return self.classes.index(self.positive_class) if self.positive_class else None

    def disagreement(self, of_heads: np.ndarray) -> np.ndarray:
        """Return how much the folds disagree on each image, see `heads_disagreement`.

        Args:
            of_heads: probabilities, (n, heads, classes): the heads of the first kind, one for each
                fold, then those of the second.
        """
        count, heads, classes = of_heads.shape
        by_kind = of_heads.reshape(count, len(self.heads), heads // len(self.heads), classes)
        weights = np.array([kind.weight for kind in self.heads.values()], np.float32)
        return heads_disagreement(np.einsum("nkfc,k->nfc", by_kind, weights))

    def accepts_int8(self, evaluation_dir: Path | None) -> bool:
        """Return whether evaluation accepted the int8 form of this very model.

        Args:
            evaluation_dir: the folder with evaluation's `int8.json`; None: there is none.
        """
        if not self.int8_sha256 or not evaluation_dir:
            return False
        try:
            agreement = load_json(evaluation_dir / INT8_AGREEMENT_FILE)
        except (OSError, ValueError):
            return False
        expected = {
            "model_sha256": self.model_sha256,
            "int8_sha256": self.int8_sha256,
            "accepted": True,
        }
        return isinstance(agreement, dict) and expected.items() <= agreement.items()

    def label(self, name: str) -> str:
        """Return a class's display name: `large.cell_carcinoma` becomes `Large cell carcinoma`."""
        # A dot between digits, as in `3.5 mm`, stays.
        words = re.sub(r"(?<!\d)\.|\.(?!\d)", " ", name.replace("_", " ")).strip()
        return words[:1].upper() + words[1:]


def is_uncertain(
    probabilities: Mapping[str, float], disagreement: float, bundle: ModelBundle, margin: float
) -> bool:
    """Return whether another class is almost as probable, or the heads disagree.

    Args:
        probabilities: of each class of `bundle`.
        disagreement: of the heads; compared with the bundle's limit, if it has one.
        bundle: with two classes, the positive one's probability is compared with its threshold;
            with more, the two highest with each other.
        margin: a smaller difference is uncertain.
    """
    if bundle.max_disagreement is not None and disagreement > bundle.max_disagreement:
        return True
    if bundle.positive_class and bundle.threshold is not None:
        return abs(probabilities[bundle.positive_class] - bundle.threshold) < margin
    second, highest = sorted(probabilities.values())[-2:]
    return highest - second < margin


def _first_message(error: ValidationError) -> str:
    """Return the first of pydantic's messages in one line, without the value."""
    first = error.errors(include_url=False, include_input=False)[0]
    key = ".".join(map(str, first["loc"]))
    return f"{key}: {first['msg']}" if key else first["msg"]
