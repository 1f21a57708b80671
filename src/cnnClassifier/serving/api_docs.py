"""The API's description for programs and for people."""

from typing import Any

from flask import Blueprint, Response, current_app, jsonify, render_template, request

from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.serving.openapi import Schema, document


def make_docs(config: ServingConfig, secured: bool) -> Blueprint:
    """Return the routes of the description.

    Args:
        config: limits that stand in it.
        secured: whether the server wants tokens.
    """
    docs = Blueprint("docs", __name__)

    def described() -> Schema:
        return document(config, {rule.rule for rule in current_app.url_map.iter_rules()}, secured)

    @docs.get("/openapi.json")
    def openapi() -> Response:
        return jsonify(described())

    @docs.get("/docs")
    def page() -> str:
        content = described()
        origin = request.host_url.rstrip("/")
        return render_template(
            "docs.html",
            document=content,
            operations=[
                _shown(content, method, path, item, origin)
                for path, item in content["paths"].items()
                for method in ("get", "post")
                if method in item
            ],
            schemas=[
                {"name": name, "fields": _fields(schema)}
                for name, schema in content["components"]["schemas"].items()
                if "properties" in schema
            ],
            secured=secured,
        )

    return docs


def _shown(content: Schema, method: str, path: str, item: Schema, origin: str) -> dict[str, Any]:
    operation = item[method]
    parameters = item.get("parameters", []) + operation.get("parameters", [])
    return {
        "id": operation["operationId"],
        "method": method.upper(),
        "path": path,
        "summary": operation["summary"],
        "description": operation.get("description"),
        "open": operation.get("security", content["security"]) == [],
        "curl": operation["x-curl"].replace("{origin}", origin),
        "parameters": [
            {
                "name": parameter["name"],
                "type": _type(parameter["schema"]),
                "place": parameter["in"],
                "description": parameter.get("description", ""),
            }
            for parameter in parameters
        ],
        "bodies": [
            {"type": kind, "fields": _fields(body["schema"])}
            for kind, body in operation.get("requestBody", {}).get("content", {}).items()
        ],
        "limits": operation.get("requestBody", {}).get("description"),
        "responses": [
            {
                "status": status,
                "description": answer["description"],
                "schema": _type(_schema_of(answer)),
            }
            for status, answer in operation["responses"].items()
        ],
    }


def _schema_of(answer: Schema) -> Schema:
    return next(iter(answer["content"].values()))["schema"]


def _fields(schema: Schema) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "type": _type(field),
            "required": name in schema.get("required", ()),
            "description": field.get("description", ""),
        }
        for name, field in schema.get("properties", {}).items()
    ]


def _type(schema: Schema) -> str:
    """Return a schema's type in a few words."""
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if "enum" in schema:
        return " | ".join(schema["enum"])
    if "const" in schema:
        return f"“{schema['const']}”"
    kinds = schema.get("type", "any")
    words = " or ".join(kinds) if isinstance(kinds, list) else kinds
    if "array" in kinds and "items" in schema:
        return words.replace("array", f"list of {_type(schema['items'])}")
    if schema.get("format") == "binary":
        return "file"
    return "base64" if schema.get("contentEncoding") == "base64" else words
