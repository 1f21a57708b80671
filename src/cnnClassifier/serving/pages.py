"""The pages and the JSON that describe the model and the API, and the example images."""

import re
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
    send_file,
    url_for,
)

from cnnClassifier.entity.bundle import HISTORY_FILE, ModelBundle
from cnnClassifier.entity.config_entity import ProjectConfig, ServingConfig
from cnnClassifier.entity.disclaimers import PHANTOM_SCHEME
from cnnClassifier.evaluation.drift_report import (
    DriftReport,
    first_hour_of,
    format_page,
    make_report,
)
from cnnClassifier.evaluation.scores import (
    SPLIT_TEXTS,
    TOO_FEW_GROUPS,
    format_limits,
    metric_labels,
    summarize,
)
from cnnClassifier.serving.drift_monitor import DriftMonitor
from cnnClassifier.serving.errors import RequestError
from cnnClassifier.serving.model_manager import ModelManager
from cnnClassifier.utils.common import load_json, read_numeric_csv
from cnnClassifier.utils.errors import UserError
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.svg import polyline_points

_MAX_EXAMPLES = 12
_DRIFT_HOURS = (24, 24 * 7, 24 * 30)  # periods of /drift; the first is the default
_DICOM_KEYS = ("Window", "Frame", "dicom", "application/dicom")  # of openapi.yaml
_EXAMPLE_TYPES = (".png", ".jpg", ".jpeg", ".webp", ".gif")  # which browsers show
# A report is one file with its own style and images as data; nothing in it may run or load more.
_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; sandbox"
)


def make_blueprint(
    manager: ModelManager, config: ServingConfig, drift_monitor: DriftMonitor, requires_token: bool
) -> Blueprint:
    """Return the routes, which describe the model in `manager`, the API and the served images."""
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
        scores = read_scores(bundle, config.evaluation_dir)
        return jsonify(model_info(bundle, scores, config.project))

    @routes.get("/about")
    def about() -> str:
        try:
            predictor = manager.predictor(wait=False)
        except RequestError as error:
            return render_template("about.html", bundle=None, reason=str(error))
        content = _describe_model(predictor.bundle, config)
        content["has_drift_report"] = drift_monitor.has_images(predictor.bundle)
        return render_template("about.html", engine=predictor.engine, **content)

    @routes.get("/drift")
    def drift() -> Response:
        text = request.args.get("hours", str(_DRIFT_HOURS[0]))
        if not re.fullmatch("[1-9][0-9]{0,4}", text):
            raise RequestError(400, "bad_option", "hours: expected a whole number from 1 to 99999")
        bundle = manager.predictor(wait=True).bundle
        since, group_size = first_hour_of(int(text)), config.drift_group_size
        try:
            report = make_report(bundle, drift_monitor.served(bundle, since), since, group_size)
        except UserError as error:
            report = DriftReport(bundle, since, 0, [], problem=str(error))
        periods = {}
        for hours in _DRIFT_HOURS:
            name = f"{hours} hours" if hours < 48 else f"{hours // 24} days"
            is_shown = hours == int(text)
            periods[name] = None if is_shown else url_for("pages.drift", hours=hours)
        return _report_response(format_page(report, config.project.disclaimer, periods))

    @routes.get("/about/<any('model-card', 'data-report'):name>")
    def report(name: str) -> Response:
        path = _find_report(name, manager.predictor(wait=True).bundle, config)
        if path is None:
            abort(404)
        return _report_response(path.read_bytes())

    _add_examples(routes, manager, config.project)
    return routes


def _add_examples(routes: Blueprint, manager: ModelManager, project: ProjectConfig) -> None:
    """Add the list of example images, and the images."""

    @routes.get("/examples")
    def examples() -> Response:
        synthetic = project.examples == "auto"
        items = []
        for path in _example_paths(manager.predictor(wait=True).bundle, project):
            url = url_for("pages.example", name=path.name)
            name = path.stem if synthetic else path.name
            items.append({"name": name, "url": url, "synthetic": synthetic})
        return jsonify(items)

    @routes.get("/examples/<name>")
    def example(name: str) -> Response:
        for path in _example_paths(manager.predictor(wait=True).bundle, project):
            if path.name == name:
                return send_file(path.resolve())
        abort(404)


def _report_response(content: bytes | str) -> Response:
    response = Response(content, mimetype="text/html")
    response.headers["Content-Security-Policy"] = _REPORT_POLICY
    return response


