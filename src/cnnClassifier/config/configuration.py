"""The only place that reads YAML: check both files and create the settings of each stage."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from cnnClassifier.config.expectations import expected_value, value_type
from cnnClassifier.entity.config_entity import (
    SEARCHABLE,
    Between,
    Choice,
    CrossValidationConfig,
    DataIngestionConfig,
    DataValidationConfig,
    EvaluationConfig,
    LoggingConfig,
    PrepareBaseModelConfig,
    SearchConfig,
    SearchPathsConfig,
    SearchSpaceConfig,
    ServingConfig,
    Settings,
    TrackingConfig,
    TrainingConfig,
)
from cnnClassifier.utils.common import read_yaml
from cnnClassifier.utils.errors import ConfigError

CONFIG_PATH = Path("config/config.yaml")
PARAMS_PATH = Path("params.yaml")
# Which stage or command uses which settings.
USERS: tuple[tuple[str, type[Settings]], ...] = (
    ("all", LoggingConfig),
    ("data_ingestion", DataIngestionConfig),
    ("data_validation", DataValidationConfig),
    ("prepare_base_model", PrepareBaseModelConfig),
    ("training", TrainingConfig),
    ("training", TrackingConfig),
    ("evaluation", EvaluationConfig),
    ("crossvalidate", CrossValidationConfig),
    ("search", SearchPathsConfig),
    ("app.py", ServingConfig),
)
# Keys of earlier versions, and what to do about them.
RENAMED_KEYS = {
    "data_validation.near_copy_bits": "removed: near-duplicates are found by keypoints, without it",
    "data_validation.near_copy_correlation": "renamed to near_duplicate_correlation, with a new "
    "scale: start from 0.85",
    "data_validation.shortcut_limit": "renamed to shortcut_warning_auc",
    "evaluation.bootstrap_draws": "renamed to bootstrap_samples",
    "evaluation.gallery": "renamed to error_gallery_size",
    "gates.min_roc_auc_low": "renamed to min_roc_auc_lower_bound",
    "search.grace_s": "renamed to stale_after_s",
    "serving.at_once": "renamed to max_concurrent_requests",
    "serving.queue_length": "renamed to max_queued_requests",
    "serving.model_poll_s": "renamed to model_poll_interval_s",
    "FAMILIAR_SHARE": "renamed to OOD_QUANTILE",
}
Entity = TypeVar("Entity", bound=Settings)


class ConfigurationManager:
    """Read and check both files, and create the settings of each stage.

    Args:
        config_path: config.yaml: paths, data source, servers, limits. search.yaml is in the same
            folder.
        params_path: params.yaml: hyperparameters.

    Raises:
        ConfigError: names the file, the key, what was expected and what was found.
    """

    def __init__(self, config_path: Path = CONFIG_PATH, params_path: Path = PARAMS_PATH) -> None:
        self._config_path = config_path
        self._params_path = params_path
        self._fields: dict[str, FieldInfo] = {}
        for _, entity in USERS:
            for key, field in entity.fields_by_key().items():
                self._fields.setdefault(key, field)
        in_params = {key: field for key, field in self._fields.items() if key.isupper()}
        in_config = {key: field for key, field in self._fields.items() if not key.isupper()}
        self._values = read_settings(config_path, in_config)
        self.params = read_settings(params_path, in_params)
        self._values |= self.params
        self._values |= {"--params": self.params, "--params-path": params_path}
        for _, entity in USERS:
            self._create(entity, environment={})

    @property
    def log_file(self) -> Path:
        """The file that contains times, levels and tracebacks."""
        return self._create(LoggingConfig).log_file

    def data_ingestion(self) -> DataIngestionConfig:
        """Return the settings of the stage data_ingestion."""
        return self._create(DataIngestionConfig)

    def data_validation(self) -> DataValidationConfig:
        """Return the settings of the stage data_validation."""
        return self._create(DataValidationConfig)

    def prepare_base_model(self) -> PrepareBaseModelConfig:
        """Return the settings of the stage prepare_base_model."""
        return self._create(PrepareBaseModelConfig)

    def training(self) -> TrainingConfig:
        """Return the settings of the stage training."""
        return self._create(TrainingConfig)

    def crossvalidation(self) -> CrossValidationConfig:
        """Return the settings of the command crossvalidate."""
        return self._create(CrossValidationConfig)

    def tracking(self) -> TrackingConfig:
        """Return the settings of experiment tracking; MLFLOW_TRACKING_URI overrides the file."""
        return self._create(TrackingConfig)

    def evaluation(self) -> EvaluationConfig:
        """Return the settings of the stage evaluation."""
        return self._create(EvaluationConfig)

    def serving(self) -> ServingConfig:
        """Return the settings of the web server; HOST and PORT override the file."""
        return self._create(ServingConfig)

    def search(self) -> SearchConfig:
        """Return the settings of the command search; SEARCH_STORAGE overrides the file.

        Raises:
            ConfigError: search.yaml has an unknown, missing or invalid key, or an empty space.
        """
        path = self._config_path.with_name("search.yaml")
        space_fields = {f"space.{key}": self._fields[key] for key in SEARCHABLE}
        values = read_settings(path, SearchSpaceConfig.fields_by_key() | space_fields)
        space = {}
        for key in SEARCHABLE:
            if values[f"space.{key}"] is not None:
                space[key] = parse_dimension(path, key, self._fields[key], values[f"space.{key}"])
        if not self.params["AUGMENTATION"]:
            space.pop("VIEWS", None)  # there is a single view
        if not space:
            raise ConfigError(f"{path}: space: expected values to try, but every key is null")
        self._values |= values | {"--space": space}
        config = self._create(SearchConfig)
        if config.folds > config.crossvalidation.folds:
            raise ConfigError(
                f"{path}: folds: expected at most FOLDS: {config.crossvalidation.folds} in "
                f"params.yaml, found {config.folds}"
            )
        return config

    def _create(self, entity: type[Entity], environment: Mapping[str, str] = os.environ) -> Entity:
        """Create settings; environment variables override the values of the files."""
        fields = entity.fields_by_key()
        values = dict(self._values)
        sources = {}
        for key, field in fields.items():
            variable = environment_variable(field)
            text = environment.get(variable) if variable else None
            if text:
                values[key] = int(text) if field.annotation is int and text.isdecimal() else text
                sources[key] = f"environment: {variable}"
        try:
            return entity.from_values(values)
        except ValidationError as error:
            key = str(error.errors()[0]["loc"][0])
            source = sources.get(key) or f"{self._path_of(key)}: {key}"
            raise _invalid(source, expected_value(fields[key]), values[key]) from None

    def _path_of(self, key: str) -> Path:
        if key.isupper():
            return self._params_path
        if key in SearchSpaceConfig.fields_by_key():
            return self._config_path.with_name("search.yaml")
        return self._config_path


def read_settings(path: Path, fields: Mapping[str, FieldInfo]) -> dict[str, Any]:
    """Read a YAML file of settings and flatten its sections.

    Args:
        path: of the file.
        fields: by key, such as `EPOCHS` or `serving.port`; the file must have these and no others.

    Returns:
        The values by key.

    Raises:
        ConfigError: a key is unknown, renamed or missing.
    """
    content = read_yaml(path).to_dict()
    sections: dict[str, list[str]] = {}
    for key in fields:
        section, _, name = key.rpartition(".")
        sections.setdefault(section, []).append(name)
    top_level = sections.pop("", [])
    _check_names(path, "", content, [*top_level, *sections])
    values = {name: content[name] for name in content if name not in sections}
    for section, names in sections.items():
        expected = f"a section: {', '.join(names)}"
        if section not in content:
            raise ConfigError(f"{path}: {section}: missing; expected {expected}")
        if not isinstance(content[section], dict):
            raise _invalid(f"{path}: {section}", expected, content[section])
        _check_names(path, f"{section}.", content[section], names)
        for name, value in content[section].items():
            values[f"{section}.{name}"] = value
    for key, field in fields.items():
        if key not in values:
            raise ConfigError(f"{path}: {key}: missing; expected {expected_value(field)}")
    return values


def _check_names(path: Path, prefix: str, content: Mapping[str, Any], names: list[str]) -> None:
    for name in content:
        key = f"{prefix}{name}"
        if key in RENAMED_KEYS:
            raise ConfigError(f"{path}: {key} was {RENAMED_KEYS[key]}")
        if name not in names:
            raise ConfigError(f"{path}: {key}: unknown key; expected one of {', '.join(names)}")


def parse_dimension(path: Path, key: str, field: FieldInfo, value: Any) -> Choice | Between:
    """Parse the values that a search tries for one parameter: a list, or {low, high}.

    Args:
        path: of search.yaml.
        key: of the parameter.
        field: its limits apply to each value.
        value: from search.yaml.

    Raises:
        ConfigError: a value is invalid, the list is empty or has duplicates, or the range is empty.
    """
    expected = "null, or a list of different values"
    is_number = field.annotation in (int, float)
    if is_number:
        expected += ", or {low, high} with log: true or a step"
    value_adapter = value_type(field)
    try:
        if isinstance(value, list):
            choices = tuple(value_adapter.validate_python(item) for item in value)
            if choices and len(set(choices)) == len(choices):
                return Choice(choices)
        elif isinstance(value, dict) and is_number:
            between = Between(**value, whole=field.annotation is int)
            value_adapter.validate_python(between.low)
            value_adapter.validate_python(between.high)
            return between
    except (ValidationError, TypeError):
        pass
    expected = f"{expected}, each {expected_value(field)}"
    raise _invalid(f"{path}: space.{key}", expected, value)


def environment_variable(field: FieldInfo) -> str | None:
    """Return the environment variable that overrides a setting."""
    extra = field.json_schema_extra
    return str(extra["environment"]) if isinstance(extra, dict) and "environment" in extra else None


def _invalid(source: str, expected: str, value: Any) -> ConfigError:
    text = repr(value)
    found = text if len(text) <= 60 else f"{text[:57]}…"
    return ConfigError(f"{source}: expected {expected}, found {found}")
