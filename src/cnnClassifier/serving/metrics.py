"""What Prometheus may ask for."""

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
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of one app; their labels come from the code, never from what a client writes.

    Args:
        turns: whose queue is shown.
    """

    def __init__(self, turns: ConcurrencyLimiter) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "http_requests", "Answers", ["method", "route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "http_request_seconds", "Time to answer", ["route"], buckets=_SECONDS, registry=registry
        )
        self._errors = Counter(
            "errors", "Requests and images that could not be used", ["code"], registry=registry
        )
        self._predictions = Counter(
            "predictions", "Classified images", ["class"], registry=registry
        )
        self._unfamiliar = Counter(
            "predictions_unfamiliar",
            "Images unlike all that the model was trained on",
            registry=registry,
        )
        self._uncertain = Counter(
            "predictions_uncertain",
            "Images for which another class was nearly called",
            registry=registry,
        )
        self._model = Info("model", "The model that answered last", registry=registry)
        Gauge(
            "predict_running", "Requests that hold images in memory", registry=registry
        ).set_function(lambda: turns.running)
        Gauge(
            "predict_waiting", "Requests that wait for their turn", registry=registry
        ).set_function(lambda: turns.waiting)
        ProcessCollector(registry=registry)

    def count_request(self, response: Response, seconds: float) -> None:
        """Count the request that is being answered."""
        route = request.url_rule.rule if request.url_rule else "none"
        method = request.method if request.method in _METHODS else "other"
        self._requests.labels(method, route, response.status_code).inc()
        self._seconds.labels(route).observe(seconds)
        if "error_code" in g:
            self._errors.labels(g.error_code).inc()

    def count_answers(self, answers: Sequence[Mapping[str, Any]], bundle: ModelBundle) -> None:
        """Count what was answered to one request.

        Args:
            answers: as they leave, see `answers.answer_all`.
            bundle: of the model that gave them.
        """
        for answer in answers:
            if "error" in answer:
                self._errors.labels(answer["error"]["code"]).inc()
                continue
            self._predictions.labels(answer["class"]).inc()
            self._unfamiliar.inc(answer["unfamiliar"])
            self._uncertain.inc(answer["uncertain"])
        self._model.info(
            {"id": bundle.model_id, "backbone": bundle.backbone, "synthetic": str(bundle.synthetic)}
        )

    def page(self) -> Response:
        """Return all of it in Prometheus's text format."""
        return Response(generate_latest(self.registry), content_type=CONTENT_TYPE_LATEST)
