"""The pages in a browser: what a person does there, and what they see of it."""

import csv
import io
import re
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from cnnClassifier.serving.tokens import new_token
from tests.waiting import PATIENCE_S, until

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
# What is sent, without the pictures: a browser's own record leaves such bodies out.
WATCH = """
  const append = FormData.prototype.append;
  window.sent = [];
  FormData.prototype.append = function (name, value, file) {
    if (value instanceof Blob) window.sent.push({file: file ?? value.name});
    else window.sent.at(-1)[name] = value;
    append.apply(this, arguments);
  };
"""
TEMPLATES = Path(__file__).resolve().parents[2] / "templates"


def test_page_needs_nothing_from_elsewhere():
    files = [path for path in TEMPLATES.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".html", ".css", ".js", ".svg"}
    for path in files:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(https?:)?//[\w.]+\.\w", text), path
        assert path.suffix != ".html" or not re.search(
            r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text
        ), path


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    if not CHROMIUM.exists():
        pytest.fail(
            f"the page is tested in {CHROMIUM}: install the package chromium, or deselect with -m 'not slow'"
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=ARGUMENTS, timeout=1000 * PATIENCE_S
        )
        yield browser
        browser.close()


def is_fault(line):
    """Tell errors from the note that an answer was a 4xx, which the page tells in words."""
    return line.type == "error" and "the server responded with a status of" not in line.text


@pytest.fixture
def open_page(browser):
    """Open a page; what it asks for and what goes wrong in it is kept in `asked` and `faults`."""
    contexts = []

    def open_(url, width=1280, height=800, **options):
        context = browser.new_context(
            viewport={"width": width, "height": height}, reduced_motion="reduce", **options
        )
        contexts.append(context)
        context.set_default_timeout(1000 * PATIENCE_S)
        page = context.new_page()
        page.asked, page.faults = [], []
        page.add_init_script(WATCH)
        page.on("request", lambda request: page.asked.append(request))
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("console", lambda line: page.faults.extend([line.text] if is_fault(line) else []))
        page.goto(url)
        return page

    yield open_
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def site(ready, evaluated):
    """Return the URL of a server that finds white pictures unfamiliar, and grey ones uncertain."""
    with ready(evaluated / "bundle") as (url, _, _):
        yield url


def as_file(data, name="slice.png"):
    return {"name": name, "mimeType": "image/png", "buffer": data}


