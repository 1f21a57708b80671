"""Reach the tracking server: address, credentials, MLflow's settings and error messages."""

import configparser
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from cnnClassifier.utils.common import project_dir
from cnnClassifier.utils.errors import UserError
from cnnClassifier.utils.redaction import redact_credentials

LOCAL_URI = "sqlite:///mlflow.db"
DAGSHUB_REMOTE = "dagshub"  # name of the DVC remote
PROBE_TIMEOUT_S = 3
_UNSUPPORTED_CODES = ("ENDPOINT_NOT_FOUND", "NOT_FOUND", "NOT_IMPLEMENTED")


class TrackingError(UserError):
    """The tracking server doesn't answer, or refuses a request."""


def is_remote(uri: str) -> bool:
    """Return whether a tracking URI is the address of a server."""
    return uri.startswith(("http://", "https://"))


def error_message(error: Exception, max_length: int = 300) -> str:
    """Return the message of an error in one line, without passwords."""
    text = redact_credentials(" ".join(str(error).split()))
    if "error code 401" in text:  # MLflow's own text refers to a manual
        variables = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        return f"user or password refused (401); check {variables}"
    return text[:max_length] or type(error).__name__


def dagshub_host() -> str:
    """Return the address of DagsHub, which DAGSHUB_CLIENT_HOST overrides."""
    return (os.environ.get("DAGSHUB_CLIENT_HOST") or "https://dagshub.com").rstrip("/")


def credentials(uri: str) -> dict[str, str]:
    """Return the environment variables that MLflow needs to log in.

    DagsHub takes its token as user name and password. The browser login of the `dagshub` package,
    and the repository that its `init` would create, are avoided.

    Raises:
        TrackingError: the server is DagsHub's and neither a token nor a password is set.
    """
    if not _is_at(uri, dagshub_host()) or urlsplit(uri).password:
        return {}
    if os.environ.get("MLFLOW_TRACKING_PASSWORD") or os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {}
    token = os.environ.get("DAGSHUB_USER_TOKEN") or _stored_token()
    if not token:
        raise TrackingError(
            f"{uri}: no credentials; set DAGSHUB_USER_TOKEN, or MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or run `python main.py connect dagshub USER/REPO`"
        )
    return {"MLFLOW_TRACKING_USERNAME": token, "MLFLOW_TRACKING_PASSWORD": token}


def _stored_token() -> str:
    """Return the token that the command connect has stored for DVC's remote, or an empty text."""
    folder = project_dir() / ".dvc"
    config = configparser.ConfigParser(interpolation=None)
    try:
        config.read([folder / "config", folder / "config.local"], encoding="utf-8")
        remote = config[f"'remote \"{DAGSHUB_REMOTE}\"'"]
    except (configparser.Error, KeyError):
        return ""
    if not _is_at(remote.get("url", ""), dagshub_host()):
        return ""
    return remote.get("password", "").strip("\"'")  # DVC quotes special characters


def _is_at(uri: str, host: str) -> bool:
    address, expected = urlsplit(uri), urlsplit(host)
    return (address.hostname, address.port) == (expected.hostname, expected.port)


@contextmanager
def mlflow_environment(uri: str, timeout_s: int, retries: int) -> Iterator[None]:
    """Set the variables that MLflow reads for each request; one that the user has set stays.

    Args:
        uri: address of the server.
        timeout_s: for a connection, and for each part of a response.
        retries: after a failed request.

    Raises:
        TrackingError: as `credentials`.
    """
    variables = credentials(uri)
    defaults = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout_s),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries),
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }
    for name in defaults.keys() - os.environ.keys():
        variables[name] = defaults[name]
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


def check_reachable(uri: str) -> None:
    """Check within seconds that a server answers; any HTTP status is an answer.

    Raises:
        TrackingError: it doesn't.
    """
    if not is_remote(uri):
        return
    address = redact_credentials(uri).rstrip("/")  # without credentials: a refusal is an answer
    try:
        urllib.request.urlopen(f"{address}/health", timeout=PROBE_TIMEOUT_S).close()  # noqa: S310
    except urllib.error.HTTPError:
        return
    except (OSError, ValueError) as error:
        raise TrackingError(f"{address}: {error_message(error)}") from None


def is_unsupported(error: Exception) -> bool:
    """Return whether an error means that the server lacks a feature, such as a registry."""
    text = str(error).lower()
    status = getattr(error, "get_http_status_code", lambda: 0)()
    return (
        getattr(error, "error_code", "") in _UNSUPPORTED_CODES
        or status in (404, 405, 501)
        or "unsupported endpoint" in text
        or "error code 404" in text
    )


def run_location(uri: str, experiment_id: str = "", run_id: str = "") -> str:
    """Return the address to open, or the command to type, to see a run or all runs."""
    address = redact_credentials(uri)
    if not is_remote(uri):
        return f"mlflow ui --backend-store-uri {address}"
    if not run_id:
        return address
    return f"{address.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"
