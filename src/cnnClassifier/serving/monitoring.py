"""Each request gets an identifier, security headers, a log line and a place in the metrics."""

import json
import logging
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flask import Flask, Response, g, request
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.serving.concurrency import ConcurrencyLimiter
from cnnClassifier.serving.drift_monitor import DriftMonitor
from cnnClassifier.utils.log import logger

ID_HEADER = "X-Request-Id"
_NO_FRAMES = "frame-ancestors 'none'"
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        f"connect-src 'self'; base-uri 'none'; form-action 'self'; {_NO_FRAMES}"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: with it browsers send `Origin: null` even with the site's own form.
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


# Of each feature of an image the metric's name, its description and the limits of its buckets.
_PIXELS = (64, 128, 256, 384, 512, 768, 1024, 2048, 4096)
_HISTOGRAMS = {
    "probability": (
        "prediction_probability",
        "Probability of the predicted class",
        (*np.arange(0.1, 0.9, 0.1).round(1), 0.9, 0.95, 0.99, 1),
    ),
    "distance": (
        "prediction_distance",
        "Distance from the training images",
        (0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.2, 1.4, 1.7, 2, 3, 5, 10),
    ),
    "width": ("image_width_pixels", "Width", _PIXELS),
    "height": ("image_height_pixels", "Height", _PIXELS),
    "mean_intensity": ("image_mean_intensity", "Mean gray level", range(16, 256, 16)),
}


class Metrics:
    """Metrics of one app; no label holds anything that a client sent.

    Args:
        limiter: its queue is exported.
        drift_monitor: counts the same images by hour.
    """

    def __init__(self, limiter: ConcurrencyLimiter, drift_monitor: DriftMonitor) -> None:
        self._drift_monitor = drift_monitor
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "http_requests", "Responses", ["method", "route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "http_request_seconds",
            "Time to respond",
            ["route"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )
        self._errors = Counter("errors", "Failed requests and images", ["code"], registry=registry)
        self._predictions = Counter("predictions", "Predictions", ["class"], registry=registry)
        self._unfamiliar = Counter(
            "predictions_unfamiliar", "Out-of-distribution images", registry=registry
        )
        self._uncertain = Counter(
            "predictions_uncertain",
            "Images near the decision threshold, or on which the heads disagree",
            registry=registry,
        )
        self._compared = Counter(
            "predictions_compared",
            "Predictions of the candidate, by whether the class is the same",
            ["agrees"],
            registry=registry,
        )
        self._features = {}
        for feature, (name, text, buckets) in _HISTOGRAMS.items():
            self._features[feature] = Histogram(name, text, buckets=buckets, registry=registry)
        self._model = Info("model", "The model of the latest prediction", registry=registry)
        running = Gauge("predict_running", "Requests that hold images in memory", registry=registry)
        running.set_function(lambda: limiter.running)
        waiting = Gauge("predict_waiting", "Requests that wait for a slot", registry=registry)
        waiting.set_function(lambda: limiter.waiting)
        ProcessCollector(registry=registry)

    def count_request(self, response: Response, seconds: float) -> None:
        """Count a request that has been answered."""
        route = request.url_rule.rule if request.url_rule else "none"
        method = request.method if request.method in _METHODS else "other"
        self._requests.labels(method, route, response.status_code).inc()
        self._seconds.labels(route).observe(seconds)
        if "error_code" in g:
            self._errors.labels(g.error_code).inc()

    def count_predictions(self, results: Sequence[Mapping[str, Any]], bundle: ModelBundle) -> None:
        """Count the predictions of one request.

        Args:
            results: the response's JSON, see `predict.predict_all`.
            bundle: of the model that made them.
        """
        classified = []
        for result in results:
            if "error" in result:
                self._errors.labels(result["error"]["code"]).inc()
                continue
            classified.append(result)
            self._predictions.labels(result["class"]).inc()
            self._unfamiliar.inc(result["unfamiliar"])
            self._uncertain.inc(result["uncertain"])
            agrees = result.get("compared", {}).get("agrees")
            if agrees is not None:
                self._compared.labels(str(agrees).lower()).inc()
            for feature, histogram in self._features.items():
                histogram.observe(result[feature])
        self._drift_monitor.count(classified, bundle)
        self._model.info(
            {"id": bundle.model_id, "backbone": bundle.backbone, "synthetic": str(bundle.synthetic)}
        )

    def export(self) -> Response:
        """Return all metrics in Prometheus's text format."""
        return Response(generate_latest(self._registry), content_type=CONTENT_TYPE_LATEST)


def new_request_id() -> str:
    """Return a random request identifier."""
    return secrets.token_hex(8)


def register_request_logging(
    app: Flask, metrics: Metrics, frame_ancestors: Sequence[str] = ()
) -> None:
    """Log and count each request; register it before everything else that handles requests.

    Args:
        app: the app.
        metrics: counts the requests.
        frame_ancestors: sites that may show a page in a frame.
    """
    policy = SECURITY_HEADERS["Content-Security-Policy"]
    if frame_ancestors:
        policy = policy.replace(_NO_FRAMES, f"frame-ancestors {' '.join(frame_ancestors)}")

    @app.before_request
    def start() -> None:
        g.start_time = time.perf_counter()
        request_id = request.headers.get(ID_HEADER, "")
        is_valid = re.fullmatch(r"[A-Za-z0-9._-]{1,64}", request_id)
        g.request_id = request_id if is_valid else new_request_id()

    @app.after_request
    def finish(response: Response) -> Response:
        response.headers.setdefault("Content-Security-Policy", policy)
        _add_headers(response)
        seconds = time.perf_counter() - g.start_time
        metrics.count_request(response, seconds)
        # The page polls /readyz; only what a user did is shown on the terminal.
        level = logging.INFO if request.method == "POST" else logging.DEBUG
        # logfmt, without content, file names or query.
        fields = {
            "method": request.method[:10] if request.method.isalpha() else "other",
            "path": json.dumps(request.path[:200]),
            "status": response.status_code,
            "bytes": request.content_length or 0,
            "ms": f"{seconds * 1000:.0f}",
            "request": g.request_id,
            "client": g.get("client", "-"),
            "images": g.get("image_count", 0),
            "code": g.get("error_code", "-"),
        }
        logger.log(level, " ".join(f"{name}={value}" for name, value in fields.items()))
        return response


def _add_headers(response: Response) -> None:
    headers = response.headers
    for name, value in SECURITY_HEADERS.items():
        headers.setdefault(name, value)
    headers[ID_HEADER] = g.request_id
    if request.is_secure:  # over plain HTTP browsers ignore it and log a warning
        headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
    if headers.get("Access-Control-Allow-Origin"):
        headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    if request.endpoint != "static":
        headers.setdefault("Cache-Control", "no-store")
