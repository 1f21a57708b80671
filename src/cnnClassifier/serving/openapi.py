"""The API's description: OpenAPI 3.1, made from what the code itself goes by."""

from collections.abc import Collection
from typing import Any

from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.entity.disclaimers import DISCLAIMER
from cnnClassifier.serving.auth import COOKIE
from cnnClassifier.serving.predict_options import MAX_FRAME, WINDOW_PATTERN
from cnnClassifier.serving.request_logging import ID_HEADER, ID_PATTERN
from cnnClassifier.serving.training_jobs import FAILED, RUNNING, SUCCEEDED
from cnnClassifier.serving.training_jobs import ID_PATTERN as JOB_ID
from cnnClassifier.serving.uploads import DICOM_TYPE, FIELDS

Schema = dict[str, Any]

VERSION = "1.0.0"
_JSON, _HTML = "application/json", "text/html"
# Which codes an answer's `error.code` may hold, by status, and when. What any route may answer stands first.
_EVERYWHERE = {
    "401": "No token where one is needed (`token_needed`), or one that isn't known (`bad_token`).",
    "403": "Sent by a page of another site (`other_site`).",
    "421": "A host name that isn't this server's (`unknown_host`).",
    "429": "Too many requests of one client (`too_many_requests`, `too_many_failures`); Retry-After says when again.",
    "500": "A fault of the server (`internal_error`).",
}
_NO_MODEL = {
    "503": "No model answers: `loading`, `no_model`, `broken_model`; Retry-After says when again."
}
_PREDICT = {
    "400": "`empty`, `bad_json`, `missing_image`, `bad_base64`, `bad_option`, `bad_request`.",
    "413": "More bytes, pixels or images than are taken (`too_large`, `too_many_images`).",
    "415": "A Content-Type that isn't taken (`unsupported_type`).",
    "422": "No image that can be used (`not_an_image`, `corrupt`, `unsupported`, `no_such_frame`).",
    "503": "Too many requests at once (`busy`), too slow (`timeout`), or no model (`loading`, `no_model`, "
    "`broken_model`); Retry-After says when again.",
}


def document(config: ServingConfig, rules: Collection[str], secured: bool) -> Schema:
    """Return the description of those routes that the app has.

    Args:
        config: limits and margins, which stand in the schemas.
        rules: paths as Flask writes them, such as `/train/<identifier>`.
        secured: whether the server wants tokens.
    """
    served = {rule.replace("<", "{").replace(">", "}") for rule in rules}
    described = {
        "openapi": "3.1.0",
        "info": {
            "title": "Chest CT classifier",
            "version": VERSION,
            "summary": "From a chest CT slice to a class, with how sure the model is.",
            "description": f"{DISCLAIMER} Every error is JSON with a stable `error.code`; every answer has the header "
            f"`{ID_HEADER}`, which is taken from the request where it holds one.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": {path: item for path, item in _paths(config).items() if path in served},
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "One of those in API_TOKENS.",
                },
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": COOKIE,
                    "description": "Set by POST /session.",
                },
            },
        },
        "security": [{"token": []}, {"session": []}] if secured else [],
    }
    return described


def _paths(config: ServingConfig) -> Schema:
    return {
        "/predict": {"post": _predict(config)},
        "/model": {
            "get": _operation(
                "model",
                "What is known of the model",
                _answers(
                    "Facts, and the figures of its evaluation where they are on this server.",
                    "Model",
                ),
                _NO_MODEL,
                "curl {origin}/model",
            )
        },
        "/readyz": {
            "get": _operation(
                "readyz",
                "Whether a model answers",
                _answers("It does.", "Ready"),
                _NO_MODEL,
                "curl {origin}/readyz",
                open_to_all=True,
            )
        },
        "/livez": {
            "get": _operation(
                "livez",
                "Whether the server runs",
                _answers("It does.", "Live"),
                {},
                "curl {origin}/livez",
                open_to_all=True,
            )
        },
        "/metrics": {
            "get": _operation(
                "metrics",
                "Counts, times and queue for Prometheus",
                {
                    "200": {
                        "description": "Prometheus's text format.",
                        "content": {"text/plain": _text()},
                    }
                },
                {},
                "curl {origin}/metrics",
            )
        },
        "/examples": {
            "get": _operation(
                "examples",
                "Synthetic slices to try",
                _answers("Names and addresses.", "Examples"),
                {},
                "curl {origin}/examples",
            )
        },
        "/train": {
            "post": _operation(
                "train",
                "Train in the background",
                _answers("It has begun; Location leads to its state.", "Job", "202"),
                {
                    "403": "The token may not train (`no_right`), isn't in the header (`bearer_needed`), or the server "
                    "knows no tokens (`training_off`).",
                    "409": "One runs already (`already_running`); Location leads to it.",
                    "501": "This server can't train (`training_unavailable`).",
                },
                "curl -X POST -H 'Authorization: Bearer …' {origin}/train",
                description="Runs `dvc repro`. A run that fails leaves the served model as it was; the model of one "
                "that ends well is taken up between two requests. Stopping the server stops it.",
                security=[{"token": []}],
            )
        },
        "/train/{identifier}": {
            "parameters": [
                _parameter(
                    "path",
                    "identifier",
                    {"type": "string", "pattern": f"^{JOB_ID}$"},
                    "20260131-120000-0a1b2c",
                )
            ],
            "get": _operation(
                "training",
                "How a training goes",
                _answers("State and last lines of output.", "Job"),
                {
                    "403": "The token may not train (`no_right`), or the server knows no tokens (`training_off`).",
                    "404": "There is no such job (`no_such_job`).",
                },
                "curl -H 'Authorization: Bearer …' {origin}/train/20260131-120000-0a1b2c",
            ),
        },
    }


