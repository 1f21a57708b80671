import hashlib
import re

import pytest

from cnnClassifier.serving.app import create_app
from cnnClassifier.serving.auth import Token, create_token, hash_token, parse_tokens
from cnnClassifier.utils.errors import ConfigError
from tests.serving.client import error_of, make_config

NAVIGATION = {"Accept": "text/html,*/*;q=0.8", "Sec-Fetch-Mode": "navigate"}
READER, READER_ENTRY = create_token("reader", may_train=False)
TRAINER, TRAINER_ENTRY = create_token("trainer", may_train=True)
ENTRIES = f"{READER_ENTRY}, {TRAINER_ENTRY}"
NO_DIGEST = "0" * 64


@pytest.fixture
def make_client(tmp_path):
    def make(entries=ENTRIES, **settings):
        config = make_config(tmp_path, **settings)
        return create_app(config, tokens=parse_tokens(entries)).test_client()

    return make


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("suffix", ["", ":train", ":feedback", ":train:feedback", ",", " \n"])
def test_entries_are_parsed_in_any_order(suffix):
    token, entry = create_token("train.bot-1", may_train=False)
    assert entry == f"train.bot-1:{hashlib.sha256(token.encode()).hexdigest()}"
    for text in (f"{entry}{suffix}, {TRAINER_ENTRY}", f"{TRAINER_ENTRY}\n{entry}{suffix}"):
        tokens = parse_tokens(text)
        assert tokens == {
            hash_token(token): Token("train.bot-1", ":train" in suffix, ":feedback" in suffix),
            hash_token(TRAINER): Token("trainer", may_train=True),
        }
    assert parse_tokens(" ,\n") == {}


@pytest.mark.parametrize(
    "text",
    [
        "secret",
        "a:b",
        f"a:{NO_DIGEST[1:]}",
        f":{NO_DIGEST}",
        f"a b:{NO_DIGEST}",
        f"a:{NO_DIGEST}:root",
        "train",
    ],
)
def test_an_invalid_entry_is_refused_without_being_shown(text):
    with pytest.raises(ConfigError, match=r"API_TOKENS: entry \d: expected name:sha256") as caught:
        parse_tokens(text)
    assert not re.search("0000|secret", str(caught.value))


def test_names_are_valid_and_unique():
    with pytest.raises(ConfigError, match="the name a is used twice"):
        parse_tokens(f"a:{NO_DIGEST} a:{'1' * 64}")
    with pytest.raises(ConfigError, match="token name"):
        create_token("no name", False)


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/model", "/metrics", "/predict", "/train", "/train/1", "/nothing", "/session"),
        *("/version", "/series", "/invocations", "/v1/predict"),
    ],
)
def test_without_a_token_only_health_and_static_files_are_served(make_client, path):
    client = make_client()
    response = client.get(path)
    assert error_of(response) == (401, "token_needed")
    assert response.headers["WWW-Authenticate"] == "Bearer"
    for wrong in ("", "x", READER + "x", READER[:-1]):
        assert error_of(client.get(path, headers=bearer(wrong))) == (401, "bad_token")
    assert client.get(path, headers=bearer(READER)).status_code != 401
    client.set_cookie("session", READER)
    assert client.get(path).status_code == 401
    for public in ("/livez", "/v2/health/live", "/static/app.js"):
        assert client.get(public).status_code == 200
    for public in ("/readyz", "/ping", "/health", "/v2/health/ready"):
        assert client.get(public).status_code == 503


