"""What people look at beside the upload page: the page on the model, its reports, and the examples."""

from pathlib import Path

from flask import Blueprint, Response, abort, current_app, jsonify, render_template, url_for

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.entity.disclaimers import DISCLAIMER, SYNTHETIC
from cnnClassifier.serving.about import about as contents_of
from cnnClassifier.serving.evaluated import card_of, data_report_of
from cnnClassifier.serving.model_manager import ModelManager, ModelUnavailableError

# The reports are one file each, with a style of their own and pictures as data; nothing in them may run or reach out.
_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; sandbox"
)


def make_pages(host: ModelManager, config: ServingConfig) -> Blueprint:
    """Return the routes of the pages on the model in `host`, and of the examples."""
    pages = Blueprint("pages", __name__)

    def card(bundle: ModelBundle) -> Path | None:
        return card_of(bundle, config.evaluation_dir) if config.show_reports else None

    def data_report(bundle: ModelBundle) -> Path | None:
        return data_report_of(bundle, config.report_path) if config.show_reports else None

    @pages.get("/about")
    def about() -> str:
        notices = {"disclaimer": DISCLAIMER, "synthetic_notice": SYNTHETIC}
        try:
            predictor = host.predictor(wait=False)
        except ModelUnavailableError as error:
            return render_template("about.html", bundle=None, reason=str(error), **notices)
        contents = contents_of(predictor.bundle, config.bundle_dir, config.evaluation_dir)
        reports = {"card": card(predictor.bundle), "data_report": data_report(predictor.bundle)}
        return render_template(
            "about.html", engine=predictor.engine, **notices, **contents, **reports
        )

    @pages.get("/about/model-card")
    def model_card() -> Response:
        return _report(card(host.predictor(wait=True).bundle))

    @pages.get("/about/data-report")
    def data() -> Response:
        return _report(data_report(host.predictor(wait=True).bundle))

    @pages.get("/examples")
    def examples() -> Response:
        try:
            synthetic = host.predictor(wait=True).bundle.synthetic
        except ModelUnavailableError:
            synthetic = False
        if not synthetic:  # a model of real images would fail on the synthetic examples
            return jsonify([])
        found = []
        for path in sorted(Path(current_app.static_folder or "", "examples").glob("*.png")):
            url = url_for("static", filename=f"examples/{path.name}")
            found.append({"name": path.stem, "url": url})
        return jsonify(found)

    return pages


def _report(path: Path | None) -> Response:
    if path is None:
        abort(404)
    response = Response(path.read_bytes(), mimetype="text/html")
    response.headers["Content-Security-Policy"] = _REPORT_POLICY
    return response