def slice_of(background, spot):
    """Return a PNG file: grey, with a spot of another grey."""
    pixels = np.full((60, 80), background, np.uint8)
    pixels[20:30, 20:30] = spot
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def series(frames=3):
    """Return a DICOM file with a name in it; the later the slice, the denser."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header = Dataset()
    header.file_meta = meta
    header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    header.PatientName, header.PatientID, header.Modality = "Nobody^Known", "4711-0815", "CT"
    header.Rows, header.Columns, header.NumberOfFrames = 32, 48, frames
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit, header.PixelRepresentation = 15, 1
    header.RescaleSlope, header.RescaleIntercept = 1, 0
    header.PixelData = np.stack(
        [np.full((32, 48), 300 * n - 900, np.int16) for n in range(frames)]
    ).tobytes()
    out = io.BytesIO()
    header.save_as(out, enforce_file_format=True)
    return out.getvalue()


def hand_over(page, how, files):
    """Paste or drop files, each a name and its bytes."""
    page.evaluate(
        """([how, files]) => {
          const data = new DataTransfer();
          for (const [name, bytes] of files) {
            data.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
          }
          const [kind, field] = {paste: [ClipboardEvent, "clipboardData"], drop: [DragEvent, "dataTransfer"]}[how];
          document.dispatchEvent(new kind(how, {[field]: data, bubbles: true, cancelable: true}));
        }""",
        [how, [[name, list(data)] for name, data in files]],
    )


def card(page, name):
    return page.locator(".card", has=page.get_by_role("heading", name=name, exact=True))


def settled(page, name, state="done"):
    found = card(page, name)
    found.and_(page.locator(f"[data-state={state}]")).wait_for()
    return found


def asked_again(page, name, **wanted):
    """Wait until what was asked last has these options, and is answered; return all of it."""
    page.wait_for_function(
        "wanted => Object.entries(wanted).every(([key, value]) => sent.at(-1)[key] === value)",
        arg=wanted,
    )
    settled(page, name)
    return page.evaluate("sent.at(-1)")


def assert_only_own_host(page, url):
    hosts = {request.url.partition("://")[2].partition("/")[0] for request in page.asked}
    assert {host for host in hosts if host and "blob:" not in host} <= {url.removeprefix("http://")}
    assert page.faults == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 400, 1280, 1920])
def test_pictures_become_cards_with_the_disclaimer_in_sight(site, open_page, width):
    page = open_page(site, width, 640)
    page.wait_for_selector("[data-state=ready]")
    chosen = {
        "spot.png": slice_of(128, 255),
        "=dark.png": slice_of(90, 90),
        "even.png": slice_of(128, 128),
    }
    page.set_input_files("#file", [as_file(data, name) for name, data in chosen.items()])
    hand_over(page, "drop", [("white.png", slice_of(255, 255))])
    hand_over(page, "paste", [("pasted.png", slice_of(90, 90))])
    page.get_by_role("button", name="Synthetic example mass-1").click()
    for name in (*chosen, "white.png", "pasted.png", "synthetic-mass-1.png"):
        settled(page, name)
    assert page.inner_text("#count") == "6 pictures"
    called = {name: card(page, name).locator(".label").inner_text() for name in chosen}
    assert called == {
        "spot.png": "Adenocarcinoma",
        "=dark.png": "Normal",
        "even.png": "Adenocarcinoma",
    }
    spot, white = card(page, "spot.png"), card(page, "white.png")
    assert spot.locator(".bars li").first.inner_text().split("\n") == ["Adenocarcinoma", "> 99.9 %"]
    assert spot.locator(".line").count() == 1
    assert card(page, "even.png").locator(".uncertain").is_visible()
    assert white.locator(".unfamiliar").is_visible()
    assert "does not look like what the model was trained on" in white.inner_text()
    assert spot.locator(".unfamiliar, .uncertain").evaluate_all(
        "found => found.every((it) => it.hidden)"
    )
    assert re.search(r"s \([\d.]+ m?s in the server\)", spot.locator(".time").inner_text())

    heat, slider = spot.locator(".heat"), spot.get_by_label("Opacity of the class activation map")
    strong = """canvas => {
      const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      const strengths = data.filter((_, place) => place % 4 === 3);
      return strengths.indexOf(Math.max(...strengths)) / strengths.length;
    }"""
    assert 0.2 < heat.evaluate(strong) < 0.6  # down the picture: where the spot is
    assert (
        heat.evaluate("it => it.width / it.height"),
        heat.evaluate("it => it.style.opacity"),
    ) == (4 / 3, "0.65")
    slider.focus()
    page.keyboard.press("Home")
    assert heat.evaluate("it => it.style.opacity") == "0"

    # Wherever the window stands: what can be read of a result has the whole disclaimer beside it.
    for step in [-200] * 3 + [90] * 60:
        assert page.evaluate(
            """() => {
              const inside = (box) => box.top >= 0 && box.bottom <= innerHeight;
              const disclaimer = document.getElementById("disclaimer").getBoundingClientRect();
              const seen = [...document.querySelectorAll(".label")].map((label) => label.getBoundingClientRect());
              return !seen.some((box) => inside(box) && box.top > disclaimer.bottom) || inside(disclaimer);
            }"""
        )
        page.evaluate("step => scrollBy(0, step)", step)
    assert page.is_visible("#synthetic")
    assert_only_own_host(page, site)
    assert (
        page.evaluate("sent") == [{"file": "picture", "map": "true"}] * 6
    )  # names of files stay in the browser

    with page.expect_download() as download:
        page.get_by_role("button", name="Export CSV").click()
    data = Path(download.value.path()).read_bytes()
    assert data.count(b"\r\n") == data.count(b"\n") == 7
    rows = {row["file"]: row for row in csv.DictReader(io.StringIO(data.decode("utf-8-sig")))}
    assert set(rows) == {
        "spot.png",
        "'=dark.png",
        "even.png",
        "white.png",
        "pasted.png",
        "synthetic-mass-1.png",
    }
    assert rows["white.png"]["unfamiliar"] == rows["even.png"]["uncertain"] == "true"
    assert (
        float(rows["spot.png"]["p_adenocarcinoma"]) == float(rows["spot.png"]["probability"]) > 0.9
    )
    for row in rows.values():
        assert re.fullmatch(r"[0-9a-f]{64}", row["model_sha256"])
        assert "Not a medical device" in row["disclaimer"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row["answered_at"])

    page.get_by_role("button", name="Remove synthetic-mass-1.png").click()
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Remove pasted.png"
    page.get_by_role("button", name="Clear all").click()
    assert page.is_hidden("#results")
    assert page.evaluate("document.activeElement.id") == "file"


@pytest.mark.slow
def test_each_fault_stands_at_its_own_card_in_words(site, open_page, picture):
    page = open_page(site, 400)
    faults = {
        "broken.png": (b"\x89PNG\r\n\x1a\nrubbish", "PNG"),
        "text.txt": (b"hello", "Not a PNG"),
        "empty.png": (b"", "The file is empty."),
        "large.png": (b"x" * 300_000, "At most 200 kB can be sent"),
    }
    files = [as_file(data, name) for name, (data, _) in faults.items()]
    page.set_input_files("#file", [*files, as_file(picture(0), "good.png")])
    for name, (_, words) in faults.items():
        found = settled(page, name, "failed")
        assert words.lower() in found.get_by_role("alert").inner_text().lower()
        assert found.locator(".answer, .working, [data-do=again]").evaluate_all(
            "all => all.every((it) => it.hidden)"
        )
    assert settled(page, "good.png").locator(".label").inner_text() == "Normal"
    assert page.inner_text("#count") == "5 pictures"
    assert page.faults == []


@pytest.mark.slow
def test_a_dicom_file_is_asked_about_again_with_another_window_and_slice(site, open_page):
    page = open_page(site)
    page.set_input_files("#file", {"name": "series", "mimeType": "", "buffer": series()})
    found = settled(page, "series")
    shown = found.locator(".shown")
    assert shown.inner_text() == "Shown: lung window, centre -600 HU, width 1500 HU."
    assert found.locator(".slices output").inner_text() == "1 of 3"
    first = found.locator(".picture").get_attribute("src")
    assert first.startswith("data:image/png")

    window, slice_ = found.get_by_label("Window"), found.get_by_label("Slice")
    window.select_option("Bone")
    asked_again(page, "series", window="bone")
    assert "bone window, centre" in shown.inner_text()
    window.select_option("Custom…")
    found.get_by_label("Width").fill("0")  # no window at all: isn't sent
    found.get_by_label("Centre").fill("-300")
    found.get_by_label("Width").fill("400")
    page.keyboard.press("Tab")
    asked_again(page, "series", window="-300,400")
    slice_.focus()
    page.keyboard.press("End")
    assert asked_again(page, "series", window="-300,400", frame="3")["preview"] == "true"
    assert not [one for one in page.evaluate("sent") if one.get("window", "").endswith(",0")]
    assert "custom window, centre -300" in shown.inner_text()
    assert found.locator(".slices output").inner_text() == "3 of 3"
    assert found.locator(".picture").get_attribute("src") != first
    text = page.content()
    assert "Nobody" not in text
    assert "4711" not in text
    assert_only_own_host(page, site)


@pytest.mark.slow
def test_a_busy_server_is_asked_again_and_a_lost_one_waited_for(site, open_page, picture):
    page = open_page(site, 400)
    page.wait_for_selector("[data-state=ready]")
    page.clock.install()
    page.clock.pause_at(datetime.now() + timedelta(minutes=1))
    refusals, held, holding = [(503, "busy"), (429, "too_many_requests")], [], []

    def answer(route):
        if holding:
            held.append(route)
        elif refusals:
            status, code = refusals.pop(0)
            body = {"error": {"code": code, "message": "no time"}, "request_id": "x"}
            route.fulfill(status=status, json=body, headers={"Retry-After": "1"})
        else:
            route.continue_()

    page.route("**/predict", answer)
    page.set_input_files("#file", as_file(picture(0)))
    for said in (
        "The server is busy: tries again in 1 s (1 of 5).",
        "this server: tries again in 1 s (2 of 5).",
    ):
        page.get_by_text(said).wait_for()
        page.clock.run_for(1000)
    settled(page, "slice.png")
    page.clock.resume()

    # Two at a time, and cancelling one lets the next go on.
    holding.append(True)
    page.set_input_files("#file", [as_file(picture(0), f"{name}.png") for name in "abc"])
    for name in "ab":
        settled(page, f"{name}.png", "working")
    until(lambda: page.wait_for_timeout(20) or len(held) == 2)
    assert "Waits for its turn" in settled(page, "c.png", "waiting").inner_text()
    assert len(held) == 2
    card(page, "a.png").get_by_role("button", name="Cancel").click()
    cancelled = settled(page, "a.png", "failed")
    settled(page, "c.png", "working")
    holding.clear()
    cancelled.get_by_role("button", name="Try again").click()
    for (
        route
    ) in held:  # in which order they came isn't known; of one that was cancelled nothing comes
        route.continue_()
    for name in "abc":
        settled(page, f"{name}.png")

    page.context.set_offline(True)
    page.set_input_files("#file", as_file(picture(0), "later.png"))
    page.wait_for_selector("#notice[data-state=offline]")
    assert (
        "Waits for the model; goes on by itself."
        in settled(page, "later.png", "waiting").inner_text()
    )
    page.context.set_offline(False)
    settled(page, "later.png")
    page.wait_for_selector("#notice", state="hidden")


@pytest.mark.slow
def test_page_tells_of_a_missing_model_and_a_lost_server(running, open_page, tmp_path):
    with running(tmp_path / "none") as (url, _, process):
        page = open_page(url)
        page.wait_for_selector("#notice[data-state=no_model]")
        assert page.inner_text("#command") == "make pipeline"
        assert page.is_visible("#copy")
        process.terminate()
        process.wait(PATIENCE_S)
        page.wait_for_selector("#notice[data-state=offline]")
        assert "can’t be reached" in page.inner_text("#notice")


@pytest.mark.slow
def test_with_a_token_one_signs_in_and_the_page_works(ready, evaluated, open_page, picture):
    token, entry = new_token("page", may_train=False)
    with ready(evaluated / "bundle", API_TOKENS=entry) as (url, _, _):
        page = open_page(f"{url}/about", 400)
        page.get_by_label("Token").fill("wrong")
        page.keyboard.press("Enter")
        page.get_by_role("alert").get_by_text("isn't known here").wait_for()
        page.get_by_label("Token").fill(token)
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="The model").wait_for()
        page.get_by_role("link", name="Classify").click()
        page.set_input_files("#file", as_file(picture(0)))
        settled(page, "slice.png")
        assert token not in page.content()
        page.context.clear_cookies()
        page.set_input_files("#file", as_file(picture(0), "late.png"))
        page.wait_for_selector("#notice[data-state=signed_out]")
        settled(page, "late.png", "waiting")
        page.get_by_role("link", name="Sign in").click()
        page.get_by_label("Token").fill(token)
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Sign out").click()
        page.get_by_label("Token").wait_for()
        assert_only_own_host(page, url)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_stands_in_the_way_of_a_screen_reader(site, open_page, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(site, 1280, color_scheme=scheme)
    page.wait_for_selector("#example-list img")

    def check(where):
        violations = Axe().run(page).response["violations"]
        found = {
            f"{item['id']}: {node['html']}: {node['failureSummary']}"
            for item in violations
            if item["impact"] in ("serious", "critical")
            for node in item["nodes"]
        }
        assert not found, (where, found)

    check("empty")
    pictures = {
        "spot.png": slice_of(128, 255),
        "white.png": slice_of(255, 255),
        "even.png": slice_of(128, 128),
    }
    files = [as_file(data, name) for name, data in pictures.items()]
    page.set_input_files("#file", [*files, as_file(b"no", "bad.png"), as_file(series(), "series")])
    for name in (*pictures, "series"):
        settled(page, name)
    settled(page, "bad.png", "failed")
    card(page, "series").get_by_label("Window").select_option("Custom…")
    asked_again(page, "series", window="-600,1500")
    check("cards")
    for path in ("about", "docs"):
        page.goto(f"{site}/{path}")
        if path == "about":
            assert page.get_by_role("table").first.get_by_role("row").count() == 12
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        check(path)
    assert page.faults == []
