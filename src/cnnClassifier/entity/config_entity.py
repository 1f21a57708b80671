"""One frozen dataclass for each stage: all that it needs to know, checked and typed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class DataIngestionConfig:
    """What `data_ingestion` needs; times in seconds."""

    source_URL: str
    source_sha256: str | None
    class_patterns: dict[str, str] | None
    class_count: int
    download_dir: Path
    data_dir: Path
    max_unpacked_bytes: int
    connect_timeout_s: float
    read_timeout_s: float
    retries: int


@dataclass(frozen=True)
class DataValidationConfig:
    """What `data_validation` needs; `shares` of train, validation and test sum to 1."""

    source_URL: str
    data_dir: Path
    manifest_path: Path
    report_path: Path
    group_pattern: str | None
    near_duplicate_correlation: float
    conflicts: str
    split: str
    shortcut_warning_auc: float
    min_side: int
    max_pixels: int
    dicom_window: str
    joblib_backend: str
    shares: tuple[float, float, float]
    seed: int


@dataclass(frozen=True)
class PrepareBaseModelConfig:
    """What `prepare_base_model` needs; `image_size` is (height, width, 3)."""

    base_model_path: Path
    updated_base_model_path: Path
    weights_cache: Path | None
    imagenet_sources: tuple[str, ...]
    backbone: str
    image_size: tuple[int, int, int]
    weights: str | None
    feature_layer: str
    head: str
    dropout: float
    class_count: int
    seed: int


@dataclass(frozen=True)
class AugmentationConfig:
    """Ranges of the random views: degrees, and shares of the image's sides."""

    views: int
    rotation: float
    shift: float
    shear: float
    zoom: float
    horizontal_flip: bool
    seed: int


@dataclass(frozen=True)
class FitConfig:
    """How the trainable part is fitted on the cached features."""

    epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    class_weights: str | None
    seed: int


@dataclass(frozen=True)
class TrainingConfig:
    """What `training` needs."""

    data_dir: Path
    manifest_path: Path
    updated_base_model_path: Path
    bundle_dir: Path
    cache_dir: Path
    int8: bool
    source_URL: str
    max_pixels: int
    dicom_window: str
    image_size: tuple[int, int, int]
    backbone: str
    feature_layer: str
    fine_tune_from: str | None
    precision: str
    positive_class: str
    min_sensitivity: float | None
    ood_quantile: float
    augmentation: AugmentationConfig
    fit: FitConfig


@dataclass(frozen=True)
class CrossValidationConfig:
    """What `crossvalidate` needs: all of training, and the folds; each seed is one whole cross-validation."""

    training: TrainingConfig
    root_dir: Path
    folds: int
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class GatesConfig:
    """What the model and its data must meet; None where nothing is asked.

    Attributes:
        min_images_per_class: in use, over all splits.
        min_groups_per_class: in use, over all splits.
        no_leakage: whether no content and no group may stand in two splits.
        min_roc_auc: on the test split.
        min_roc_auc_lower_bound: lower end of its interval.
        max_shortcut_auc: of what the audit measures beside the content.
        max_ece: expected calibration error on the test split.
        stops: whether a gate that isn't met stops the pipeline; else it only warns.
    """

    min_images_per_class: int | None
    min_groups_per_class: int | None
    no_leakage: bool
    min_roc_auc: float | None
    min_roc_auc_lower_bound: float | None
    max_shortcut_auc: float | None
    max_ece: float | None
    stops: bool


@dataclass(frozen=True)
class TrackingConfig:
    """Where runs go, and what stands in each.

    Attributes:
        uri: of the tracking server, or of the local store.
        experiment: that the runs belong to.
        registered_model: name that models are registered under.
        params: all of params.yaml.
    """

    uri: str
    experiment: str
    registered_model: str
    params: dict[str, object]


@dataclass(frozen=True)
class EvaluationConfig:
    """What `evaluation` needs."""

    data_dir: Path
    manifest_path: Path
    report_path: Path
    bundle_dir: Path
    root_dir: Path
    max_pixels: int
    bootstrap_samples: int
    gallery: int
    seed: int
    gates: GatesConfig
    tracking: TrackingConfig


@dataclass(frozen=True)
class ServingConfig:
    """What `app.py` needs.

    Attributes:
        bundle_dir: where training leaves its bundle.
        host: address to listen on.
        port: port to listen on; 0 for any.
        max_upload_bytes: of one image file.
        max_pixels: of one image.
        cors_origins: other origins that browsers may call from.
        max_images: in one request.
        max_concurrent_requests: how many requests hold images in memory at once.
        max_queued_requests: how many requests may wait for their turn.
        request_timeout_s: how long a request may take, its waiting included.
        rate_limit: of one client, such as `600/minute`; None for no limit.
        uncertain_margin: a probability nearer to the threshold than this is called uncertain.
        trusted_proxy: address of a reverse proxy whose X-Forwarded headers are believed.
        evaluation_dir: where the scores of the served model may stand; None where nowhere.
        int8: whether to calculate in int8 where the evaluation accepted that.
        report_path: data_report.json of the data that it was trained on, likewise.
        show_reports: whether the pages on model and data, which show pictures of the data, may be looked at.
        model_cache: where a model of the registry is kept.
        model_poll_interval_s: seconds from one look at the registry to the next.
    """

    bundle_dir: Path
    host: str
    port: int
    max_upload_bytes: int
    max_pixels: int
    cors_origins: tuple[str, ...] = ()
    max_images: int = 32
    max_concurrent_requests: int = 2
    max_queued_requests: int = 64
    request_timeout_s: float = 30.0
    rate_limit: str | None = None
    uncertain_margin: float = 0.1
    trusted_proxy: str | None = None
    evaluation_dir: Path | None = None
    int8: bool = True
    report_path: Path | None = None
    show_reports: bool = False
    model_cache: Path = Path(".cache/models")
    model_poll_interval_s: float = 10.0


@dataclass(frozen=True)
class Choice:
    """A parameter that is one of `values`."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Between:
    """A number from `low` to `high`, both included.

    Attributes:
        low: smallest.
        high: largest.
        log: whether it is drawn on a logarithmic scale.
        step: from one value to the next; None: any number, of `whole` ones each.
        whole: whether it is a whole number.
    """

    low: float
    high: float
    log: bool
    step: float | None
    whole: bool


@dataclass(frozen=True)
class SearchConfig:
    """What `search` needs.

    Attributes:
        crossvalidation: all of training, and the folds.
        prepare: how a model is prepared, for other backbones.
        params: all of params.yaml.
        params_path: of params.yaml.
        space: what is tried of each searched parameter.
        trials: how many, in all.
        metric: what decides, of the held-out images: `loss`, `roc_auc` or `balanced_accuracy`.
        folds: that a trial is judged in.
        epochs: at the most.
        storage: URL of the study.
        root_dir: for the report and the changes.
        stale_after_s: seconds without a sign of life until a trial is taken over.
    """

    crossvalidation: CrossValidationConfig
    prepare: PrepareBaseModelConfig
    params: dict[str, Any]
    params_path: Path
    space: dict[str, Choice | Between]
    trials: int
    metric: str
    folds: int
    epochs: int
    storage: str
    root_dir: Path
    stale_after_s: float
