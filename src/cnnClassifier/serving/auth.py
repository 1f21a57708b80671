"""Access control: tokens, sign-in sessions, rate limits, and requests from other sites."""

import hashlib
import math
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from flask import Blueprint, Flask, Response, g, make_response, redirect, render_template, request
from flask_limiter import ApplicationLimit, Limiter, RequestLimit
from limits import parse

from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.serving.errors import RequestError, is_page_load
from cnnClassifier.utils.errors import ConfigError

TOKENS_VARIABLE = "API_TOKENS"
_COOKIE = "session"
_SESSION_S = 12 * 3600
_MAX_SESSIONS = 10_000
_MAX_FAILURES = parse("10/minute")
# Monitoring has no token, and the page's code is public.
_HEALTH_ENDPOINTS = {
    *("routes.livez", "routes.readyz", "protocols.ping", "protocols.health"),
    *("protocols.server_live", "protocols.server_ready", "protocols.model_ready"),
}
_PUBLIC_ENDPOINTS = {*_HEALTH_ENDPOINTS, "static", "auth.sign_in"}
_UNLIMITED_ENDPOINTS = _PUBLIC_ENDPOINTS - {"auth.sign_in"}
_LOOPBACK_HOSTS = {"localhost", "127.0.0.1", "::1"}
_LOCAL_HOST = re.compile(r"(([\w.-]+\.)?localhost\.?|127\.0\.0\.1|\[::1\])(:\d+)?", re.IGNORECASE)

_NAME = "[A-Za-z0-9._-]{1,40}"


@dataclass(frozen=True)
class Token:
    """One entry of `API_TOKENS`.

    Attributes:
        name: appears in the log.
        may_train: whether it permits trainings as well as predictions.
        may_give_feedback: whether it permits feedback as well as predictions.
    """

    name: str
    may_train: bool = False
    may_give_feedback: bool = False


# By sha256: the tokens themselves aren't stored.
Tokens = Mapping[str, Token]


def create_token(
    name: str, may_train: bool = False, may_give_feedback: bool = False
) -> tuple[str, str]:
    """Return a random token and its entry for `API_TOKENS`.

    Args:
        name: of the token.
        may_train: see `Token`.
        may_give_feedback: likewise.

    Raises:
        ConfigError: the name isn't valid.
    """
    if not re.fullmatch(_NAME, name):
        expected = "1 to 40 letters, digits, dots, dashes or underscores"
        raise ConfigError(f"token name {name!r:.60}: expected {expected}")
    token = secrets.token_urlsafe(32)
    rights = (":train" if may_train else "") + (":feedback" if may_give_feedback else "")
    return token, f"{name}:{hash_token(token)}{rights}"


def parse_tokens(text: str) -> Tokens:
    """Read entries, separated by commas or white space.

    An entry is `name:sha256`, with the rights that the token has: `:train`, `:feedback`, or both.

    Raises:
        ConfigError: an entry isn't valid; the message doesn't show its sha256.
    """
    tokens: dict[str, Token] = {}
    for number, entry in enumerate(re.findall(r"[^\s,]+", text), 1):
        where = f"environment: {TOKENS_VARIABLE}: entry {number}"
        match = re.fullmatch(f"({_NAME}):([0-9a-fA-F]{{64}})((?::train|:feedback)*)", entry)
        if not match:
            raise ConfigError(
                f"{where}: expected name:sha256, name:sha256:train, name:sha256:feedback or "
                "name:sha256:train:feedback; make one with `python app.py --new-token NAME`"
            )
        name, sha256, rights = match.groups()
        if any(token.name == name for token in tokens.values()):
            raise ConfigError(f"{where}: the name {name} is used twice; give each token its own")
        tokens[sha256.lower()] = Token(name, ":train" in rights, ":feedback" in rights)
    return tokens


