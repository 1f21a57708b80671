import hashlib
import re

import pytest

from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.serving.app import create_app
from cnnClassifier.serving.tokens import find, new_token, read_tokens
from cnnClassifier.utils.errors import ConfigError

PAGE = {"Accept": "text/html,*/*;q=0.8", "Sec-Fetch-Mode": "navigate"}


@pytest.fixture(scope="module")
def tokens():
    """Return tokens as presented, and entries as configured."""
    made = {name: new_token(name, name == "trainer") for name in ("reader", "trainer")}
    return {name: token for name, (token, _) in made.items()}, ", ".join(
        entry for _, entry in made.values()
    )


@pytest.fixture
def make_app(tmp_path, tokens):
    def make(entries=tokens[1], **settings):
        config = ServingConfig(
            **{"bundle_dir": tmp_path, "host": "127.0.0.1", "port": 0} | settings, **LIMITS
        )
        return create_app(config, tokens=read_tokens(entries))

    return make


LIMITS = {"max_upload_bytes": 10_000, "max_pixels": 10_000}


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("end", ["", ":train", ":predict,train", ":predict", ",", " \n"])
def test_entries_are_read_and_found(end):
    (token, entry), (other, more) = new_token("ci.bot-1", False), new_token("b", True)
    for text in (f"{entry}{end}, {more}", f"{more}\n{entry}{end}"):
        tokens = read_tokens(text)
        found = find(tokens, token)
        assert found.name == "ci.bot-1"
        assert found.rights == {"predict", *(["train"] if "train" in end else [])}
        assert find(tokens, other).rights == {"predict", "train"}
        assert find(tokens, token + "x") is find(tokens, "") is find(tokens, "\udcff") is None
    assert token not in entry
    assert hashlib.sha256(token.encode()).hexdigest() in entry
    assert read_tokens("") == read_tokens(" ,\n") == ()


@pytest.mark.parametrize(
    "text",
    [
        "secret",
        "a:b",
        "a:" + "0" * 63,
        ":" + "0" * 64,
        "a b:" + "0" * 64,
        "a:" + "0" * 64 + ":root",
        "train",
    ],
)
def test_a_malformed_entry_is_refused_without_being_shown(text):
    with pytest.raises(ConfigError, match=r"API_TOKENS: entry \d: expected name:sha256") as caught:
        read_tokens(text)
    assert "0000" not in str(caught.value)
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match="a stands there twice"):
        read_tokens(f"a:{'0' * 64} a:{'1' * 64}")
    with pytest.raises(ConfigError, match="token name"):
        new_token("no name", False)


@pytest.mark.parametrize(
    "path", ["/", "/model", "/metrics", "/predict", "/train", "/train/1", "/nothing", "/session"]
)
def test_without_a_token_there_is_nothing_but_health_and_code(make_app, tokens, path):
    client = make_app().test_client()
    answer = client.get(path)
    assert (answer.status_code, answer.json["error"]["code"]) == (401, "token_needed")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    for wrong in ("", "x", tokens[0]["reader"] + "x", tokens[0]["reader"][:-1]):
        assert client.get(path, headers=bearer(wrong)).json["error"]["code"] == "bad_token"
    assert client.get(path, headers=bearer(tokens[0]["reader"])).status_code != 401
    client.set_cookie("session", tokens[0]["reader"])
    assert client.get(path).status_code == 401
    assert [client.get(free).status_code for free in ("/livez", "/static/app.js")] == [200, 200]
    assert client.get("/readyz").status_code == 503