def _example_paths(bundle: ModelBundle, project: ProjectConfig) -> list[Path]:
    """Return the example images of the configured folder, or the stored synthetic ones.

    A model of real images has never seen a synthetic one: its prediction would mean nothing.
    """
    if project.examples not in ("auto", "none"):
        folder = Path(project.examples)
    elif project.examples == "auto" and bundle.data_source.startswith(PHANTOM_SCHEME):
        folder = Path(str(current_app.static_folder), "examples")
    else:
        return []
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        logger.warning("project.examples: %s", error)
        return []
    return [path for path in files if path.suffix.lower() in _EXAMPLE_TYPES][:_MAX_EXAMPLES]


def _describe_model(bundle: ModelBundle, config: ServingConfig) -> dict[str, Any]:
    """Return what /about shows of a model, its metrics and its reports."""
    scores = read_scores(bundle, config.evaluation_dir)
    content: dict[str, Any] = {
        "bundle": bundle,
        "labels": list(map(bundle.label, bundle.classes)),
        "scores": scores,
        "metrics": describe_metrics(scores),
        "limits": format_limits,
        "too_few_groups": TOO_FEW_GROUPS,
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
    document: dict[str, Any] = yaml.safe_load(text.replace("{model}", config.project.name))
    project, info = config.project, document["info"]
    info |= {"title": project.title, "summary": f"Classify {project.images}, with probabilities."}
    info["description"] = f"{project.disclaimer} {info['description']}".strip()
    document["components"]["schemas"]["Images"]["maxItems"] = config.max_images
    document["paths"]["/predict"]["post"]["requestBody"]["description"] = (
        f"At most {config.max_images} images, each of at most {config.max_upload_bytes:,} bytes "
        f"and {config.max_pixels:,} pixels."
    )
    document["components"]["schemas"]["ModelName"]["const"] = project.name
    if not requires_token:
        document["security"] = document["paths"]["/train"]["post"]["security"] = []
    return document if project.is_medical else _without_dicom(document)


def _without_dicom(part: Any) -> Any:
    """Return a part of the description without the window and the frame of DICOM files."""
    if isinstance(part, list):
        return [_without_dicom(item) for item in part if not _is_of_dicom(item)]
    if not isinstance(part, dict):
        return part
    kept = {}
    for name, item in part.items():
        if name not in _DICOM_KEYS and not _is_of_dicom(item):
            kept[name] = _without_dicom(item)
    return kept


def _is_of_dicom(item: Any) -> bool:
    reference = item.get("schema", item).get("$ref", "") if isinstance(item, dict) else ""
    return reference.rpartition("/")[2] in _DICOM_KEYS


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


def model_info(
    bundle: ModelBundle, scores: dict[str, Any] | None, project: ProjectConfig
) -> dict[str, Any]:
    """Return the JSON of /model.

    Args:
        bundle: the model.
        scores: content of its scores.json, if available.
        project: its texts.
    """
    return {
        "model": bundle.model_id,
        "model_sha256": bundle.model_sha256,
        "backbone": bundle.backbone,
        "classes": bundle.classes,
        "labels": {name: bundle.label(name) for name in bundle.classes},
        "positive_class": bundle.positive_class,
        "threshold": bundle.threshold,
        "image_size": bundle.image_size,
        "synthetic": bundle.synthetic,
        # Not the address or path of the training data.
        "data_source": "synthetic" if bundle.synthetic else "images",
        "metrics_of": scores and scores["split"],
        "metrics": describe_metrics(scores),
        "disclaimer": project.disclaimer,
    }


def read_scores(bundle: ModelBundle, evaluation_dir: Path | None) -> dict[str, Any] | None:
    """Return the content of scores.json; None if it is missing, damaged or of another model."""
    scores = _read_json(evaluation_dir / "scores.json") if evaluation_dir else {}
    return scores if scores.get("model_sha256") == bundle.model_sha256 else None


def describe_metrics(scores: dict[str, Any] | None) -> dict[str, dict[str, Any]] | None:
    """Return value, interval and sizes of each metric in scores.json; None without it."""
    if scores is None:
        return None
    described = {}
    for name, (images, groups) in scores["counts"].items():
        interval = scores["intervals"].get(name)
        size = {"images": images, "groups": groups}
        described[name] = {"value": scores[name], "interval": interval, **size}
    return described


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