def _predict(config: ServingConfig) -> Schema:
    options = _options()
    base64 = {
        "type": "string",
        "contentEncoding": "base64",
        "description": "The image file; a data URI works too.",
    }
    images = {"type": "array", "items": base64, "minItems": 1, "maxItems": config.max_images}
    files = {"type": "array", "items": _binary(), "description": "Image files; one or many."}
    body = {
        "required": True,
        "description": f"At most {config.max_upload_bytes:,} bytes and {config.max_pixels:,} pixels an image, and "
        f"{config.max_images} images a request.",
        "content": {
            _JSON: {
                "schema": {
                    "type": "object",
                    "properties": {"image": base64, "images": images, **options},
                    "anyOf": [{"required": ["image"]}, {"required": ["images"]}],
                },
                "examples": {"one": {"value": {"image": "iVBORw0KGgo…", "map": True}}},
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": dict.fromkeys(FIELDS, files) | options,
                    "anyOf": [{"required": [field]} for field in FIELDS],
                }
            },
            "image/*": {"schema": _binary()},
            DICOM_TYPE: {"schema": _binary()},
        },
    }
    operation = _operation(
        "predict",
        "Classify one image or several",
        _answers(
            "One answer for each image, in order; of several those that can't be used hold `error`.",
            "Answers",
        ),
        _PREDICT,
        "curl -F file=@slice.png {origin}/predict",
        description="As a form, as JSON, or the file itself. Options go into the form, the JSON or the query.",
    )
    operation["parameters"] = [
        _parameter("query", name, schema) for name, schema in options.items()
    ]
    operation["requestBody"] = body
    return operation


def _options() -> Schema:
    return {
        "window": {
            "type": "string",
            "pattern": WINDOW_PATTERN,
            "default": "auto",
            "description": "DICOM: `auto` is the window that the model was trained with; or centre and width in HU, "
            "such as `-600,1500`.",
        },
        "frame": {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_FRAME,
            "default": 1,
            "description": "DICOM with several frames: which one.",
        },
        "map": {
            "type": "boolean",
            "default": False,
            "description": "Whether the answer holds the activation map.",
        },
        "preview": {
            "type": "boolean",
            "default": False,
            "description": "Whether the answer holds the picture as the model's decoder sees it.",
        },
    }


def _operation(
    name: str,
    summary: str,
    answers: Schema,
    problems: dict[str, str],
    curl: str,
    *,
    description: str | None = None,
    open_to_all: bool = False,
    security: list[Schema] | None = None,
) -> Schema:
    everywhere = {
        status: why
        for status, why in _EVERYWHERE.items()
        if not (open_to_all and status in ("401", "429"))
    }
    refusals = {status: _problem(why) for status, why in sorted((everywhere | problems).items())}
    operation: Schema = {
        "operationId": name,
        "summary": summary,
        "description": description,
        "x-curl": curl,
    }
    operation |= {"responses": answers | refusals}
    if open_to_all:
        security = []
    if security is not None:
        operation["security"] = security
    return {key: value for key, value in operation.items() if value is not None}


def _answers(description: str, schema: str, status: str = "200") -> Schema:
    return {status: {"description": description, "content": {_JSON: {"schema": _ref(schema)}}}}


def _problem(description: str) -> Schema:
    content = {_JSON: {"schema": _ref("Problem")}}
    if "token_needed" in description:
        content[_HTML] = _text()  # a browser gets the sign-in page
    return {"description": description, "content": content}


def _parameter(place: str, name: str, schema: Schema, example: str | None = None) -> Schema:
    found = {"name": name, "in": place, "required": place == "path", "schema": schema}
    if "description" in schema:
        found["description"] = schema["description"]
    return found if example is None else found | {"example": example}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _text() -> Schema:
    return {"schema": {"type": "string"}}


def _binary() -> Schema:
    return {"type": "string", "format": "binary"}