def test_a_person_signs_in_and_out_without_the_page_seeing_the_token(make_app, tokens):
    client = make_app().test_client()
    form = client.get("/model", headers=PAGE)
    assert (form.status_code, form.mimetype) == (401, "text/html")
    assert re.search('<form [^>]*method="post" action="/session"', form.text)
    assert '<input type="hidden" name="next" value="/model">' in form.text
    wrong = client.post("/session", data={"token": "x", "next": "/model"}, headers=PAGE)
    assert (wrong.status_code, "isn&#39;t known" in wrong.text, "Set-Cookie" in wrong.headers) == (
        401,
        True,
        False,
    )
    right = client.post("/session", data={"token": tokens[0]["reader"], "next": "/"}, headers=PAGE)
    assert (right.status_code, right.headers["Location"]) == (303, "/")
    cookie = right.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert not any(token in cookie for token in tokens[0].values())
    kept = client.get_cookie("session").value
    page = client.get("/", headers=PAGE)
    assert (page.status_code, '<form method="post" action="/session/end">' in page.text) == (
        200,
        True,
    )
    assert client.post("/train").json["error"]["code"] == "bearer_needed"
    assert client.post("/session/end").status_code == 303
    assert client.get_cookie("session") is None
    client.set_cookie("session", kept)  # signing out ends it in the server as well
    assert client.get("/").status_code == 401


def test_the_cookie_is_secure_over_https(make_app, tokens):
    answer = (
        make_app()
        .test_client()
        .post("/session", data={"token": tokens[0]["reader"]}, base_url="https://ct.example")
    )
    assert "Secure" in answer.headers["Set-Cookie"]


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
def test_signing_in_never_leads_elsewhere(make_app, tokens, target, location):
    client = make_app().test_client()
    answer = client.post("/session", data={"token": tokens[0]["reader"], "next": target})
    assert answer.headers["Location"] == location


def test_guessing_is_slowed_down_and_locks_nobody_out(make_app, tokens):
    client = make_app().test_client()
    codes = [client.get("/model", headers=bearer("x")).json["error"]["code"] for _ in range(12)]
    assert codes == ["bad_token"] * 10 + ["too_many_failures"] * 2
    answer = client.post("/session", data={"token": "y"})
    assert (answer.status_code, "Retry-After" in answer.headers) == (429, True)
    assert client.get("/model", headers=bearer(tokens[0]["reader"])).status_code == 503


def test_each_client_has_a_rate_of_its_own(make_app, tokens):
    client = make_app(rate_limit="2/minute").test_client()
    ask = {name: bearer(token) for name, token in tokens[0].items()}
    assert [client.get("/model", headers=ask["reader"]).status_code == 429 for _ in range(3)] == [
        False,
        False,
        True,
    ]
    limited = client.get("/model", headers=ask["reader"])
    assert (limited.json["error"]["code"], 1 <= int(limited.headers["Retry-After"]) <= 61) == (
        "too_many_requests",
        True,
    )
    assert client.get("/model", headers=ask["trainer"]).status_code == 503
    assert {client.get("/livez").status_code for _ in range(5)} == {200}
    anyone = make_app("", rate_limit="2/minute").test_client()
    assert [anyone.get("/model").status_code for _ in range(3)] == [503, 503, 429]
    other = anyone.get("/model", environ_overrides={"REMOTE_ADDR": "192.0.2.7"})
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
def test_other_sites_may_not_send(make_app, headers, refused):
    client = make_app("", cors_origins=("https://friend.test",)).test_client()
    answer = client.post("/predict", data=b"x", content_type="image/png", headers=headers)
    assert (answer.json["error"]["code"] == "other_site") is refused
    assert (answer.status_code == 403) is refused


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost", True),
        ("localhost:8080", True),
        ("127.0.0.1:1", True),
        ("[::1]:8080", True),
        ("ct.localhost", True),
        ("evil.test", False),
        ("localhost.evil.test:8080", False),
        ("[::1", False),
        ("", True),
    ],
)
def test_on_loopback_only_names_of_this_machine_lead_in(make_app, host, known):
    for settings, refused in (({"host": "127.0.0.1"}, not known), ({"host": "0.0.0.0"}, False)):
        answer = make_app("", **settings).test_client().get("/livez", headers={"Host": host})
        assert (answer.status_code == 421) is refused


def test_the_sign_in_form_has_no_script(make_app):
    text = make_app().test_client().get("/", headers=PAGE).text
    assert not re.search(r"<script|<style|\sstyle=|\son\w+=", text)
