"""Chromium, and the page on classification in it."""

from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_S

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Only loopback can be reached.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
]
# Record the fields of each upload, which the browser's own record leaves out, and the object URLs.
RECORD = """
  const append = FormData.prototype.append;
  window.uploads = [];
  FormData.prototype.append = function (name, value, file) {
    if (value instanceof Blob) window.uploads.push({file: file ?? value.name});
    else window.uploads.at(-1)[name] = value;
    append.apply(this, arguments);
  };
  window.objectUrls = new Set();
  const {createObjectURL, revokeObjectURL} = URL;
  URL.createObjectURL = (blob) => {
    const url = createObjectURL(blob);
    objectUrls.add(url);
    return url;
  };
  URL.revokeObjectURL = (url) => objectUrls.delete(url) && revokeObjectURL(url);
"""


@contextmanager
def chromium():
    """Run the system's Chromium."""
    from playwright.sync_api import sync_playwright

    if not CHROMIUM.exists():
        pytest.fail(f"{CHROMIUM} is missing: install chromium, or deselect with -m 'not slow'")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=ARGUMENTS, timeout=1000 * PATIENCE_S
        )
        yield browser
        browser.close()


@contextmanager
def page_opener(browser):
    """Yield a function that opens a page, and close them in the end.

    A page has its requests in `requests`, and its errors in `errors`.
    """
    contexts = []

    def open_(url, width=1280, height=800, **options):
        viewport = {"width": width, "height": height}
        context = browser.new_context(viewport=viewport, reduced_motion="reduce", **options)
        contexts.append(context)
        context.set_default_timeout(1000 * PATIENCE_S)
        page = context.new_page()
        page.requests, page.errors = [], []
        page.add_init_script(RECORD)
        page.on("request", lambda request: page.requests.append(request))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("console", lambda message: page.errors.extend(errors_of(message)))
        page.goto(url)
        return page

    yield open_
    for context in contexts:
        context.close()


def errors_of(message):
    # The browser also logs each 4xx, which the page handles.
    is_status = "the server responded with a status of" in message.text
    return [message.text] if message.type == "error" and not is_status else []


def as_file(data, name="slice.png"):
    return {"name": name, "mimeType": "image/png", "buffer": data}


def card(page, name):
    """Find the card of a file."""
    return page.locator(".card", has=page.get_by_role("heading", name=name, exact=True))


def wait_for_card(page, name, state="done"):
    """Wait until the card of a file is in a state; return it."""
    found = card(page, name)
    found.and_(page.locator(f"[data-state={state}]")).wait_for()
    return found
