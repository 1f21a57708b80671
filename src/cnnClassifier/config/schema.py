"""Every key of config.yaml, params.yaml and search.yaml, and what it may hold."""

from cnnClassifier.config.rules import (
    Rule,
    choice,
    flag,
    image_size,
    integer,
    listing,
    mapping,
    number,
    optional,
    pattern,
    rate,
    sha256,
    shares,
    span,
    storage,
    text,
    window,
)
from cnnClassifier.entity.dicom_options import WINDOWS

BACKBONES = ("VGG16", "VGG19", "ResNet50", "DenseNet121", "MobileNetV2", "EfficientNetB0")
HEADS = ("conv_max", "average", "flatten")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
_MOST_PIXELS = 178_956_970  # Pillow refuses more, whatever it's told
STORAGE = storage()

CONFIG: dict[str, Rule | dict[str, Rule]] = {
    "log_file": text(),
    "data_ingestion": {
        "source_URL": text(),
        "source_sha256": optional(sha256()),
        "classes": optional(mapping(text())),
        "download_dir": text(),
        "data_dir": text(),
        "max_unpacked_bytes": integer(1, 10**15),
        "connect_timeout_s": number(0.1, 3600),
        "read_timeout_s": number(0.1, 3600),
        "retries": integer(0, 20),
    },
    "data_validation": {
        "manifest_path": text(),
        "report_path": text(),
        "group_pattern": optional(pattern("group")),
        "near_duplicate_correlation": number(0, 1),
        "conflicts": choice("stop", "leave_out"),
        "split": choice("grouped", "as_given"),
        "shortcut_warning_auc": number(0.5, 1),
        "min_side": integer(1, 10**5),
        "max_pixels": integer(1, _MOST_PIXELS),
        "joblib_backend": choice("threading", "loky"),
    },
    "prepare_base_model": {
        "base_model_path": text(),
        "updated_base_model_path": text(),
        "weights_cache": optional(text()),
        "imagenet_sources": listing(text(), low=1),
    },
    "training": {"bundle_dir": text(), "cache_dir": text(), "int8": flag()},
    "crossvalidation": {"root_dir": text()},
    "search": {"root_dir": text(), "storage": STORAGE, "stale_after_s": number(1, 86400)},
    "evaluation": {
        "root_dir": text(),
        "mlflow_uri": text(),
        "experiment": text(),
        "registered_model": text(),
        "bootstrap_samples": integer(100, 100_000),
        "gallery": integer(0, 60),
    },
    "gates": {
        "min_images_per_class": optional(integer(1, 10**9)),
        "min_groups_per_class": optional(integer(1, 10**9)),
        "no_leakage": flag(),
        "min_roc_auc": optional(number(0, 1)),
        "min_roc_auc_lower_bound": optional(number(0, 1)),
        "max_shortcut_auc": optional(number(0, 1)),
        "max_ece": optional(number(0, 1)),
        "on_failure": choice("stop", "warn"),
    },
    "serving": {
        "host": text(),
        "port": integer(0, 65535),
        "max_upload_bytes": integer(1, 10**10),
        "max_pixels": integer(1, _MOST_PIXELS),
        "max_images": integer(1, 1000),
        "max_concurrent_requests": optional(integer(1, 256)),
        "max_queued_requests": integer(0, 1000),
        "request_timeout_s": number(1, 3600),
        "rate_limit": optional(rate()),
        "uncertain_margin": number(0, 0.5),
        "trusted_proxy": optional(text()),
        "cors_origins": listing(text()),
        "model_cache": text(),
        "model_poll_interval_s": number(0.1, 86400),
        "show_reports": flag(),
        "int8": flag(),
    },
}

PARAMS: dict[str, Rule | dict[str, Rule]] = {
    "SEED": integer(0, 2**31 - 1),
    "CLASSES": integer(2, 1000),
    "POSITIVE_CLASS": text(),
    "MIN_SENSITIVITY": optional(number(0.01, 1)),
    "OOD_QUANTILE": number(0.5, 1),
    "SPLIT": shares(),
    "FOLDS": integer(3, 100),
    "FOLD_SEEDS": listing(integer(0, 2**31 - 1), low=1),
    "BACKBONE": choice(*BACKBONES),
    "IMAGE_SIZE": image_size(),
    "DICOM_WINDOW": window("auto", *WINDOWS),
    "INCLUDE_TOP": flag(),
    "WEIGHTS": optional(text()),
    "FEATURE_LAYER": text(),
    "FINE_TUNE_FROM": optional(text()),
    "HEAD": choice(*HEADS),
    "DROPOUT": number(0, 0.95),
    "EPOCHS": integer(1, 10000),
    "PATIENCE": integer(1, 10000),
    "BATCH_SIZE": integer(1, 4096),
    "LEARNING_RATE": number(1e-8, 10),
    "CLASS_WEIGHTS": optional(choice("balanced")),
    "PRECISION": choice(*PRECISIONS),
    "AUGMENTATION": flag(),
    "VIEWS": integer(1, 100),
    "ROTATION_RANGE": number(0, 180),
    "SHIFT_RANGE": number(0, 1),
    "SHEAR_RANGE": number(0, 89),
    "ZOOM_RANGE": number(0, 0.9),
    "HORIZONTAL_FLIP": flag(),
}

SEARCHED = ("LEARNING_RATE", "BATCH_SIZE", "HEAD", "DROPOUT", "VIEWS", "FINE_TUNE_FROM", "BACKBONE")
SEARCH: dict[str, Rule | dict[str, Rule]] = {
    "trials": integer(1, 10**6),
    "metric": choice("loss", "roc_auc", "balanced_accuracy"),
    "folds": integer(1, 100),
    "epochs": integer(1, 10000),
    "space": {
        key: span(rule)
        for key, rule in PARAMS.items()
        if key in SEARCHED and isinstance(rule, Rule)
    },
}
