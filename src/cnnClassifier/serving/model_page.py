"""The page about the served model, its reports, its JSON, and the example images."""

from pathlib import Path
from typing import Any

from flask import (
    Blueprint,
    Response,
    abort,
    current_app,
    jsonify,
    render_template,
    url_for,
)

from cnnClassifier.entity.bundle import HISTORY_FILE, ModelBundle
from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.entity.disclaimers import DISCLAIMER, SYNTHETIC
from cnnClassifier.serving.errors import RequestError
from cnnClassifier.serving.model_manager import ModelManager
from cnnClassifier.utils.common import load_json, read_numeric_csv
from cnnClassifier.utils.svg import polyline_points

# A report is one file with its own style and images as data; nothing in it may run or load more.
_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; sandbox"
)


def make_blueprint(manager: ModelManager, config: ServingConfig) -> Blueprint:
    """Return the routes, which describe the model in `manager`."""
    routes = Blueprint("model_page", __name__)

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
        bundle = predictor.bundle
        scores = read_scores(bundle, config.evaluation_dir)
        return render_template(
            "about.html",
            bundle=bundle,
            engine=predictor.engine,
            labels=list(map(bundle.label, bundle.classes)),
            scores=scores,
            metrics=model_info(bundle, scores)["metrics"],
            history=_history(config.bundle_dir),
            has_model_card=_find_report("model-card", bundle, config) is not None,
            has_data_report=_find_report("data-report", bundle, config) is not None,
            **texts,
        )

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
        "metrics": scores and {name: _metric(scores, name) for name in scores["counts"]},
        "disclaimer": DISCLAIMER,
    }


def read_scores(bundle: ModelBundle, evaluation_dir: Path | None) -> dict[str, Any] | None:
    """Return the content of scores.json; None if it is missing, damaged or of another model."""
    scores = _read_json(evaluation_dir / "scores.json") if evaluation_dir else {}
    return scores if scores.get("model_sha256") == bundle.model_sha256 else None


def _find_report(name: str, bundle: ModelBundle, config: ServingConfig) -> Path | None:
    path = None
    if name == "model-card" and read_scores(bundle, config.evaluation_dir):
        path = config.evaluation_dir and config.evaluation_dir / "MODEL_CARD.html"
    if name == "data-report" and config.report_path:
        path = config.report_path.with_suffix(".html")
        if _read_json(config.report_path).get("manifest_sha256") != bundle.manifest_sha256:
            return None  # the report of other data
    return path if path and config.show_reports and path.is_file() else None


def _metric(scores: dict[str, Any], name: str) -> dict[str, Any]:
    images, groups = scores["counts"][name]
    interval = scores["intervals"].get(name)
    return {"value": scores[name], "interval": interval, "images": images, "groups": groups}


def _history(bundle_dir: Path) -> dict[str, Any] | None:
    """Return the loss curves of training as polylines, scaled to the largest loss."""
    try:
        columns = read_numeric_csv(bundle_dir / HISTORY_FILE)
    except (OSError, ValueError):
        return None
    losses = {name: columns[name] for name in ("loss", "val_loss") if columns.get(name)}
    if not losses:
        return None
    max_loss = max(map(max, losses.values())) or 1.0
    lines = {}
    for name, values in losses.items():
        x = [epoch / max(1, len(values) - 1) for epoch in range(len(values))]
        lines[name] = polyline_points(x, [value / max_loss for value in values])
    epochs = len(next(iter(losses.values())))
    return {"epochs": epochs, "max_loss": max_loss, "lines": lines, "losses": losses}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = load_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
