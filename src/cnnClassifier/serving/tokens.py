"""Tokens that programs and people are let in with: kept as sha256 alone."""

import hashlib
import hmac
import re
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from cnnClassifier.utils.errors import ConfigError

VARIABLE = "API_TOKENS"
TRAIN = "train"
RIGHTS = ("predict", TRAIN)
SESSION_S = 12 * 3600
_MOST_SESSIONS = 10_000
_NAME = re.compile(r"[A-Za-z0-9._-]{1,40}")


@dataclass(frozen=True)
class Token:
    """One entry of `API_TOKENS`.

    Attributes:
        name: who it was given to; stands in the log.
        digest: sha256 of the token.
        rights: some of `RIGHTS`; each token has `predict`.
    """

    name: str
    digest: bytes
    rights: frozenset[str]


def new_token(name: str, may_train: bool) -> tuple[str, str]:
    """Return a random token, and the entry for `API_TOKENS` that lets it in.

    Raises:
        ConfigError: the name holds other than letters, digits, dots, dashes and underscores.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"token name {name!r:.60}: expected 1 to 40 letters, digits, dots, dashes or underscores"
        )
    token = secrets.token_urlsafe(32)
    return token, f"{name}:{_digest(token).hex()}{f':{TRAIN}' if may_train else ''}"


def read_tokens(text: str) -> tuple[Token, ...]:
    """Read entries `name:sha256[:right,right]`, separated by commas or white space.

    Raises:
        ConfigError: which entry is wrong, without its digest.
    """
    tokens: list[Token] = []
    for number, entry in enumerate(_entries(text), 1):
        name, digest, rights = [*entry.split(":", 2), "", ""][:3]
        found = frozenset(rights.split(",")) - {""} | {"predict"}
        where = f"environment: {VARIABLE}: entry {number}"
        if (
            not _NAME.fullmatch(name)
            or not re.fullmatch("[0-9a-fA-F]{64}", digest)
            or found - set(RIGHTS)
        ):
            raise ConfigError(
                f"{where}: expected name:sha256 or name:sha256:{TRAIN}; make one with `python app.py --new-token NAME`"
            )
        if name in {token.name for token in tokens}:
            raise ConfigError(
                f"{where}: the name {name} stands there twice; give each token a name of its own"
            )
        tokens.append(Token(name, bytes.fromhex(digest), found))
    return tuple(tokens)


def _entries(text: str) -> list[str]:
    entries: list[str] = []
    for piece in re.split(r"[\s,]+", text.strip(", \t\r\n")):
        if piece in RIGHTS and entries:  # commas stand between rights as well
            entries[-1] += f",{piece}"
        elif piece:
            entries.append(piece)
    return entries


def find(tokens: Sequence[Token], presented: str) -> Token | None:
    """Return the token that was presented; takes as long whichever it is, or none."""
    digest = _digest(presented)
    found = None
    for token in tokens:
        if hmac.compare_digest(token.digest, digest):
            found = token
    return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


class Sessions:
    """Who is signed in: random identifiers in memory, so that a restart or signing out ends them for good."""

    def __init__(self) -> None:
        self._found: dict[bytes, tuple[Token, float]] = {}
        self._lock = threading.Lock()

    def open(self, token: Token) -> str:
        """Return the identifier of a new session."""
        identifier = secrets.token_urlsafe(32)
        now = time.monotonic()
        with self._lock:
            self._found = {key: kept for key, kept in self._found.items() if kept[1] > now}
            if len(self._found) >= _MOST_SESSIONS:
                del self._found[next(iter(self._found))]
            self._found[_digest(identifier)] = (token, now + SESSION_S)
        return identifier

    def token(self, identifier: str) -> Token | None:
        """Return whose session this is."""
        token, until = self._found.get(_digest(identifier), (None, 0.0))
        return token if until > time.monotonic() else None

    def close(self, identifier: str) -> None:
        """End a session."""
        with self._lock:
            self._found.pop(_digest(identifier), None)
