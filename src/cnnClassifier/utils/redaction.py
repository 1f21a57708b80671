"""Keep credentials out of logs and messages."""

import re


def redact_credentials(text: str) -> str:
    """Remove user names and passwords from every URL in a text."""
    return re.sub(r"(?<=://)[^/\s]*@", "", text)


def redact_url(url: str) -> str:
    """Remove user name, password and query from a URL, for messages."""
    address, separator, _ = redact_credentials(url).partition("?")
    return f"{address}?…" if separator else address