def _object(properties: Schema, optional: Collection[str] = ()) -> Schema:
    required = [name for name in properties if name not in optional]
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _schemas() -> Schema:
    text, flag, share = (
        {"type": "string"},
        {"type": "boolean"},
        {"type": "number", "minimum": 0, "maximum": 1},
    )
    model, digest = (
        {"type": "string", "pattern": "^[0-9a-f]{12}$"},
        {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    )
    maybe_share = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
    maybe_number = {"type": ["number", "null"]}
    error = _object(
        {
            "code": _said(text, "Stable, for programs."),
            "message": _said(text, "For people; may change."),
        },
    )
    count = {"type": "integer", "minimum": 0}
    return {
        "Problem": _object(
            {"error": error, "request_id": {"type": "string", "pattern": f"^{ID_PATTERN}$"}},
        )
        | {
            "examples": [
                {
                    "error": {"code": "not_an_image", "message": "not a PNG, …"},
                    "request_id": "0f3c9a…",
                }
            ]
        },
        "Failure": _object({"error": error}),
        "Answers": {
            "type": "array",
            "minItems": 1,
            "items": {"anyOf": [_ref("Prediction"), _ref("Failure")]},
        },
        "Prediction": _object(
            {
                "image": _said(text, "The class for people, such as `Normal`."),
                "class": _said(text, "The class as its folder is named."),
                "probability": _said(share, "Of that class, calibrated."),
                "probabilities": {"type": "object", "additionalProperties": share},
                "threshold": _said(
                    maybe_share,
                    "From which probability on the positive class is called; two classes.",
                ),
                "uncertain": _said(flag, "Another class was nearly called."),
                "unfamiliar": _said(flag, "Unlike all training images: the answer means nothing."),
                "distance": _said({"type": "number", "minimum": 0}, "From the training images."),
                "unfamiliar_limit": _said(
                    {"type": "number"}, "Beyond this distance it is unfamiliar."
                ),
                "map": {
                    "type": "array",
                    "items": {"type": "array", "items": share},
                    "description": "Where the model looked; rows from the top. Only when asked for.",
                },
                "preview": _said(
                    {"type": "string", "pattern": "^data:image/png;base64,"}, "Only when asked for."
                ),
                "dicom": _object(
                    {
                        "window": text,
                        "centre": maybe_number,
                        "width": maybe_number,
                        "frame": {"type": "integer"},
                        "frames": {"type": "integer"},
                    }
                )
                | {
                    "description": "Only of DICOM files: how it was read, and nothing of whose it is."
                },
                "ms": _said({"type": "number", "minimum": 0}, "Milliseconds that this image took."),
                "model": _said(model, "The first digits of model_sha256."),
                "model_sha256": digest,
                "synthetic": _said(flag, "Whether the model was trained on synthetic pictures."),
                "disclaimer": text,
            },
            optional=("map", "preview", "dicom"),
        ),
        "Model": _object(
            {
                "model": model,
                "model_sha256": digest,
                "backbone": text,
                "classes": {"type": "array", "items": text},
                "labels": {"type": "object", "additionalProperties": text},
                "positive_class": text,
                "threshold": maybe_share,
                "image_size": _said({"type": "array", "items": count}, "Height, width, channels."),
                "synthetic": flag,
                "data_source": {"enum": ["phantom", "images"]},
                "metrics": {
                    "type": ["object", "null"],
                    "additionalProperties": _ref("Figure"),
                    "description": "Of this very model on its test split; null where they aren't on this server.",
                },
                "disclaimer": text,
            }
        ),
        "Figure": _object(
            {
                "value": maybe_number,
                "interval": _said(
                    {
                        "type": ["array", "null"],
                        "items": {"type": "number"},
                        "minItems": 2,
                        "maxItems": 2,
                    },
                    "95%.",
                ),
                "images": count,
                "groups": count,
            }
        ),
        "Ready": _object(
            {
                "status": {"const": "ready"},
                "model": model,
                "engine": _said(text, "What calculates: `keras-openvino` or `int8`."),
                "refused": _object(
                    {"reason": text, "when": {"type": "string", "format": "date-time"}}
                )
                | {"description": "Why a newer model isn't taken up, where one isn't."},
            },
            optional=("engine", "refused"),
        ),
        "Live": _object({"status": {"const": "live"}}),
        "Examples": {"type": "array", "items": _object({"name": text, "url": text})},
        "Job": _object(
            {
                "id": {"type": "string", "pattern": f"^{JOB_ID}$"},
                "state": {"enum": [RUNNING, SUCCEEDED, FAILED]},
                "started": {"type": "string", "format": "date-time"},
                "finished": {"type": ["string", "null"], "format": "date-time"},
                "exit_code": {"type": ["integer", "null"]},
                "log": _said({"type": "array", "items": text}, "Last lines of the output."),
            }
        ),
    }


def _said(schema: Schema, description: str) -> Schema:
    return schema | {"description": description}
