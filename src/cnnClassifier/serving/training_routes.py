"""Routes that start the pipeline and tell how it goes."""

from flask import Blueprint, Response, jsonify, url_for

from cnnClassifier.serving.auth import need_training_right
from cnnClassifier.serving.errors import RequestError
from cnnClassifier.serving.training_jobs import Jobs, JobsError, status_of

_HINT = "POST starts a training in the background, with a token that may; GET /train/<id> tells how it goes"


def make_training_routes(jobs: Jobs | None) -> Blueprint:
    """Return the routes of `/train`.

    Args:
        jobs: None where the app can't train.
    """
    routes = Blueprint("training", __name__)

    @routes.post("/train")
    def start() -> tuple[Response, int, dict[str, str]]:
        need_training_right(by_header=True)
        if jobs is None:
            raise RequestError(501, "training_unavailable", "this server wasn't started to train")
        try:
            job = jobs.start()
        except JobsError as error:
            if error.running is None:
                raise RequestError(501, "training_unavailable", str(error)) from None
            where = {"Location": url_for("training.status", identifier=error.running)}
            raise RequestError(409, "already_running", str(error), where) from None
        where = {"Location": url_for("training.status", identifier=job.id)}
        return jsonify(status_of(job, [])), 202, where

    @routes.get("/train")
    def hint() -> Response:
        raise RequestError(405, "method_not_allowed", _HINT, {"Allow": "POST"})

    @routes.get("/train/<identifier>")
    def status(identifier: str) -> Response:
        need_training_right()
        job = jobs.get(identifier) if jobs else None
        if jobs is None or job is None:
            raise RequestError(404, "no_such_job", "there is no such job")
        return jsonify(status_of(job, jobs.tail(identifier)))

    return routes
