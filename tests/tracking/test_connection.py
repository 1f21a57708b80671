import pytest

from cnnClassifier.tracking.connection import (
    TrackingError,
    credentials,
    is_unsupported,
    run_location,
)
from cnnClassifier.utils.redaction import redact_credentials

DAGSHUB = "https://dagshub.com/me/repo.mlflow"


def test_the_token_of_dagshub_is_user_and_password(monkeypatch):
    with pytest.raises(TrackingError, match="no credentials; set DAGSHUB_USER_TOKEN"):
        credentials(DAGSHUB)
    monkeypatch.setenv("DAGSHUB_USER_TOKEN", "token")
    both = {"MLFLOW_TRACKING_USERNAME": "token", "MLFLOW_TRACKING_PASSWORD": "token"}
    assert credentials(DAGSHUB) == both
    assert (
        credentials("http://127.0.0.1:5000/dagshub.com") == {}
    )  # merely named so: the token stays here
    monkeypatch.setenv("DAGSHUB_CLIENT_HOST", "http://127.0.0.1:5000")
    assert credentials("http://127.0.0.1:5000/me/repo.mlflow") == both
    assert credentials(DAGSHUB) == {}
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "own")
    assert credentials("http://127.0.0.1:5000/me/repo.mlflow") == {}


def test_addresses_have_no_passwords():
    assert (
        redact_credentials("a http://u:p@host/x b https://t@there/")
        == "a http://host/x b https://there/"
    )
    assert run_location("http://u:p@host/", "1", "r") == "http://host/#/experiments/1/runs/r"
    assert run_location("http://u:p@host/") == "http://host/"
    assert (
        run_location("sqlite:///mlflow.db", "1", "r")
        == "mlflow ui --backend-store-uri sqlite:///mlflow.db"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unsupported endpoint", True),
        ("failed with error code 404 != 200", True),
        ("error code 500", False),
    ],
)
def test_an_unsupported_feature_is_recognized_by_the_error(text, expected):
    assert is_unsupported(Exception(text)) is expected
