"""Metrics for Prometheus."""

from collections.abc import Mapping, Sequence
from typing import Any

from flask import Response, g, request
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

_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Metrics of one app; no label holds anything that a client sent.

    Args:
        limiter: its queue is exported.
    """

    def __init__(self, limiter: ConcurrencyLimiter) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "http_requests", "Responses", ["method", "route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "http_request_seconds",
            "Time to respond",
            ["route"],
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._errors = Counter("errors", "Failed requests and images", ["code"], registry=registry)
        self._predictions = Counter("predictions", "Predictions", ["class"], registry=registry)
        self._unfamiliar = Counter(
            "predictions_unfamiliar", "Out-of-distribution images", registry=registry
        )
        self._uncertain = Counter(
            "predictions_uncertain", "Images near the decision threshold", registry=registry
        )
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
            results: the response's JSON, see `responses.predict_all`.
            bundle: of the model that made them.
        """
        for result in results:
            if "error" in result:
                self._errors.labels(result["error"]["code"]).inc()
                continue
            self._predictions.labels(result["class"]).inc()
            self._unfamiliar.inc(result["unfamiliar"])
            self._uncertain.inc(result["uncertain"])
        self._model.info(
            {"id": bundle.model_id, "backbone": bundle.backbone, "synthetic": str(bundle.synthetic)}
        )

    def export(self) -> Response:
        """Return all metrics in Prometheus's text format."""
        return Response(generate_latest(self._registry), content_type=CONTENT_TYPE_LATEST)
