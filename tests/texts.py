"""What a page shows, and whether it speaks of the subject of another project."""

import html
import re

from cnnClassifier.entity.config_entity import ProjectConfig

LEAVES = ProjectConfig(
    name="leaves", title="Leaf identification", image_term="photo", group_term="plant"
)
_OTHER_SUBJECT = re.compile(
    r"\b(chest|cts?|slices?|patients?|medical|lungs?|diagnos[ei]s|dicom|hu|hounsfield|disease)\b",
    re.IGNORECASE,
)


def check_subject(page):
    """Return the text of a page, with that for screen readers; it must fit a project on leaves."""
    labels = re.findall(r' (?:aria-label|alt|title|placeholder)="([^"]*)"', page)
    page = re.sub(r"<(style|script)\b.*?</\1>", "", page, flags=re.DOTALL)
    text = html.unescape(re.sub(r"<[^>]+>", " ", page) + " ".join(labels))
    found = _OTHER_SUBJECT.findall(text)
    assert not found, found
    return text