def test_sign_in_and_out(make_client):
    client = make_client()
    form = client.get("/model", headers=NAVIGATION)
    assert (form.status_code, form.mimetype) == (401, "text/html")
    assert re.search('<form [^>]*method="post" action="/session"', form.text)
    assert '<input type="hidden" name="next" value="/model">' in form.text
    assert not re.search(r"<script|<style|\sstyle=|\son\w+=", form.text)
    wrong = client.post("/session", data={"token": "x", "next": "/model"}, headers=NAVIGATION)
    assert wrong.status_code == 401
    assert "Unknown token" in wrong.text
    assert "Set-Cookie" not in wrong.headers
    right = client.post("/session", data={"token": READER, "next": "/"}, headers=NAVIGATION)
    assert (right.status_code, right.headers["Location"]) == (303, "/")
    cookie = right.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert READER not in cookie
    session = client.get_cookie("session").value
    page = client.get("/", headers=NAVIGATION)
    assert page.status_code == 200
    assert '<form id="sign-out" method="post" action="/session/end">' in page.text
    start = client.post("/train")
    assert error_of(start) == (401, "bearer_needed")
    assert start.headers["WWW-Authenticate"] == "Bearer"
    assert client.post("/session/end").status_code == 303
    assert client.get_cookie("session") is None
    client.set_cookie("session", session)  # signing out ends the session on the server as well
    assert client.get("/").status_code == 401


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/model", "/model"),
        ("//evil.test", "/"),
        ("/\\evil.test", "/"),
        ("https://evil.test", "/"),
        ("/a\nb", "/"),
    ],
)
def test_sign_in_redirects_to_this_site_and_is_secure(make_client, target, location):
    data = {"token": READER, "next": target}
    response = make_client().post("/session", data=data, base_url="https://ct.example")
    assert response.headers["Location"] == location
    assert "Secure" in response.headers["Set-Cookie"]


def test_guessing_is_limited_but_locks_nobody_out(make_client):
    client = make_client()
    errors = [error_of(client.get("/model", headers=bearer("x"))) for _ in range(12)]
    assert errors == [(401, "bad_token")] * 10 + [(429, "too_many_failures")] * 2
    response = client.post("/session", data={"token": "y"})
    assert response.status_code == 429
    assert "Retry-After" in response.headers
    assert client.get("/model", headers=bearer(READER)).status_code == 503


def test_each_client_has_its_own_rate_limit(make_client):
    client = make_client(rate_limit="2/minute")
    statuses = [client.get("/model", headers=bearer(READER)).status_code for _ in range(3)]
    assert statuses == [503, 503, 429]
    limited = client.get("/model", headers=bearer(READER))
    assert error_of(limited) == (429, "too_many_requests")
    assert 1 <= int(limited.headers["Retry-After"]) <= 61
    assert client.get("/model", headers=bearer(TRAINER)).status_code == 503
    assert {client.get("/livez").status_code for _ in range(5)} == {200}
    anonymous = make_client("", rate_limit="2/minute")
    assert [anonymous.get("/model").status_code for _ in range(3)] == [503, 503, 429]
    other = anonymous.get("/model", environ_overrides={"REMOTE_ADDR": "192.0.2.7"})
    assert other.status_code == 503


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({}, False),
        ({"Origin": "http://localhost"}, False),
        ({"Origin": "null", "Sec-Fetch-Site": "same-origin"}, False),
        ({"Origin": "https://friend.test", "Sec-Fetch-Site": "cross-site"}, False),
        ({"Origin": "null"}, True),
        ({"Origin": "http://localhost:81"}, True),
        ({"Origin": "https://evil.test"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, True),
        ({"Sec-Fetch-Site": "same-site"}, True),
    ],
)
def test_other_sites_may_not_send_requests(make_client, headers, refused):
    client = make_client("", cors_origins=("https://friend.test",))
    response = client.post("/predict", data=b"x", content_type="image/png", headers=headers)
    assert (error_of(response) == (403, "other_site")) is refused


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost", True),
        ("localhost:8080", True),
        ("localhost.", True),
        ("127.0.0.1:1", True),
        ("[::1]:8080", True),
        ("ct.localhost", True),
        ("evil.test", False),
        ("localhost.evil.test:8080", False),
        ("[::1", False),
        ("", True),
    ],
)
def test_on_loopback_only_local_host_names_are_answered(make_client, host, known):
    for settings, refused in (({"host": "127.0.0.1"}, not known), ({"host": "0.0.0.0"}, False)):
        response = make_client("", **settings).get("/livez", headers={"Host": host})
        assert (response.status_code == 421) is refused
