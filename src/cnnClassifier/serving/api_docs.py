"""The API's description: openapi.yaml, with the limits of this server."""

from importlib.resources import files
from typing import Any

import yaml
from flask import Blueprint, Response, jsonify, render_template, request

from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.entity.disclaimers import DISCLAIMER


def make_blueprint(config: ServingConfig, requires_token: bool) -> Blueprint:
    """Return the routes of the description, for programs and for people."""
    routes = Blueprint("docs", __name__)

    @routes.get("/openapi.json")
    def openapi() -> Response:
        return jsonify(load_openapi(config, requires_token))

    @routes.get("/docs")
    def page() -> str:
        document = load_openapi(config, requires_token)
        origin = request.host_url.rstrip("/")
        return render_template("docs.html", document=document, origin=origin)

    return routes


def load_openapi(config: ServingConfig, requires_token: bool) -> dict[str, Any]:
    """Return the description of the API.

    Args:
        config: its limits override those in the file.
        requires_token: whether clients need a token.
    """
    text = files(__package__).joinpath("openapi.yaml").read_text(encoding="utf-8")
    document: dict[str, Any] = yaml.safe_load(text)
    document["info"]["description"] = f"{DISCLAIMER} {document['info']['description']}"
    document["components"]["schemas"]["Images"]["maxItems"] = config.max_images
    document["paths"]["/predict"]["post"]["requestBody"]["description"] = (
        f"At most {config.max_images} images, each of at most {config.max_upload_bytes:,} bytes "
        f"and {config.max_pixels:,} pixels."
    )
    if not requires_token:
        document["security"] = []
    return document
