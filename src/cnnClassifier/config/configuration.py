"""The only place that reads YAML: checks it and hands out one entity for each stage."""

import os
from pathlib import Path
from typing import Any

from cnnClassifier.config.rules import Rule, is_whole
from cnnClassifier.config.schema import CONFIG, PARAMS, SEARCH, STORAGE
from cnnClassifier.entity.config_entity import (
    AugmentationConfig,
    Between,
    Choice,
    CrossValidationConfig,
    DataIngestionConfig,
    DataValidationConfig,
    EvaluationConfig,
    FitConfig,
    GatesConfig,
    PrepareBaseModelConfig,
    SearchConfig,
    ServingConfig,
    TrackingConfig,
    TrainingConfig,
)
from cnnClassifier.utils.common import project_dir, read_yaml
from cnnClassifier.utils.errors import ConfigError

CONFIG_PATH = Path("config/config.yaml")
PARAMS_PATH = Path("params.yaml")


class ConfigurationManager:
    """Read both files, refuse what they should not hold, and make the stages' entities.

    Args:
        config_path: where things live.
        params_path: how the model learns.

    Raises:
        ConfigError: names the file, the key and what was expected.
    """

    def __init__(self, config_path: Path = CONFIG_PATH, params_path: Path = PARAMS_PATH) -> None:
        self._params_path, self._search_path = params_path, config_path.with_name("search.yaml")
        self.config = read_yaml(config_path)
        self.params = read_yaml(params_path)
        _check(self.config, CONFIG, config_path)
        _check(self.params, PARAMS, params_path)
        if self.params.INCLUDE_TOP:
            raise ConfigError(
                f"{params_path}: INCLUDE_TOP: expected False; with True the backbone ends in ImageNet's own "
                "1000 classes, and no head for your CLASSES can stand on it"
            )
        window = self.params.DICOM_WINDOW
        self._dicom_window = window if isinstance(window, str) else f"{window[0]:g},{window[1]:g}"
        self._size = (int(self.params.IMAGE_SIZE[0]), int(self.params.IMAGE_SIZE[1]), 3)

    @property
    def log_file(self) -> Path:
        """The file that holds times, levels and tracebacks."""
        return Path(self.config.log_file)

    def data_ingestion(self) -> DataIngestionConfig:
        """Return what the stage data_ingestion needs."""
        section = self.config.data_ingestion
        return DataIngestionConfig(
            source_URL=section.source_URL,
            source_sha256=section.source_sha256,
            class_patterns=dict(section.classes) if section.classes else None,
            class_count=self.params.CLASSES,
            download_dir=project_dir() / section.download_dir,
            data_dir=Path(section.data_dir),
            max_unpacked_bytes=section.max_unpacked_bytes,
            connect_timeout_s=section.connect_timeout_s,
            read_timeout_s=section.read_timeout_s,
            retries=section.retries,
        )

    def data_validation(self) -> DataValidationConfig:
        """Return what the stage data_validation needs."""
        section = self.config.data_validation
        train, validation, test = self.params.SPLIT
        return DataValidationConfig(
            source_URL=self.config.data_ingestion.source_URL,
            data_dir=Path(self.config.data_ingestion.data_dir),
            manifest_path=Path(section.manifest_path),
            report_path=Path(section.report_path),
            group_pattern=section.group_pattern,
            near_duplicate_correlation=section.near_duplicate_correlation,
            conflicts=section.conflicts,
            split=section.split,
            shortcut_warning_auc=section.shortcut_warning_auc,
            min_side=section.min_side,
            max_pixels=section.max_pixels,
            dicom_window=self._dicom_window,
            joblib_backend=section.joblib_backend,
            shares=(train, validation, test),
            seed=self.params.SEED,
        )

    def prepare_base_model(self) -> PrepareBaseModelConfig:
        """Return what the stage prepare_base_model needs."""
        section = self.config.prepare_base_model
        return PrepareBaseModelConfig(
            base_model_path=Path(section.base_model_path),
            updated_base_model_path=Path(section.updated_base_model_path),
            weights_cache=Path(section.weights_cache).expanduser()
            if section.weights_cache
            else None,
            imagenet_sources=tuple(section.imagenet_sources),
            backbone=self.params.BACKBONE,
            image_size=self._size,
            weights=self.params.WEIGHTS,
            feature_layer=self.params.FEATURE_LAYER,
            head=self.params.HEAD,
            dropout=self.params.DROPOUT,
            class_count=self.params.CLASSES,
            seed=self.params.SEED,
        )

    def training(self) -> TrainingConfig:
        """Return what the stage training needs."""
        section, params = self.config.training, self.params
        return TrainingConfig(
            data_dir=Path(self.config.data_ingestion.data_dir),
            manifest_path=Path(self.config.data_validation.manifest_path),
            updated_base_model_path=Path(self.config.prepare_base_model.updated_base_model_path),
            bundle_dir=Path(section.bundle_dir),
            cache_dir=project_dir() / section.cache_dir,
            int8=section.int8,
            source_URL=self.config.data_ingestion.source_URL,
            max_pixels=self.config.data_validation.max_pixels,
            dicom_window=self._dicom_window,
            image_size=self._size,
            backbone=params.BACKBONE,
            feature_layer=params.FEATURE_LAYER,
            fine_tune_from=params.FINE_TUNE_FROM,
            precision=params.PRECISION,
            positive_class=params.POSITIVE_CLASS,
            min_sensitivity=params.MIN_SENSITIVITY,
            ood_quantile=params.OOD_QUANTILE,
            augmentation=AugmentationConfig(
                views=params.VIEWS if params.AUGMENTATION else 1,
                rotation=params.ROTATION_RANGE,
                shift=params.SHIFT_RANGE,
                shear=params.SHEAR_RANGE,
                zoom=params.ZOOM_RANGE,
                horizontal_flip=params.HORIZONTAL_FLIP,
                seed=params.SEED,
            ),
            fit=FitConfig(
                epochs=params.EPOCHS,
                patience=params.PATIENCE,
                batch_size=params.BATCH_SIZE,
                learning_rate=params.LEARNING_RATE,
                class_weights=params.CLASS_WEIGHTS,
                seed=params.SEED,
            ),
        )

    def crossvalidation(self) -> CrossValidationConfig:
        """Return what the command crossvalidate needs."""
        return CrossValidationConfig(
            training=self.training(),
            root_dir=Path(self.config.crossvalidation.root_dir),
            folds=self.params.FOLDS,
            seeds=tuple(self.params.FOLD_SEEDS),
        )

    def search(self) -> SearchConfig:
        """Return what the command search needs: search.yaml lies beside config.yaml, SEARCH_STORAGE goes before that.

        Raises:
            ConfigError: search.yaml holds what it should not.
        """
        section, path = self.config.search, self._search_path
        wanted = read_yaml(path)
        _check(wanted, SEARCH, path)
        if wanted.folds > self.params.FOLDS:
            raise ConfigError(
                f"{path}: folds: expected at most FOLDS: {self.params.FOLDS} in params.yaml, found {wanted.folds}"
            )
        space = {
            key: _span(key, value)
            for key, value in wanted.to_dict()["space"].items()
            if value is not None
        }
        if not self.params.AUGMENTATION:
            space.pop("VIEWS", None)  # there is one
        if not space:
            raise ConfigError(f"{path}: space: expected something to try; every key is null")
        storage = os.environ.get("SEARCH_STORAGE") or section.storage
        _check({"SEARCH_STORAGE": storage}, {"SEARCH_STORAGE": STORAGE}, Path("environment"))
        return SearchConfig(
            crossvalidation=self.crossvalidation(),
            prepare=self.prepare_base_model(),
            params=self.params.to_dict(),
            params_path=self._params_path,
            space=space,
            trials=wanted.trials,
            metric=wanted.metric,
            folds=wanted.folds,
            epochs=wanted.epochs,
            storage=storage,
            root_dir=Path(section.root_dir),
            stale_after_s=section.stale_after_s,
        )

    def tracking(self) -> TrackingConfig:
        """Return where runs go; MLFLOW_TRACKING_URI goes before the file."""
        section = self.config.evaluation
        return TrackingConfig(
            uri=os.environ.get("MLFLOW_TRACKING_URI") or section.mlflow_uri,
            experiment=section.experiment,
            registered_model=section.registered_model,
            params=self.params.to_dict(),
        )

    def evaluation(self) -> EvaluationConfig:
        """Return what the stage evaluation needs."""
        section, gates = self.config.evaluation, self.config.gates
        return EvaluationConfig(
            data_dir=Path(self.config.data_ingestion.data_dir),
            manifest_path=Path(self.config.data_validation.manifest_path),
            report_path=Path(self.config.data_validation.report_path),
            bundle_dir=Path(self.config.training.bundle_dir),
            root_dir=Path(section.root_dir),
            max_pixels=self.config.data_validation.max_pixels,
            bootstrap_samples=section.bootstrap_samples,
            gallery=section.gallery,
            seed=self.params.SEED,
            gates=GatesConfig(
                min_images_per_class=gates.min_images_per_class,
                min_groups_per_class=gates.min_groups_per_class,
                no_leakage=gates.no_leakage,
                min_roc_auc=gates.min_roc_auc,
                min_roc_auc_lower_bound=gates.min_roc_auc_lower_bound,
                max_shortcut_auc=gates.max_shortcut_auc,
                max_ece=gates.max_ece,
                stops=gates.on_failure == "stop",
            ),
            tracking=self.tracking(),
        )

    def serving(self) -> ServingConfig:
        """Return what the web server needs; HOST and PORT in the environment go before the file."""
        section = self.config.serving
        port = os.environ.get("PORT") or str(section.port)
        if not port.isdecimal() or int(port) > 65535:
            raise ConfigError(
                f"environment: PORT: expected a whole number from 0 to 65535, found {port!r}"
            )
        return ServingConfig(
            bundle_dir=Path(self.config.training.bundle_dir),
            model_cache=Path(section.model_cache),
            model_poll_interval_s=section.model_poll_interval_s,
            host=os.environ.get("HOST") or section.host,
            port=int(port),
            max_upload_bytes=section.max_upload_bytes,
            max_pixels=section.max_pixels,
            cors_origins=tuple(section.cors_origins),
            max_images=section.max_images,
            max_concurrent_requests=section.max_concurrent_requests or max(2, os.cpu_count() or 2),
            max_queued_requests=section.max_queued_requests,
            request_timeout_s=section.request_timeout_s,
            rate_limit=section.rate_limit,
            uncertain_margin=section.uncertain_margin,
            trusted_proxy=section.trusted_proxy,
            evaluation_dir=Path(self.config.evaluation.root_dir),
            int8=section.int8,
            report_path=Path(self.config.data_validation.report_path),
            show_reports=section.show_reports,
        )


