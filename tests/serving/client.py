"""Helpers of several tests: a configuration, and requests to a server."""

import json
import urllib.error
import urllib.request
from pathlib import Path

from cnnClassifier.entity.config_entity import ProjectConfig, ServingConfig
from tests.waiting import PATIENCE_S


def make_config(bundle_dir, **settings):
    """Return a configuration with small limits."""
    limits = {"max_upload_bytes": 200_000, "max_pixels": 10**6}
    project = ProjectConfig(
        name="chest-ct", title="Chest CT classifier", image_term="CT slice", domain="medical"
    )
    settings = {"host": "127.0.0.1", "port": 0, "project": project} | limits | settings
    return ServingConfig(bundle_dir=Path(bundle_dir), **settings)


def error_of(response):
    """Return the status and the error's code of a response of Flask's test client."""
    return response.status_code, response.json["error"]["code"]


def post(url, data, content_type="image/png"):
    """Return status, headers and JSON of a prediction."""
    request = urllib.request.Request(f"{url}/predict", data, {"Content-Type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            return response.status, response.headers, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, json.load(error)
