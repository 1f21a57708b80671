"""The pages and the JSON that describe the model and the API, and the example images."""

from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from flask import (
    Blueprint,
    Response,
    abort,
    current_app,
    jsonify,
    render_template,
    request,
    url_for,
)

from cnnClassifier.entity.bundle import HISTORY_FILE, ModelBundle
from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.entity.disclaimers import DISCLAIMER, SYNTHETIC
from cnnClassifier.evaluation.scores import (
    SPLIT_TEXTS,
    format_limits,
    metric_labels,
    summarize,
)
from cnnClassifier.serving.errors import RequestError
from cnnClassifier.serving.model_manager import ModelManager
from cnnClassifier.utils.common import load_json, read_numeric_csv
from cnnClassifier.utils.svg import polyline_points

# A report is one file with its own style and images as data; nothing in it may run or load more.
_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; sandbox"
)


def make_blueprint(manager: ModelManager, config: ServingConfig, requires_token: bool) -> Blueprint:
    """Return the routes, which describe the model in `manager` and the API."""
    routes = Blueprint("pages", __name__)

    @routes.get("/openapi.json")
    def openapi() -> Response:
        return jsonify(_load_openapi(config, requires_token))

    @routes.get("/docs")
    def docs() -> str:
        document = _load_openapi(config, requires_token)
        return render_template("docs.html", document=document, origin=request.host_url.rstrip("/"))

    @routes.get("/model")
    def model() -> Response:
        bundle = manager.predictor(wait=True).bundle
        return jsonify(model_info(bundle, read_scores(bundle, config.evaluation_dir)))

    @routes.get("/about")
    def about() -> str:
        texts = {"disclaimer": DISCLAIMER, "synthetic_notice": SYNTHETIC}
        try:
            predictor = manager.predictor(wait=False)
        except RequestError as error:
            return render_template("about.html", bundle=None, reason=str(error), **texts)
        content = _describe_model(predictor.bundle, config)
        return render_template("about.html", engine=predictor.engine, **content, **texts)

    @routes.get("/about/<any('model-card', 'data-report'):name>")
    def report(name: str) -> Response:
        path = _find_report(name, manager.predictor(wait=True).bundle, config)
        if path is None:
            abort(404)
        response = Response(path.read_bytes(), mimetype="text/html")
        response.headers["Content-Security-Policy"] = _REPORT_POLICY
        return response

    @routes.get("/examples")
    def examples() -> Response:
        # On real images the model has never seen a synthetic one: its prediction means nothing.
        items = []
        if manager.predictor(wait=True).bundle.synthetic:
            for path in sorted(Path(str(current_app.static_folder), "examples").glob("*.png")):
                url = url_for("static", filename=f"examples/{path.name}")
                items.append({"name": path.stem, "url": url})
        return jsonify(items)

    return routes


def _describe_model(bundle: ModelBundle, config: ServingConfig) -> dict[str, Any]:
    """Return what /about shows of a model, its metrics and its reports."""
    scores = read_scores(bundle, config.evaluation_dir)
    content: dict[str, Any] = {
        "bundle": bundle,
        "labels": list(map(bundle.label, bundle.classes)),
        "scores": scores,
        "metrics": model_info(bundle, scores)["metrics"],
        "limits": format_limits,
        "history": _history(config.bundle_dir),
        "has_model_card": _find_report("model-card", bundle, config) is not None,
        "has_data_report": _find_report("data-report", bundle, config) is not None,
    }
    if scores:
        content["summary"] = summarize(scores)
        content["metric_labels"] = metric_labels(scores)
        content["split_text"] = SPLIT_TEXTS[scores["split"]]
    return content


def _load_openapi(config: ServingConfig, requires_token: bool) -> dict[str, Any]:
    """Return openapi.yaml, with the limits of this server."""
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


def _find_report(name: str, bundle: ModelBundle, config: ServingConfig) -> Path | None:
    """Return the path of a report; None if it is hidden, missing or of another model or data."""
    path = None
    if name == "model-card" and read_scores(bundle, config.evaluation_dir):
        path = config.evaluation_dir and config.evaluation_dir / "MODEL_CARD.html"
    if name == "data-report" and config.report_path:
        report = _read_json(config.report_path)
        if report.get("manifest_sha256") == bundle.manifest_sha256:
            path = config.report_path.with_suffix(".html")
    return path if path and config.show_reports and path.is_file() else None


def model_info(bundle: ModelBundle, scores: dict[str, Any] | None) -> dict[str, Any]:
    """Return the JSON of /model.

    Args:
        bundle: the model.
        scores: content of its scores.json, if available.
    """
    return {
        "model": bundle.model_id,
        "model_sha256": bundle.model_sha256,
        "backbone": bundle.backbone,
        "classes": bundle.classes,
        "labels": {name: bundle.label(name) for name in bundle.classes},
        "positive_class": bundle.positive_class,
        "threshold": bundle.threshold if len(bundle.classes) == 2 else None,
        "image_size": bundle.image_size,
        "synthetic": bundle.synthetic,
        # Not the address or path of the training data.
        "data_source": "phantom" if bundle.synthetic else "images",
        "metrics_of": scores and scores["split"],
        "metrics": scores and {name: _metric(scores, name) for name in scores["counts"]},
        "disclaimer": DISCLAIMER,
    }


def read_scores(bundle: ModelBundle, evaluation_dir: Path | None) -> dict[str, Any] | None:
    """Return the content of scores.json; None if it is missing, damaged or of another model."""
    scores = _read_json(evaluation_dir / "scores.json") if evaluation_dir else {}
    return scores if scores.get("model_sha256") == bundle.model_sha256 else None


def _metric(scores: dict[str, Any], name: str) -> dict[str, Any]:
    images, groups = scores["counts"][name]
    interval = scores["intervals"].get(name)
    return {"value": scores[name], "interval": interval, "images": images, "groups": groups}


def _history(bundle_dir: Path) -> dict[str, Any] | None:
    """Return the loss curves of training as polylines, scaled to the largest loss."""
    try:
        columns = read_numeric_csv(bundle_dir / HISTORY_FILE)
        losses = {name: columns[name] for name in ("loss", "val_loss")}
        max_loss = max(map(max, losses.values()))
    except (OSError, ValueError, KeyError):
        return None
    epochs = len(losses["loss"])
    x = np.linspace(0, 1, epochs)
    lines = {name: polyline_points(x, np.divide(losses[name], max_loss)) for name in losses}
    return {"epochs": epochs, "max_loss": max_loss, "lines": lines, "losses": losses}


def _read_json(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        content = load_json(path)
        if isinstance(content, dict):
            return content
    return {}
