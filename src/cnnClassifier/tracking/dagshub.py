"""Log in to DagsHub: find a token, and whose it is."""

import json
import os
import sys
import urllib.error
import urllib.request

from cnnClassifier.tracking.connection import TrackingError, error_message

_TIMEOUT_S = 15


def find_token(host: str) -> str:
    """Return DAGSHUB_USER_TOKEN, else the token that `dagshub login` has stored.

    Without either, a person at a terminal may log in with the browser.

    Raises:
        TrackingError: there is no token, or the host doesn't answer.
    """
    token = os.environ.get("DAGSHUB_USER_TOKEN")
    if token:
        return token
    from dagshub.auth import get_token

    hint = (
        "run `dagshub login`, or set DAGSHUB_USER_TOKEN to a token from "
        f"{host}/user/settings/tokens"
    )
    try:
        return get_token(host=host, fail_if_no_token=True)
    except RuntimeError:
        question = "Log in to DagsHub with the browser? [y/N] "
        if sys.stdin.isatty() and input(question).strip().lower() == "y":
            return get_token(host=host)
    except Exception as error:  # of its HTTP library, or of a damaged file
        raise TrackingError(
            f"{host}: can't check the stored login: {error_message(error)}; {hint}"
        ) from error
    raise TrackingError(f"no token for {host}; {hint}")


def read_user(host: str, token: str) -> str:
    """Return the name of the user whom a token belongs to.

    Raises:
        TrackingError: the token is refused, or the host doesn't answer.
    """
    request = urllib.request.Request(f"{host}/api/v1/user")  # noqa: S310
    # Unredirected: another host must not receive the token.
    request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310
            return str(json.load(response)["username"])
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise TrackingError(
                f"{host}: the token is refused ({error.code}); create another one at "
                f"{host}/user/settings/tokens and set DAGSHUB_USER_TOKEN"
            ) from None
        raise TrackingError(f"{host}: {error_message(error)}; try again later") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrackingError(f"{host}: {error_message(error)}; check the network") from None
