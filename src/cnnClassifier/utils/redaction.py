"""Keep credentials out of logs and messages."""

import re


def redact_credentials(text: str) -> str:
    """Remove user names and passwords from every URL in a text."""
    return re.sub(r"(?<=://)[^/\s]*@", "", text)