def hash_token(secret: str) -> str:
    """Return the sha256 of a token, in hex."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


class Auth:
    """Check each request before it is processed.

    Browsers sign in once and then send a cookie with a random identifier. These are in memory, so
    that signing out or a restart ends a session.

    Args:
        app: the app to protect.
        config: rate limit, allowed origins, host.
        tokens: without any, every client is admitted.
    """

    def __init__(self, app: Flask, config: ServingConfig, tokens: Tokens) -> None:
        self._tokens = tokens
        self._sessions: dict[str, tuple[Token, float]] = {}  # and when they end
        self._allowed_origins = set(config.cors_origins)
        # Against DNS rebinding: a page under a foreign name that resolves to this machine could
        # read the responses.
        is_local = config.host in _LOOPBACK_HOSTS and config.trusted_proxy is None
        self._check_host = is_local and not tokens
        app.before_request(self._identify)
        self._limiter = Limiter(
            lambda: g.client,
            app=app,
            application_limits=[ApplicationLimit(config.rate_limit)] if config.rate_limit else [],
            storage_uri="memory://",
            on_breach=_raise_rate_limit,
        )
        self._limiter.request_filter(lambda: request.endpoint in _UNLIMITED_ENDPOINTS)
        app.before_request(self._authorize)
        app.context_processor(lambda: {"signed_in": g.get("session") is not None})
        app.register_blueprint(self._make_blueprint())

    def _identify(self) -> None:
        g.token = g.session = None
        scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
        identifier = request.cookies.get(_COOKIE)
        if self._tokens and scheme.lower() == "bearer":
            g.token = self._authenticate(secret.strip())
        elif self._tokens and identifier:
            token, end = self._sessions.get(identifier, (None, 0.0))
            if end > time.monotonic():
                g.token, g.session = token, identifier
        g.client = f"token:{g.token.name}" if g.token else f"address:{request.remote_addr or '-'}"

    def _authenticate(self, secret: str) -> Token:
        token = self._tokens.get(hash_token(secret))
        if token:
            return token
        address = request.remote_addr or "-"
        if not self._limiter.limiter.hit(_MAX_FAILURES, "failures", address):
            message = "too many invalid tokens; try again later"
            raise RequestError(429, "too_many_failures", message, {"Retry-After": "60"})
        raise RequestError(401, "bad_token", "Unknown token", {"WWW-Authenticate": "Bearer"})

    def _authorize(self) -> Response | None:
        host = request.headers.get("Host") or "localhost"  # every browser sends it
        if self._check_host and not _LOCAL_HOST.fullmatch(host):
            message = "this server answers to localhost only; see --host to open it to others"
            raise RequestError(421, "unknown_host", message)
        if request.method not in ("GET", "HEAD", "OPTIONS"):
            self._refuse_cross_site()
        is_public = request.endpoint in _PUBLIC_ENDPOINTS or request.method == "OPTIONS"
        if not self._tokens or g.token or is_public:
            return None
        if request.method == "GET" and is_page_load():
            return _sign_in_form("", request.path, 401)
        message = "send a token: Authorization: Bearer …"
        raise RequestError(401, "token_needed", message, {"WWW-Authenticate": "Bearer"})

    def _refuse_cross_site(self) -> None:
        origin = request.headers.get("Origin", request.host_url)
        # An old browser, plain HTTP, or a program doesn't send Sec-Fetch-Site.
        is_same_host = urlsplit(origin).netloc == request.host
        default = "same-origin" if is_same_host else "cross-site"
        site = request.headers.get("Sec-Fetch-Site", default)
        if origin not in self._allowed_origins and site not in ("same-origin", "none"):
            message = "pages of other sites may not send this; see serving.cors_origins"
            raise RequestError(403, "other_site", message)

    def _make_blueprint(self) -> Blueprint:
        routes = Blueprint("auth", __name__)

        @routes.post("/session")
        def sign_in() -> Response:
            target = request.form.get("next", "/")
            try:
                token = self._authenticate(request.form.get("token", "").strip())
            except RequestError as error:
                if not is_page_load():
                    raise
                g.error_code = error.code
                response = _sign_in_form(str(error), target, error.status)
                response.headers.update(error.headers)
                return response
            if len(self._sessions) >= _MAX_SESSIONS:
                self._sessions.pop(next(iter(self._sessions)), None)  # the oldest
            identifier = secrets.token_urlsafe(32)
            self._sessions[identifier] = (token, time.monotonic() + _SESSION_S)
            response = _redirect(target)
            response.set_cookie(
                _COOKIE,
                identifier,
                max_age=_SESSION_S,
                secure=request.is_secure,
                httponly=True,
                samesite="Strict",
            )
            return response

        @routes.post("/session/end")
        @routes.delete("/session", endpoint="end_session")
        def sign_out() -> Response:
            self._sessions.pop(g.session, None)
            response = _redirect("/")
            response.delete_cookie(
                _COOKIE, secure=request.is_secure, httponly=True, samesite="Strict"
            )
            return response

        return routes


def require_train_permission(by_header: bool = False) -> None:
    """Refuse a request whose token may not train.

    Args:
        by_header: require the token in the header: a browser adds a cookie to any request.

    Raises:
        RequestError: 401 or 403, with what to do.
    """
    if g.token is None:
        message = "training needs API_TOKENS; see `python app.py --new-token NAME --may-train`"
        raise RequestError(403, "training_off", message)
    if by_header and g.session is not None:
        message = "send the token itself: Authorization: Bearer …"
        raise RequestError(401, "bearer_needed", message, {"WWW-Authenticate": "Bearer"})
    if not g.token.may_train:
        raise RequestError(403, "no_right", f"the token {g.token.name} may not train")


def may_give_feedback() -> bool:
    """Return whether the client of this request may give feedback: without tokens, everyone may."""
    return g.token is None or g.token.may_give_feedback


def _raise_rate_limit(limit: RequestLimit) -> Response:
    wait_s = max(1, math.ceil(limit.reset_at - time.time()))
    message = f"rate limit reached ({limit.limit}); try again in {wait_s} s"
    raise RequestError(429, "too_many_requests", message, {"Retry-After": str(wait_s)})


def _sign_in_form(message: str, target: str, status: int) -> Response:
    form = render_template("signin.html", message=message, next=target)
    return make_response(form, status, {"WWW-Authenticate": "Bearer"})


def _redirect(target: str) -> Response:
    # Only to a path of this site: `//elsewhere` and `/\elsewhere` would leave it.
    is_path = target.startswith("/") and not target.startswith(("//", "/\\"))
    return make_response(redirect(target if is_path and target.isprintable() else "/", 303))
