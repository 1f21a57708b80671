"""The only place that reads YAML: check both files and create the settings of each stage."""

import difflib
import os
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from cnnClassifier.entity.config_entity import (
    NESTED,
    SEARCHABLE,
    STRICT,
    Between,
    Choice,
    DataIngestionConfig,
    DataValidationConfig,
    EvaluationConfig,
    FeedbackConfig,
    LoggingConfig,
    ParallelConfig,
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
from cnnClassifier.utils.redaction import redact_credentials

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
    ("score", ParallelConfig),
    ("search", SearchPathsConfig),
    ("app.py", ServingConfig),
    ("feedback", FeedbackConfig),
)
# Keys of earlier versions, and what to do about them.
RENAMED_KEYS = {
    "data_validation.joblib_backend": "replaced: threading is local, loky is dask in "
    "parallel.engine",
    "data_validation.near_copy_bits": "removed: near-duplicates are found by keypoints, without it",
    "data_validation.near_copy_correlation": "renamed to near_duplicate_correlation, with a new "
    "scale: start from 0.85",
    "data_validation.shortcut_limit": "renamed to shortcut_warning_auc",
    "evaluation.bootstrap_draws": "renamed to bootstrap_samples",
    "evaluation.experiment": "replaced by project.name",
    "evaluation.registered_model": "replaced by project.name",
    "evaluation.gallery": "renamed to error_gallery_size",
    "gates.min_roc_auc_low": "renamed to min_roc_auc_lower_bound",
    "search.grace_s": "renamed to stale_after_s",
    "serving.at_once": "renamed to max_concurrent_requests",
    "serving.queue_length": "renamed to max_queued_requests",
    "serving.model_poll_s": "renamed to model_poll_interval_s",
    "crossvalidation": "removed: training cross-validates, see out_of_fold.csv",
    "FOLD_SEEDS": "removed: REPEATS is the number of repetitions of the folds",
    "folds": "removed: a trial has FOLDS folds, of params.yaml",
    "FAMILIAR_SHARE": "renamed to OOD_QUANTILE",
}
# A JSON schema's terms in words.
TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "True or False",
    "string": "text",
    "null": "null",
}
LIMITS = {
    "minimum": "from",
    "exclusiveMinimum": "above",
    "maximum": "to",
    "exclusiveMaximum": "below",
    "pattern": "matching",
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
        self._values: dict[str, Any] = {}
        self._sources: dict[str, str] = {}  # the file and key of each value, for messages
        self._params_fields: dict[str, FieldInfo] = {}
        config_fields: dict[str, FieldInfo] = {}
        for _, entity in USERS:
            for key, field in entity.fields_by_key().items():
                fields = self._params_fields if key.isupper() else config_fields
                fields.setdefault(key, field)
        self._read(params_path, self._params_fields)
        self.params = dict(self._values)
        self._read(config_path, config_fields)
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

    def tracking(self) -> TrackingConfig:
        """Return the settings of experiment tracking; MLFLOW_TRACKING_URI overrides the file."""
        return self._create(TrackingConfig)

    def evaluation(self) -> EvaluationConfig:
        """Return the settings of the stage evaluation."""
        return self._create(EvaluationConfig)

    def serving(self) -> ServingConfig:
        """Return the settings of the web server; HOST and PORT override the file."""
        return self._create(ServingConfig)

    def parallel(self) -> ParallelConfig:
        """Return where the work on files runs; DASK_SCHEDULER_ADDRESS overrides the file."""
        return self._create(ParallelConfig)

    def feedback(self) -> FeedbackConfig:
        """Return the settings of the command feedback."""
        return self._create(FeedbackConfig)

    def search(self) -> SearchConfig:
        """Return the settings of the command search; SEARCH_STORAGE overrides the file.

        Raises:
            ConfigError: search.yaml has an unknown, missing or invalid key, or an empty space.
        """
        path = self._config_path.with_name("search.yaml")
        fields = SearchSpaceConfig.fields_by_key()
        for key in SEARCHABLE:
            fields[f"space.{key}"] = self._params_fields[key]
        self._read(path, fields)
        space = {}
        for key in SEARCHABLE:
            value = self._values[f"space.{key}"]
            # Without augmentation there is a single view.
            if value is not None and (key != "VIEWS" or self.params["AUGMENTATION"]):
                source = self._sources[f"space.{key}"]
                space[key] = _parse_dimension(source, self._params_fields[key], value)
        if not space:
            raise ConfigError(f"{path}: space: expected values to try, but every key is null")
        self._values["--space"] = space
        return self._create(SearchConfig)

    def _read(self, path: Path, fields: Mapping[str, FieldInfo]) -> None:
        """Read the values of one file, which must have these keys and no others."""
        values: dict[str, Any] = {}
        sections = {key.partition(".")[0] for key in fields if "." in key}
        for name, value in read_yaml(path).to_dict().items():
            if name not in sections:
                values[str(name)] = value
            elif not isinstance(value, dict):
                raise _invalid(f"{path}: {name}", "a section with keys", value)
            else:
                values |= {f"{name}.{key}": item for key, item in value.items()}
        for key in values:
            if key in RENAMED_KEYS:
                raise ConfigError(f"{path}: {key} was {RENAMED_KEYS[key]}")
            if key not in fields:
                similar = ", ".join(difflib.get_close_matches(key, fields, n=5, cutoff=0))
                raise ConfigError(f"{path}: {key}: unknown key; the most similar are {similar}")
        for key, field in fields.items():
            if key not in values:
                raise ConfigError(f"{path}: {key}: missing; expected {expected_value(field)}")
            self._sources[key] = f"{path}: {key}"
        self._values |= values

    def _create(self, entity: type[Entity], environment: Mapping[str, str] = os.environ) -> Entity:
        """Create settings; environment variables override the values of the files."""
        fields = entity.fields_by_key()
        values = dict(self._values)
        values[NESTED] = values
        sources = dict(self._sources)
        for key, field in fields.items():
            variable = environment_variable(field)
            text = environment.get(variable, "")
            if text:
                values[key] = int(text) if field.annotation is int and text.isdecimal() else text
                sources[key] = f"environment: {variable}"
        try:
            return entity.model_validate(values, extra="ignore", by_name=False)
        except ValidationError as error:
            location = error.errors()[0]["loc"]
            key = next(str(name) for name in location if name != NESTED)
            expected = expected_value(fields[key])
            raise _invalid(sources[key], expected, values[key]) from None


def _parse_dimension(source: str, field: FieldInfo, value: Any) -> Choice | Between:
    """Parse the values that a search tries for one parameter: a list, or {low, high}.

    Args:
        source: file and key, for the error.
        field: of the parameter; its limits apply to each value.
        value: from search.yaml.

    Raises:
        ConfigError: a value is invalid, the list is empty or has duplicates, or the range is empty.
    """
    is_number = field.annotation in (int, float)
    value_adapter = _value_type(field)
    try:
        if isinstance(value, list):
            choices = tuple(map(value_adapter.validate_python, value))
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


def expected_value(field: FieldInfo) -> str:
    """Return what a setting accepts, such as `a whole number from 1 to 100`."""
    return _describe(_value_type(field).json_schema())


def _value_type(field: FieldInfo) -> TypeAdapter:
    """Return the validator of a single setting."""
    described = Field(json_schema_extra=field.json_schema_extra)
    annotation: Any = Annotated[(field.annotation, *field.metadata, described)]
    return TypeAdapter(annotation, config=STRICT)


def _describe(schema: dict[str, Any]) -> str:
    """Describe in words which values a JSON schema accepts."""
    if "expected" in schema:
        return schema["expected"]
    if "anyOf" in schema:
        return ", or ".join(map(_describe, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return f"one of {', '.join(map(str, schema.get('enum') or [schema['const']]))}"
    kind = schema["type"]
    if kind == "array":
        count = f"{schema['minItems']} or more " if "minItems" in schema else ""
        return f"a list; its {count}items: {_describe(schema['items'])}"
    if kind == "object":
        return f"names with values, each {_describe(schema['additionalProperties'])}"
    words = [TYPES[kind]]
    for limit, word in LIMITS.items():
        if limit in schema:
            words.append(f"{word} {schema[limit]}")
    return " ".join(words)


def _invalid(source: str, expected: str, value: Any) -> ConfigError:
    if isinstance(value, str):
        value = redact_credentials(value)
    return ConfigError(f"{source}: expected {expected}, found {reprlib.repr(value)}")