def _check(content: dict[str, Any], schema: dict[str, Any], path: Path, prefix: str = "") -> None:
    for key in content:
        if key not in schema:
            raise ConfigError(
                f"{path}: {prefix}{key}: unknown key; expected one of {', '.join(schema)}"
            )
    for key, rule in schema.items():
        if key not in content:
            wanted = (
                rule.expectation if isinstance(rule, Rule) else f"a section with {', '.join(rule)}"
            )
            raise ConfigError(f"{path}: {prefix}{key}: missing; expected {wanted}")
        value = content[key]
        if isinstance(rule, Rule):
            if not rule.holds(value):
                raise ConfigError(
                    f"{path}: {prefix}{key}: expected {rule.expectation}, found {_shown(value)}"
                )
        elif isinstance(value, dict):
            _check(value, rule, path, f"{prefix}{key}.")
        else:
            raise ConfigError(
                f"{path}: {prefix}{key}: expected a section: {', '.join(rule)}, found {_shown(value)}"
            )


def _span(key: str, value: Any) -> Choice | Between:
    if isinstance(value, list):
        return Choice(tuple(value))
    rule = PARAMS[key]
    whole = isinstance(rule, Rule) and is_whole(rule)
    return Between(value["low"], value["high"], value.get("log", False), value.get("step"), whole)


def _shown(value: Any) -> str:
    plain = getattr(value, "to_dict", None) or getattr(
        value, "to_list", None
    )  # Box's own words would only confuse
    text = repr(plain() if plain else value)
    return text if len(text) <= 60 else text[:57] + "…"
