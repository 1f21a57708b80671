"""Which server or store runs go to, who one is there, and what its errors say."""

import os
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from cnnClassifier.utils.errors import UserError
from cnnClassifier.utils.redaction import redact_credentials

LOCAL_STORE = "sqlite:///mlflow.db"
_PROBE_S = 5
# A server that is down shall cost seconds, not MLflow's default of many minutes; no usage data leaves the machine.
_CALM = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class TrackingError(UserError):
    """The tracking server doesn't answer, or refuses."""


def is_remote(uri: str) -> bool:
    """Tell whether a tracking URI is a server's."""
    return uri.startswith(("http://", "https://"))


def in_one_line(error: Exception, most: int = 300) -> str:
    """Return what an error says, in one line without passwords."""
    text = redact_credentials(" ".join(str(error).split()))
    if "error code 401" in text:  # MLflow's own words send people to a manual
        return "user or password refused (401); look at MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    return text[:most] or type(error).__name__


def credentials(uri: str) -> dict[str, str]:
    """Return the variables that MLflow must find in the environment to log in; DagsHub's token is user and password.

    The browser login of the package dagshub, and the repository that its `init` would create, are left alone.

    Raises:
        TrackingError: the server is DagsHub's and there is neither a token nor a password.
    """
    host = os.environ.get("DAGSHUB_CLIENT_HOST") or "https://dagshub.com"
    parts = urlsplit(uri)
    if (
        parts.hostname != urlsplit(host).hostname
        or parts.port != urlsplit(host).port
        or parts.password
    ):
        return {}
    if os.environ.get("MLFLOW_TRACKING_PASSWORD") or os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {}
    token = os.environ.get("DAGSHUB_USER_TOKEN")
    if not token:
        raise TrackingError(
            f"{uri}: no credentials; set DAGSHUB_USER_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    return {"MLFLOW_TRACKING_USERNAME": token, "MLFLOW_TRACKING_PASSWORD": token}


def environment(uri: str) -> dict[str, str]:
    """Return what a process that talks to a server has in its environment beside this one's.

    Raises:
        TrackingError: as `credentials`.
    """
    return {key: os.environ.get(key, value) for key, value in _CALM.items()} | credentials(uri)


def check_answers(uri: str) -> None:
    """Find out in seconds whether anything answers at a server's address.

    Raises:
        TrackingError: nothing does.
    """
    if not is_remote(uri):
        return
    try:
        # Without credentials: a refusal is an answer as well.
        urllib.request.urlopen(
            f"{redact_credentials(uri).rstrip('/')}/health", timeout=_PROBE_S
        ).close()
    except urllib.error.HTTPError:
        return
    except (OSError, ValueError) as error:
        raise TrackingError(f"{redact_credentials(uri)}: {in_one_line(error)}") from None


def lacks(error: Exception) -> bool:
    """Tell whether an error means that the server hasn't got what was asked for, such as a registry."""
    text = str(error).lower()
    code = getattr(error, "get_http_status_code", lambda: 0)()
    missing = getattr(error, "error_code", "") in (
        "ENDPOINT_NOT_FOUND",
        "NOT_FOUND",
        "NOT_IMPLEMENTED",
    )
    return (
        missing
        or code in (404, 405, 501)
        or "unsupported endpoint" in text
        or "error code 404" in text
    )


def ui_location(uri: str, experiment_id: str = "", run_id: str = "") -> str:
    """Return the address to open or the command to type to see runs."""
    plain = redact_credentials(uri)
    if not is_remote(uri):
        return f"mlflow ui --backend-store-uri {plain}"
    return f"{plain.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}" if run_id else plain
