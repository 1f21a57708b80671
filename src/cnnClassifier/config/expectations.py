"""Describe in words which values a setting accepts, from its field's JSON schema."""

from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from pydantic.fields import FieldInfo

from cnnClassifier.entity.config_entity import STRICT

_NAMES = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "True or False",
    "string": "text",
    "null": "null",
    "array": "a list",
    "object": "names with values",
}
_LIMITS = {
    "minimum": "from",
    "exclusiveMinimum": "above",
    "maximum": "to",
    "exclusiveMaximum": "below",
}


def value_type(field: FieldInfo) -> TypeAdapter:
    """Return the validator of a single setting."""
    described = Field(json_schema_extra=field.json_schema_extra)
    annotation: Any = Annotated[(field.annotation, *field.metadata, described)]
    return TypeAdapter(annotation, config=STRICT)


def expected_value(field: FieldInfo) -> str:
    """Return what a setting accepts, such as `a whole number from 1 to 100`."""
    return _describe(value_type(field).json_schema())


def _describe(schema: dict[str, Any]) -> str:
    if "expected" in schema:
        return schema["expected"]
    if "anyOf" in schema:
        return ", or ".join(_describe(option) for option in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return f"one of {', '.join(map(str, schema.get('enum') or [schema['const']]))}"
    kind = schema.get("type", "")
    if kind == "array" and "items" in schema:
        count = f"{schema['minItems']} or more " if "minItems" in schema else ""
        return f"a list; its {count}items: {_describe(schema['items'])}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"names with values, each {_describe(schema['additionalProperties'])}"
    words = [_NAMES.get(kind, "a valid value")]
    for limit, word in _LIMITS.items():
        if limit in schema:
            words.append(f"{word} {schema[limit]}")
    if "pattern" in schema:
        words.append(f"matching {schema['pattern']}")
    return " ".join(words)
