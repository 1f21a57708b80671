"""Every key of config.yaml and params.yaml, and what it may hold."""

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
    sha256,
    shares,
    text,
)

BACKBONES = ("VGG16", "VGG19", "ResNet50", "DenseNet121", "MobileNetV2", "EfficientNetB0")
HEADS = ("conv_max", "average", "flatten")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
_MOST_PIXELS = 178_956_970  # Pillow refuses more, whatever it's told

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
        "near_copy_bits": integer(0, 16),
        "near_copy_correlation": number(0, 1),
        "max_pixels": integer(1, _MOST_PIXELS),
    },
    "prepare_base_model": {
        "base_model_path": text(),
        "updated_base_model_path": text(),
        "weights_cache": optional(text()),
        "imagenet_sources": listing(text(), low=1),
    },
    "training": {"bundle_dir": text(), "cache_dir": text()},
    "crossvalidation": {"root_dir": text()},
    "evaluation": {
        "root_dir": text(),
        "mlflow_uri": text(),
        "experiment": text(),
        "bootstrap_draws": integer(100, 100_000),
        "gallery": integer(0, 60),
    },
    "gates": {
        "min_images_per_class": optional(integer(1, 10**9)),
        "min_groups_per_class": optional(integer(1, 10**9)),
        "no_leakage": flag(),
        "min_roc_auc": optional(number(0, 1)),
        "min_roc_auc_low": optional(number(0, 1)),
        "max_shortcut_auc": optional(number(0, 1)),
        "max_ece": optional(number(0, 1)),
        "on_failure": choice("stop", "warn"),
    },
    "serving": {
        "host": text(),
        "port": integer(0, 65535),
        "max_upload_bytes": integer(1, 10**10),
        "max_pixels": integer(1, _MOST_PIXELS),
        "cors_origins": listing(text()),
    },
}

PARAMS: dict[str, Rule | dict[str, Rule]] = {
    "SEED": integer(0, 2**31 - 1),
    "CLASSES": integer(2, 1000),
    "POSITIVE_CLASS": text(),
    "MIN_SENSITIVITY": optional(number(0.01, 1)),
    "FAMILIAR_SHARE": number(0.5, 1),
    "SPLIT": shares(),
    "FOLDS": integer(3, 100),
    "FOLD_SEEDS": listing(integer(0, 2**31 - 1), low=1),
    "BACKBONE": choice(*BACKBONES),
    "IMAGE_SIZE": image_size(),
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
