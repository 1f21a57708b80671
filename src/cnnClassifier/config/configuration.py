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
        self.fields: dict[str, FieldInfo] = {}
        for _, entity in USERS:
            for key, field in entity.fields_by_key().items():
                self.fields.setdefault(key, field)
        self.values: dict[str, Any] = {}
        self._paths: dict[str, Path] = {}  # the file of each key
        self._config_path = config_path
        in_params = {key: field for key, field in self.fields.items() if key.isupper()}
        self._read(params_path, in_params)
        self.params = dict(self.values)
        self._read(config_path, {k: v for k, v in self.fields.items() if k not in in_params})
        self.values |= {"--params": self.params, "--params-path": params_path}
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
        space_fields = {f"space.{key}": self.fields[key] for key in SEARCHABLE}
        self._read(path, SearchSpaceConfig.fields_by_key() | space_fields)
        space = {}
        for key in SEARCHABLE:
            value = self.values[f"space.{key}"]
            if value is not None:
                space[key] = parse_dimension(f"{path}: space.{key}", self.fields[key], value)
        if not self.params["AUGMENTATION"]:
            space.pop("VIEWS", None)  # there is a single view
        if not space:
            raise ConfigError(f"{path}: space: expected values to try, but every key is null")
        self.values["--space"] = space
        config = self._create(SearchConfig)
        folds = config.crossvalidation.folds
        if config.folds > folds:
            expected = f"at most FOLDS: {folds} in params.yaml"
            raise _invalid(f"{path}: folds", expected, config.folds)
        return config

    def _read(self, path: Path, fields: Mapping[str, FieldInfo]) -> None:
        """Read the settings of one file, which must have these keys and no others."""
        values = {}
        for name, value in read_yaml(path).to_dict().items():
            section = [key.partition(".")[2] for key in fields if key.startswith(f"{name}.")]
            if not section:
                values[name] = value
            elif not isinstance(value, dict):
                raise _invalid(f"{path}: {name}", f"a section: {', '.join(section)}", value)
            else:
                values |= {f"{name}.{key}": item for key, item in value.items()}
        for key in values:
            if key in RENAMED_KEYS:
                raise ConfigError(f"{path}: {key} was {RENAMED_KEYS[key]}")
            if key not in fields:
                prefix = key[: key.find(".") + 1]
                known = [name for name in fields if name.startswith(prefix)]
                names = {name.removeprefix(prefix).partition(".")[0]: None for name in known}
                raise ConfigError(f"{path}: {key}: unknown key; expected one of {', '.join(names)}")
        for key, field in fields.items():
            if key not in values:
                raise ConfigError(f"{path}: {key}: missing; expected {expected_value(field)}")
        self.values |= values
        self._paths |= dict.fromkeys(fields, path)

    def _create(self, entity: type[Entity], environment: Mapping[str, str] = os.environ) -> Entity:
        """Create settings; environment variables override the values of the files."""
        fields = entity.fields_by_key()
        values = dict(self.values)
        sources = {key: f"{self._paths[key]}: {key}" for key in fields}
        for key, field in fields.items():
            variable = environment_variable(field)
            text = environment.get(variable, "")
            if text:
                values[key] = int(text) if field.annotation is int and text.isdecimal() else text
                sources[key] = f"environment: {variable}"
        try:
            return entity.from_values(values)
        except ValidationError as error:
            details = error.errors()[0]
            for name in map(str, details["loc"]):
                if name in fields:
                    expected = expected_value(fields[name])
                    raise _invalid(sources[name], expected, values[name]) from None
            raise ConfigError(f"{self._config_path}: {details['msg']}") from None  # several keys


def parse_dimension(source: str, field: FieldInfo, value: Any) -> Choice | Between:
    """Parse the values that a search tries for one parameter: a list, or {low, high}.

    Args:
        source: file and key, for the error.
        field: of the parameter; its limits apply to each value.
        value: from search.yaml.

    Raises:
        ConfigError: a value is invalid, the list is empty or has duplicates, or the range is empty.
    """
    is_number = field.annotation in (int, float)
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
    ends = ", or {low, high} with log: true or a step" if is_number else ""
    expected = f"null, or a list of different values{ends}, each {expected_value(field)}"
    raise _invalid(source, expected, value)


def environment_variable(field: FieldInfo) -> str:
    """Return the environment variable that overrides a setting, or an empty text."""
    extra = field.json_schema_extra
    return str(extra.get("environment", "")) if isinstance(extra, dict) else ""


def _invalid(source: str, expected: str, value: Any) -> ConfigError:
    found = repr(value)
    found = found if len(found) <= 60 else f"{found[:57]}…"
    return ConfigError(f"{source}: expected {expected}, found {found}")
