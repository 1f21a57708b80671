import re
from pathlib import Path

import pytest

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Only loopback can be reached: whatever the page wants from elsewhere fails.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
]
TEMPLATES = Path(__file__).resolve().parents[2] / "templates"


def test_page_needs_nothing_from_elsewhere():
    files = [path for path in TEMPLATES.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".html", ".css", ".js", ".svg"}
    for path in files:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(https?:)?//[\w.]+\.\w", text), path
        assert path.suffix != ".html" or not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text), path


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    if not CHROMIUM.exists():
        pytest.fail(f"the page is tested in {CHROMIUM}: install the package chromium, or deselect with -m 'not slow'")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    contexts = []

    def open_(url, width=1280, height=800):
        context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce")
        contexts.append(context)
        page = context.new_page()
        page.asked, page.faults = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        # A refused style or script is told on the console; a 4xx that the page answers in words is none of them.
        page.on("console", lambda line: page.faults.append(line.text) if "Content Security" in line.text else None)
        page.goto(url)
        return page

    yield open_
    for context in contexts:
        context.close()


def as_file(data, name="slice.png"):
    return {"name": name, "mimeType": "image/png", "buffer": data}


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 800, 1920])
def test_a_picture_is_classified_by_keyboard_with_the_disclaimer_in_sight(server, open_page, picture, width):
    page = open_page(server, width, 640)
    page.wait_for_selector("[data-state=ready]")
    page.set_input_files("#file", as_file(picture(255)))
    page.keyboard.press("Enter")
    page.wait_for_selector("#answer:not([hidden])")
    assert page.inner_text("#label") == "Adenocarcinoma"
    assert page.locator("#bars li").all_inner_texts()[0].startswith("Adenocarcinoma")
    assert page.locator("#bars li").count() == 2
    assert page.is_visible("#synthetic")
    assert re.fullmatch(r"tiny · [0-9a-f]{12}", page.inner_text("#model"))
    assert "Not a medical device" in page.inner_text("#disclaimer")
    for step in [-60] * 20 + [60] * 40:  # wherever the window stands, a result in sight has the disclaimer in sight
        assert page.evaluate(
            """() => {
              const inside = (box) => box.top >= 0 && box.bottom <= innerHeight;
              const box = (id) => document.getElementById(id).getBoundingClientRect();
              return !inside(box("label")) || inside(box("disclaimer"));
            }"""
        )
        page.evaluate("step => scrollBy(0, step)", step)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.faults == []
    assert {url.partition("://")[2].partition("/")[0] for url in page.asked if not url.startswith("blob:")} == {
        server.removeprefix("http://")
    }


@pytest.mark.slow
def test_errors_are_told_in_words_and_leave_no_stale_result(server, open_page, picture):
    page = open_page(server)
    page.wait_for_selector("[data-state=ready]")
    assert page.is_disabled("#predict")
    page.set_input_files("#file", as_file(picture(0)))
    page.click("#predict")
    page.wait_for_selector("#answer:not([hidden])")
    assert page.inner_text("#label") == "Normal"
    for data, words in ((b"hello", "Not a PNG"), (b"", "is empty"), (b"x" * 300_000, "at most 200 kB")):
        page.set_input_files("#file", as_file(data))
        if len(data) == 5:
            page.click("#predict")
        page.wait_for_function("words => document.getElementById('error').textContent.includes(words)", arg=words)
        assert page.is_hidden("#answer")
    assert page.faults == []


@pytest.mark.slow
def test_page_tells_of_a_missing_model_and_a_lost_server(running, open_page, tmp_path):
    with running(tmp_path / "none") as (url, _, process):
        page = open_page(url)
        page.wait_for_selector("#notice[data-state=no_model]")
        assert page.inner_text("#command") == "make pipeline"
        assert page.is_visible("#copy")
        process.terminate()
        process.wait(30)
        page.wait_for_selector("#notice[data-state=offline]", timeout=20_000)
        assert "can't be reached" in page.inner_text("#notice")
        assert page.faults == []


@pytest.mark.slow
def test_pasting_and_dropping_choose_a_picture(server, open_page):
    page = open_page(server)
    for kind, name, field in (("paste", "ClipboardEvent", "clipboardData"), ("drop", "DragEvent", "dataTransfer")):
        page.evaluate(
            """([kind, name, field]) => {
              const data = new DataTransfer();
              data.items.add(new File([new Uint8Array(9)], `${kind}.png`, {type: "image/png"}));
              document.dispatchEvent(new window[name](kind, {[field]: data, bubbles: true, cancelable: true}));
            }""",
            [kind, name, field],
        )
        assert f"{kind}.png" in page.inner_text("#name")
