"""Who may do what: tokens, the sign-in page, a rate for each client, and no help for other sites."""

import math
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from flask import Blueprint, Flask, Response, g, make_response, redirect, render_template, request
from flask_limiter import ApplicationLimit, Limiter, RequestLimit
from limits import parse

from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.serving.errors import RequestError
from cnnClassifier.serving.tokens import SESSION_S, TRAIN, Sessions, Token, find

COOKIE = "session"
# Whoever watches the server has no token; public code is public.
OPEN = {"routes.livez", "routes.readyz", "static", "access.sign_in"}
_UNLIMITED = {"routes.livez", "routes.readyz", "static"}
_FAILURES = "10/minute"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Access:
    """Look at each request before it is answered.

    Args:
        app: the app to stand before.
        config: rate, other origins, host.
        tokens: empty where everyone is let in.
    """

    def __init__(self, app: Flask, config: ServingConfig, tokens: Sequence[Token]) -> None:
        self._tokens = tuple(tokens)
        self._sessions = Sessions()
        self._origins = set(config.cors_origins)
        # A name that somebody else's DNS points to this machine is no way in: a page of theirs could read the answers.
        self._loopback = config.host in _LOOPBACK and config.trusted_proxy is None and not tokens
        self._failures = parse(_FAILURES)
        app.before_request(self._identify)
        self._limiter = Limiter(
            lambda: g.client,
            app=app,
            application_limits=[ApplicationLimit(config.rate_limit)] if config.rate_limit else [],
            storage_uri="memory://",
            on_breach=_refuse_too_many,
        )
        self._limiter.request_filter(lambda: request.endpoint in _UNLIMITED)
        app.before_request(self._admit)
        app.context_processor(lambda: {"signed_in": g.get("session") is not None})
        app.register_blueprint(self._routes())

    def _identify(self) -> None:
        g.token = g.session = None
        address = request.remote_addr or "-"
        kind, _, presented = request.headers.get("Authorization", "").partition(" ")
        if self._tokens and kind.lower() == "bearer":
            g.token = self._presented(presented.strip(), address)
        elif self._tokens and (identifier := request.cookies.get(COOKIE)):
            g.token = self._sessions.token(identifier)
            g.session = identifier if g.token else None
        g.client = f"token:{g.token.name}" if g.token else f"address:{address}"

    def _presented(self, presented: str, address: str) -> Token:
        token = find(self._tokens, presented)
        if token:
            return token
        if not self._limiter.limiter.hit(self._failures, "failures", address):
            raise RequestError(
                429,
                "too_many_failures",
                "too many wrong tokens; try again later",
                {"Retry-After": "60"},
            )
        raise RequestError(
            401, "bad_token", "this token isn't known here", {"WWW-Authenticate": "Bearer"}
        )

    def _admit(self) -> Response | None:
        host = request.headers.get("Host")  # which every browser sends
        if self._loopback and host and not _is_local(host):
            raise RequestError(
                421,
                "unknown_host",
                "this server answers to localhost; see --host to open it to others",
            )
        if request.method not in ("GET", "HEAD", "OPTIONS"):
            self._refuse_other_sites()
        if not self._tokens or g.token or request.endpoint in OPEN or request.method == "OPTIONS":
            return None
        if _is_navigation():
            return _form("", request.path, 401)
        raise RequestError(
            401,
            "token_needed",
            "send a token: Authorization: Bearer …",
            {"WWW-Authenticate": "Bearer"},
        )

    def _refuse_other_sites(self) -> None:
        origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
        if origin in self._origins:
            return
        if site is not None:
            foreign = site not in ("same-origin", "none")
        else:  # an older browser, plain HTTP, or no browser at all, which sends neither
            foreign = origin is not None and urlsplit(origin).netloc != request.host
        if foreign:
            raise RequestError(
                403,
                "other_site",
                "pages of other sites may not send this; see serving.cors_origins",
            )

    def _routes(self) -> Blueprint:
        routes = Blueprint("access", __name__)

        @routes.post("/session")
        def sign_in() -> Response:
            target = request.form.get("next", "/")
            if not self._tokens:
                return _home(target)
            try:
                token = self._presented(
                    request.form.get("token", "").strip(), request.remote_addr or "-"
                )
            except RequestError as error:
                if not _wants_html():
                    raise
                g.error_code = error.code
                response = _form(str(error), target, error.status)
                response.headers.update(error.headers)
                return response
            response = _home(target)
            response.set_cookie(
                COOKIE,
                self._sessions.open(token),
                max_age=SESSION_S,
                secure=request.is_secure,
                httponly=True,
                samesite="Strict",
            )
            return response

        @routes.post("/session/end")
        @routes.delete("/session", endpoint="end_session")
        def sign_out() -> Response:
            if g.session:
                self._sessions.close(g.session)
            response = _home("/")
            response.delete_cookie(
                COOKIE, secure=request.is_secure, httponly=True, samesite="Strict"
            )
            return response

        return routes


def need_training_right(by_header: bool = False) -> None:
    """Let nobody pass whose token may not train.

    Args:
        by_header: whether the token must come with the request itself: a browser sends a cookie unasked.

    Raises:
        RequestError: 403, with what to do.
    """
    if g.token is None:
        raise RequestError(
            403,
            "training_off",
            "training needs API_TOKENS; see `python app.py --new-token NAME --may-train`",
        )
    if by_header and g.session is not None:
        raise RequestError(403, "bearer_needed", "send the token itself: Authorization: Bearer …")
    if TRAIN not in g.token.rights:
        raise RequestError(403, "no_right", f"the token {g.token.name} may not train")


def _refuse_too_many(breached: RequestLimit) -> Response:
    wait = max(1, math.ceil(breached.reset_at - time.time()))
    message = f"more than {breached.limit}; try again in {wait} s"
    raise RequestError(429, "too_many_requests", message, {"Retry-After": str(wait)})


def _is_local(host: str) -> bool:
    name = (urlsplit(f"//{host}").hostname or "") if host.count("[") == host.count("]") else ""
    return name in _LOOPBACK or name.endswith(".localhost")


def _wants_html() -> bool:
    return "text/html" in request.headers.get("Accept", "")


def _is_navigation() -> bool:
    return (
        request.method == "GET"
        and request.headers.get("Sec-Fetch-Mode", "navigate") == "navigate"
        and _wants_html()
    )


def _form(message: str, target: str, status: int) -> Response:
    response = make_response(render_template("signin.html", message=message, next=target), status)
    response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _home(target: str) -> Response:
    # Only a path of this very site: `//elsewhere` and `/\elsewhere` would leave it.
    inside = (
        target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    )
    return make_response(redirect(target if inside else "/", 303))
