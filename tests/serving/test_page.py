"""The pages in a browser."""

import io
import re
import shutil
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cnnClassifier.components.data_validation import DataValidation
from cnnClassifier.config.configuration import ConfigurationManager
from cnnClassifier.serving.auth import create_token
from tests.archives import zip_of
from tests.browser import as_file, card, wait_for_card
from tests.dicoms import NAME, dicom
from tests.evaluation.test_model_card import cards
from tests.pictures import picture as random_picture
from tests.pictures import save
from tests.project import write_project
from tests.serving.client import post
from tests.waiting import PATIENCE_S, until

TEMPLATES = Path(__file__).resolve().parents[2] / "templates"


def test_the_page_loads_nothing_from_elsewhere():
    paths = [path for path in TEMPLATES.rglob("*") if path.is_file() and path.suffix != ".png"]
    assert {path.suffix for path in paths} == {".html", ".css", ".js", ".svg"}
    for path in paths:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(https?:)?//[\w.]+\.\w", text), path
        inline = re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text)
        assert path.suffix != ".html" or not inline, path


@pytest.fixture(scope="module")
def site(start_app, evaluated, write_bundle, tmp_path_factory):
    """Return the URL of a server: white images are unfamiliar to it, some gray ones uncertain.

    Its candidate has a higher threshold.
    """
    candidate = write_bundle(tmp_path_factory.mktemp("candidate"), threshold=0.95)
    with start_app(evaluated / "bundle", "--compare", str(candidate)) as (url, _):
        until(lambda: "agrees" in post(url, IMAGES["spot.png"])[2][0]["compared"])
        yield url


def make_png(background, spot):
    """Return a gray image with a spot of another gray."""
    pixels = np.full((60, 80), background, np.uint8)
    pixels[20:30, 20:30] = spot
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def make_dicom(**elements):
    """Return a file with a patient name and three frames of increasing density."""
    frames = np.stack([np.full((32, 48), 300 * n - 900, np.int16) for n in range(3)])
    return dicom(frames, NumberOfFrames=3, RescaleIntercept=0, PatientID="4711-0815", **elements)


def transfer(page, how, files):
    """Paste or drop files, each a name and its bytes."""
    page.evaluate(
        """([how, files]) => {
          const data = new DataTransfer();
          for (const [name, bytes] of files) {
            data.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
          }
          const events = {
            paste: [ClipboardEvent, "clipboardData"],
            drop: [DragEvent, "dataTransfer"],
          };
          const [type, field] = events[how];
          const options = {[field]: data, bubbles: true, cancelable: true};
          document.dispatchEvent(new type(how, options));
        }""",
        [how, [[name, list(data)] for name, data in files]],
    )


def drop_folder(page, folder):
    """Drop a folder as a person does: a script can't make one."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(folder)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 300, "data": data})


def wait_for_upload(page, name, **options):
    """Wait until the latest upload has these options and its result; return all its fields."""
    page.wait_for_function(
        "options => Object.entries(options).every(([k, v]) => uploads.at(-1)[k] === v)",
        arg=options,
    )
    wait_for_card(page, name)
    return page.evaluate("uploads.at(-1)")


def all_hidden(locator):
    return locator.evaluate_all("elements => elements.every((element) => element.hidden)")


def assert_only_own_host(page, url):
    hosts = {request.url.partition("://")[2].partition("/")[0] for request in page.requests}
    assert {host for host in hosts if host and "blob:" not in host} <= {url.removeprefix("http://")}
    assert page.errors == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


IMAGES = {
    "spot.png": make_png(128, 255),
    "=dark.png": make_png(90, 90),
    "even.png": make_png(128, 128),
    "between.png": make_png(153, 153),
    "white.png": make_png(255, 255),
    "pasted.png": make_png(90, 90),
}
EXAMPLE = "synthetic-mass-1.png"
# Where the strongest value of the heat map is, as a fraction of its height.
PEAK = """canvas => {
  const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const alpha = data.filter((_, index) => index % 4 === 3);
  return alpha.indexOf(Math.max(...alpha)) / alpha.length;
}"""
# Whether the disclaimer is visible while any result is.
DISCLAIMER_VISIBLE = """() => {
  const box = (element) => element.getBoundingClientRect();
  const inside = (found) => found.top >= 0 && found.bottom <= innerHeight;
  const disclaimer = box(document.getElementById("disclaimer"));
  const labels = [...document.querySelectorAll(".label")].map(box);
  const visible = labels.some((label) => inside(label) && label.top > disclaimer.bottom);
  return !visible || inside(disclaimer);
}"""


@pytest.fixture
def page_with_results(site, open_page, request):
    page = open_page(site, getattr(request, "param", 1280), 640)
    page.wait_for_selector("[data-state=ready]")
    chosen = ["spot.png", "=dark.png", "even.png", "between.png"]
    page.set_input_files("#file", [as_file(IMAGES[name], name) for name in chosen])
    transfer(page, "drop", [("white.png", IMAGES["white.png"])])
    transfer(page, "paste", [("pasted.png", IMAGES["pasted.png"])])
    page.get_by_role("button", name="Synthetic example mass-1").click()
    for name in (*IMAGES, EXAMPLE):
        wait_for_card(page, name)
    return page


def card_names(page):
    # Cards that are out of sight have no inner text: they aren't rendered.
    return page.locator(".card .name").all_text_contents()


def first_column(page):
    return page.locator("#table-body th").all_inner_texts()


@pytest.mark.slow
@pytest.mark.parametrize("page_with_results", [360, 1280], indirect=True)
def test_images_become_cards_with_the_disclaimer_in_sight(page_with_results, site):
    page = page_with_results
    assert card_names(page) == [*IMAGES, EXAMPLE]
    assert page.is_hidden("#series")
    summary = r"7 images: \d Adenocarcinoma, \d Normal; \d uncertain, 1 unfamiliar"
    assert re.fullmatch(summary, page.inner_text("#count"))
    facts = page.inner_text("#facts")
    assert " · Decision threshold for Adenocarcinoma: 50.0 % · " in facts
    assert re.search(r"^Model tiny · [0-9a-f]{12} ·.* m?s per image \(median\)$", facts)
    spot, white = card(page, "spot.png"), card(page, "white.png")
    for name, label in {
        "spot": "Adenocarcinoma",
        "=dark": "Normal",
        "even": "Adenocarcinoma",
    }.items():
        assert card(page, f"{name}.png").locator(".label").text_content() == label
    bar = spot.locator(".bars li").first.text_content()
    assert re.fullmatch(r"Adenocarcinoma91\.\d %", bar)
    assert spot.locator(".threshold-mark").count() == 1
    assert re.fullmatch(r"Candidate: Normal, 8\.\d %", spot.locator(".candidate").text_content())
    disagreeing = page.locator(".candidate.disagrees").count()
    assert 1 <= disagreeing < 7
    assert f" · Candidate agrees on {7 - disagreeing} of 7 · " in facts
    near, between = (card(page, name).locator(".uncertain") for name in ("even.png", "between.png"))
    assert "The probability is near the decision threshold." in near.text_content()
    assert between.text_content().endswith("heads, trained on different images, disagree.")
    assert "unlike the training images. Don’t rely on this result." in white.text_content()
    assert all_hidden(spot.locator(".unfamiliar, .uncertain, .other-model, .flagged"))

    heatmap, slider = spot.locator(".heatmap"), page.get_by_label("Opacity of the heat maps")
    spot.scroll_into_view_if_needed()
    until(lambda: heatmap.evaluate("canvas => canvas.width > 0"))
    assert 0.2 < heatmap.evaluate(PEAK) < 0.6  # where the spot is
    assert heatmap.evaluate("canvas => canvas.width / canvas.height") == 4 / 3
    opacities = "maps => maps.map((canvas) => getComputedStyle(canvas).opacity)"
    slider.fill("20")
    assert set(page.locator(".card .heatmap").evaluate_all(opacities)) == {"0.2"}
    page.get_by_label("Heat maps", exact=True).uncheck()
    assert set(page.locator(".card .heatmap").evaluate_all(opacities)) == {"0"}
    assert slider.is_disabled()

    for step in [-200] * 3 + [90] * 60:
        assert page.evaluate(DISCLAIMER_VISIBLE)
        page.evaluate("step => scrollBy(0, step)", step)
    assert page.is_visible("#synthetic")
    assert_only_own_host(page, site)
    # File names stay in the browser.
    assert page.evaluate("uploads") == [{"file": "image", "map": "true"}] * 7


@pytest.mark.slow
def test_results_can_be_sorted_filtered_and_enlarged(page_with_results):
    page = page_with_results
    page.get_by_label("Filter by result").select_option("Unfamiliar")
    assert page.locator(".card:visible .name").all_text_contents() == ["white.png"]
    page.get_by_label("Filter by result").select_option("Candidate disagrees")
    assert "spot.png" in page.locator(".card:visible .name").all_text_contents()
    page.get_by_label("Filter by result").select_option("All results")
    page.get_by_label("Table", exact=True).check()
    assert page.is_hidden("#cards")
    assert first_column(page) == [*IMAGES, EXAMPLE]
    candidate = page.get_by_role("row", name="spot.png").get_by_role("cell").last
    assert re.fullmatch(r"Normal, 8\.\d %", candidate.inner_text())
    header = page.get_by_role("columnheader", name="Probability")
    for order in ("ascending", "descending"):
        header.get_by_role("button").click()
        assert header.get_attribute("aria-sort") == order
        values = page.locator("#table-body td:nth-child(4)").all_inner_texts()
        numbers = [float(value.strip("<> %")) for value in values]
        assert numbers == sorted(numbers, reverse=order == "descending")
    page.get_by_label("Filter by file name").fill("E.PNG")
    assert set(first_column(page)) == {"white.png"}
    page.get_by_label("Filter by file name").fill("nothing")
    assert page.is_visible("#no-match")
    page.get_by_label("Filter by file name").fill("")

    page.get_by_role("button", name="spot.png").click()
    dialog = page.get_by_role("dialog")
    assert "Prediction: Adenocarcinoma, 91." in dialog.inner_text()
    assert "Not a medical device" in dialog.inner_text()
    image = dialog.locator("img")
    width = image.evaluate("image => image.width")
    page.keyboard.press("+")
    assert image.evaluate("image => image.width") == pytest.approx(1.25 * width, abs=1)
    page.keyboard.press("PageDown")
    assert dialog.get_by_role("heading").inner_text() == "=dark.png"
    page.keyboard.press("PageUp")
    with page.expect_download() as download:
        dialog.get_by_role("button", name="Save PNG").click()
    assert download.value.suggested_filename == "spot-heatmap.png"
    saved = np.asarray(Image.open(download.value.path()).convert("RGB"), int)
    assert saved.shape[1] == 512  # the image has 80×60 pixels
    red, _, blue = np.moveaxis(saved[:384], 2, 0)
    peak_y, peak_x = np.unravel_index((red - blue).argmax(), red.shape)
    assert (peak_y / 384, peak_x / 512) == pytest.approx((25 / 60, 25 / 80), abs=0.15)
    assert (saved[384:] < 60).any()  # the caption
    assert (saved[384:] == 255).mean() > 0.7
    page.keyboard.press("Escape")
    assert dialog.count() == 0


@pytest.mark.slow
def test_results_survive_undo_reload_and_the_page_on_the_model(page_with_results):
    page = page_with_results
    warnings = []

    def accept(dialog):
        warnings.append(dialog.type)
        dialog.accept()

    page.on("dialog", accept)
    names = [*IMAGES, EXAMPLE]
    page.get_by_role("link", name="The model").click()
    model = page.get_by_role("dialog", name="The model")
    model.get_by_role("heading", name="Confusion matrix").wait_for()
    model.get_by_role("button", name="Close").click()
    assert page.get_by_role("link", name="API").get_attribute("target") == "_blank"
    assert page.locator(".enlarge:visible").count() == 7

    page.get_by_role("button", name="Remove white.png").click()
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Remove pasted.png"
    page.get_by_role("button", name="Clear all").click()
    assert page.is_hidden("#results")
    assert page.evaluate("document.activeElement.textContent") == "Undo"
    page.keyboard.press("Enter")
    assert card_names(page) == [name for name in names if name != "white.png"]
    assert page.evaluate("objectUrls.size") <= 6

    labels = page.locator(".label").all_text_contents()
    page.reload()
    assert warnings == ["beforeunload"]
    page.get_by_text("6 results restored. A reload keeps results, not images.").wait_for()
    assert page.locator(".label").all_text_contents() == labels
    assert page.locator(".enlarge:visible, .actions:visible").count() == 0
    stored = page.evaluate("Object.values(sessionStorage).join()")
    assert "spot.png" in stored
    assert not re.search(r'data:|blob:|"map"|"preview"', stored)

    with page.expect_download() as download:
        page.get_by_role("button", name="Export CSV").click()
    data = Path(download.value.path()).read_bytes()
    assert data.count(b"\r\n") == data.count(b"\n") == 7
    table = pd.read_csv(io.BytesIO(data), index_col="file", encoding="utf-8-sig")
    expected = ["spot.png", "'=dark.png", "even.png", "between.png", "pasted.png", EXAMPLE]
    assert list(table.index) == expected
    assert table.uncertain[["even.png", "between.png"]].all()
    assert table.disagreement["between.png"] > table.disagreement_limit["between.png"]
    spot = table.loc["spot.png"]
    assert spot.p_adenocarcinoma == spot.probability > 0.9
    assert table.model_sha256.str.fullmatch("[0-9a-f]{64}").all()
    assert table.disclaimer.str.contains("Not a medical device").all()
    assert table.answered_at.str.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z").all()

    page.reload()
    assert warnings == ["beforeunload"]  # everything is exported
    page.get_by_role("button", name="Clear all").click()
    page.get_by_text("6 images removed.").wait_for()
    page.get_by_role("button", name="Dismiss").last.click()
    assert page.evaluate("sessionStorage.length") == 0
    assert page.evaluate("document.activeElement.id") == "file"


@pytest.mark.slow
def test_a_request_is_shown_as_code_that_runs(site, open_page, tmp_path):
    name = 'it\'s "a", 1;.png'
    (tmp_path / name).write_bytes(IMAGES["spot.png"])
    page = open_page(site, 400)
    page.set_input_files("#file", as_file(IMAGES["spot.png"], name))
    found = wait_for_card(page, name)
    probability = found.locator(".bars b").first.inner_text()
    found.get_by_role("button", name="Code").click()
    for language, command in {
        "curl": ["bash", "-c"],
        "python": [sys.executable, "-c"],
        "javascript": ["node", "--input-type=module", "--eval"],
    }.items():
        if shutil.which(command[0]):
            code = page.locator(f"#code-{language}").inner_text()
            result = subprocess.run(
                [*command, code], cwd=tmp_path, capture_output=True, text=True, check=True
            )
            value = re.search(r"0\.91\d+", result.stdout)
            assert f"{100 * float(value[0]):.1f} %" == probability, language


@pytest.mark.slow
def test_each_error_is_a_row(site, open_page, picture):
    page = open_page(site, 400)
    invalid = {
        "broken.png": (b"\x89PNG\r\n\x1a\nrubbish", "PNG"),
        "text.txt": (b"hello", "Not a PNG"),
        "empty.png": (b"", "The file is empty."),
        "large.png": (b"x" * 300_000, "the limit is 200 kB"),
    }
    files = [as_file(data, name) for name, (data, _) in invalid.items()]
    page.set_input_files("#file", [as_file(picture(0), "good.png"), *files])
    for name, (_, message) in invalid.items():
        found = wait_for_card(page, name, "failed")
        assert message.lower() in found.locator(".error").inner_text().lower()
        assert all_hidden(found.locator(".result, .busy, [data-action=retry]"))
        assert found.evaluate("card => card.offsetHeight < 120")
    assert wait_for_card(page, "good.png").locator(".label").inner_text() == "Normal"
    assert page.locator("#failures .name").all_inner_texts() == list(invalid)
    assert page.inner_text("#count") == "5 images: 1 Normal; 1 unfamiliar, 4 failed"
    assert page.errors == []


@pytest.mark.slow
def test_a_hundred_images_keep_their_order_and_little_memory(site, open_page):
    page = open_page(site, 1280)
    page.wait_for_selector("[data-state=ready]")
    names = [f"{number}.png" for number in range(110)]
    page.set_input_files("#file", [as_file(IMAGES["spot.png"], name) for name in names])
    text = "10 files not added: the page holds at most 100 images."
    page.locator(".message").get_by_text(text).wait_for()
    page.locator("#count").get_by_text("100 images: 100 Adenocarcinoma").wait_for()
    assert card_names(page) == names[:100]
    assert page.locator(".message").get_by_text(text).count() == 1
    assert "100 images" in page.text_content("#announcement")
    # Only what is near the visible part is decoded and drawn.
    assert 4 <= page.evaluate("objectUrls.size") <= 40
    drawn = "maps => maps.filter((canvas) => canvas.width > 0).length"
    assert 4 <= page.locator(".card .heatmap").evaluate_all(drawn) <= 40
    page.get_by_role("button", name="Remove 99.png").scroll_into_view_if_needed()
    heatmap = card(page, "99.png").locator(".heatmap")
    until(lambda: heatmap.evaluate("canvas => canvas.width > 0"))
    assert 4 <= page.locator(".card .heatmap").evaluate_all(drawn) <= 40
    page.get_by_role("button", name="Clear all").click()
    for button in page.get_by_role("button", name="Dismiss this message").all()[::-1]:
        button.click()
    assert page.evaluate("objectUrls.size") == 0


@pytest.mark.slow
def test_a_wrong_result_can_be_flagged(site, open_page):
    page = open_page(site, 400)
    error = {"code": "feedback_full", "message": "the storage for feedback is full"}
    refusals = [{"status": 507, "json": {"error": error, "request_id": "x"}}]
    page.route(
        "**/feedback",
        lambda route: route.fulfill(**refusals.pop()) if refusals else route.continue_(),
    )
    page.set_input_files("#file", as_file(IMAGES["spot.png"], "spot.png"))
    found = wait_for_card(page, "spot.png")
    found.get_by_role("button", name="Flag as wrong").click()
    dialog = page.get_by_role("dialog", name="Flag as wrong")
    assert dialog.locator("option").all_inner_texts() == ["Normal"]
    dialog.get_by_role("button", name="Cancel").click()
    found.get_by_role("button", name="Flag as wrong").click()
    dialog.get_by_role("button", name="Send").click()
    dialog.get_by_role("alert").get_by_text("The storage for feedback is full.").wait_for()
    dialog.get_by_role("button", name="Send").click()
    found.locator(".flagged").get_by_text("Correct class: Normal").wait_for()
    assert page.evaluate("uploads.at(-1)") == {"file": "image", "label": "normal"}
    assert found.get_by_role("button", name="Flag as wrong").count() == 0
    page.reload()
    page.locator(".flagged").get_by_text("Correct class: Normal").wait_for()


@pytest.mark.slow
def test_a_dicom_file_is_classified_again_with_another_window_and_frame(site, open_page):
    page = open_page(site)
    page.set_input_files("#file", {"name": "series", "mimeType": "", "buffer": make_dicom()})
    found = wait_for_card(page, "series")
    info = found.locator(".dicom-info")
    assert info.inner_text() == "Current: lung window, center -600 HU, width 1500 HU."
    assert found.locator(".frame-control output").inner_text() == "1 of 3"
    first = found.locator(".image").get_attribute("src")
    assert first.startswith("blob:")
    assert found.locator(".image").evaluate(
        "image => [image.naturalWidth, image.naturalHeight]"
    ) == [48, 32]

    window, frame = found.get_by_label("Window"), found.get_by_label("Frame")
    window.select_option("Bone")
    wait_for_upload(page, "series", window="bone")
    assert "bone window, center" in info.inner_text()
    window.select_option("Custom…")
    found.get_by_label("Width").fill("0")  # invalid: isn't sent
    found.get_by_label("Center").fill("-300")
    found.get_by_label("Width").fill("400")
    page.keyboard.press("Tab")
    wait_for_upload(page, "series", window="-300,400")
    frame.focus()
    page.keyboard.press("End")
    assert wait_for_upload(page, "series", window="-300,400", frame="3")["preview"] == "true"
    windows = [upload.get("window", "") for upload in page.evaluate("uploads")]
    assert not any(window.endswith(",0") for window in windows)
    assert "custom window, center -300" in info.inner_text()
    assert found.locator(".frame-control output").inner_text() == "3 of 3"
    assert found.locator(".image").get_attribute("src") != first
    assert not re.search(f"{re.escape(NAME)}|4711", page.content())


@pytest.mark.slow
@pytest.mark.parametrize("how", ["dropped folder", "chosen folder", "zip"])
def test_a_folder_or_zip_has_a_series_for_each_folder_and_dicom_series(
    site, open_page, tmp_path, how
):
    page = open_page(site, 360)
    scan = make_dicom(SeriesInstanceUID="1.2.3")
    files = {f"p1/{name}": IMAGES[name] for name in ("white.png", "spot.png")}
    files |= {"scan/1": scan, "scan/2": scan, "p2/even.png": IMAGES["even.png"], ".hidden": b"h"}
    folder, archive = tmp_path / "study", tmp_path / "study.zip"
    save(folder, files)
    if how == "dropped folder":
        drop_folder(page, folder)
    elif how == "chosen folder":
        with page.expect_file_chooser() as chooser:
            page.get_by_text("Choose a folder").click()
        chooser.value.set_files(folder)
    else:
        archive.write_bytes(zip_of(files | {"__MACOSX/p1/._spot.png": b"m"}))
        damaged = tmp_path / "damaged.zip"
        damaged.write_bytes(archive.read_bytes()[:-30])
        page.set_input_files("#file", [damaged, archive])
        page.get_by_text("damaged.zip not added. The browser can’t unpack it.").wait_for()
    folders = page.locator("#series tbody tr")
    folders.nth(1).wait_for()
    assert folders.count() == 2
    p1, scan = (row.get_by_role("cell").all_inner_texts() for row in folders.all())
    names = page.locator("#series tbody th").all_inner_texts()
    assert names[0] == "study/p1"
    assert re.fullmatch(r"study/scan · dicom-[0-9a-f]{12}", names[1])
    assert (p1[0], p1[2]) == ("Adenocarcinoma", "2")
    assert p1[3] == "1 image unfamiliar"
    assert float(p1[1].strip("> %")) > 90
    assert scan[2] == "2"
    sent = next(request for request in page.requests if request.url.endswith("/series"))
    assert not re.search("study|p1|dicom-", sent.post_data)
    expected = ["p1/spot.png", "p1/white.png", "p2/even.png", "scan/1", "scan/2"]
    assert card_names(page) == [f"study/{path}" for path in expected]
    assert not re.search(f"{re.escape(NAME)}|4711", page.content())
    assert_only_own_host(page, site)


@pytest.mark.slow
def test_a_busy_server_is_asked_again(site, open_page, picture):
    page = open_page(site, 400)
    page.wait_for_selector("[data-state=ready]")
    page.clock.install()
    page.clock.pause_at(datetime.now() + timedelta(minutes=1))
    refusals = [(503, "busy"), (429, "too_many_requests")]

    def respond(route):
        if not refusals:
            return route.continue_()
        status, code = refusals.pop(0)
        body = {"error": {"code": code, "message": "try later"}, "request_id": "x"}
        return route.fulfill(status=status, json=body, headers={"Retry-After": "1"})

    page.route("**/predict", respond)
    page.set_input_files("#file", as_file(picture(0)))
    for message in (
        "The server is busy: next attempt in 1 s (1 of 5).",
        "Rate limit reached: next attempt in 1 s (2 of 5).",
    ):
        page.get_by_text(message).wait_for()
        page.clock.run_for(1000)
    wait_for_card(page, "slice.png")


@pytest.mark.slow
def test_as_many_requests_as_the_server_takes_and_one_can_be_cancelled(site, open_page, picture):
    page = open_page(site, 400, height=4000)  # all cards are visible
    held, holding = [], [True]
    page.route("**/predict", lambda route: held.append(route) if holding else route.continue_())
    count = min(6, int(page.evaluate("document.body.dataset.concurrency")) + 1)
    started = ["a", *(f"b{number}" for number in range(count - 1))]
    files = [as_file(picture(0), f"{name}.png") for name in (*started, "c")]
    page.set_input_files("#file", files)
    for name in started:
        wait_for_card(page, f"{name}.png", "working")
    until(lambda: page.wait_for_timeout(20) or len(held) == count)
    wait_for_card(page, "c.png", "waiting").get_by_text("Waiting in the queue.").wait_for()
    # Images and progress are shown at once.
    card(page, "c.png").locator(".image").wait_for()
    assert page.inner_text("#count") == f"0 of {count + 1} images"
    assert page.locator("#progress").get_attribute("max") == str(count + 1)
    card(page, "a.png").get_by_role("button", name="Cancel").click()
    cancelled = wait_for_card(page, "a.png", "failed")
    wait_for_card(page, "c.png", "working")
    holding.clear()
    cancelled.get_by_role("button", name="Try again").click()
    for route in held:  # in an unknown order; continuing the cancelled one has no effect
        route.continue_()
    for name in (*started, "c"):
        wait_for_card(page, f"{name}.png")
    assert card_names(page) == [file["name"] for file in files]
    assert page.is_hidden("#progress")


@pytest.mark.slow
def test_the_page_waits_for_a_lost_server_and_continues(site, open_page, picture):
    page = open_page(site, 400)
    page.wait_for_selector("[data-state=ready]")
    page.context.set_offline(True)
    page.set_input_files("#file", as_file(picture(0), "later.png"))
    page.wait_for_selector("#notice[data-state=offline]")
    waiting = wait_for_card(page, "later.png", "waiting")
    assert "Waiting for the model; continues automatically." in waiting.inner_text()
    page.context.set_offline(False)
    wait_for_card(page, "later.png")
    page.wait_for_selector("#notice", state="hidden")


@pytest.mark.slow
def test_a_missing_model_and_a_stopped_server_are_shown(start_app, open_page, tmp_path):
    with start_app(tmp_path / "none", ready=False) as (url, process):
        page = open_page(url)
        page.wait_for_selector("#notice[data-state=no_model]")
        assert page.inner_text("#command") == "make pipeline"
        assert page.is_visible("#copy")
        process.terminate()
        process.wait(PATIENCE_S)
        page.wait_for_selector("#notice[data-state=offline]")
        assert "can’t be reached" in page.inner_text("#notice")


@pytest.mark.slow
def test_sign_in_and_out(start_app, evaluated, open_page, picture):
    token, entry = create_token("page", may_train=False)
    with start_app(evaluated / "bundle", API_TOKENS=entry) as (url, _):
        page = open_page(f"{url}/about", 400)
        page.get_by_label("Token").fill("wrong")
        page.keyboard.press("Enter")
        page.get_by_role("alert").get_by_text("Unknown token").wait_for()
        page.get_by_label("Token").fill(token)
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="The model").wait_for()
        page.get_by_role("link", name="Classify").click()
        page.set_input_files("#file", as_file(picture(0)))
        wait_for_card(page, "slice.png")
        assert token not in page.content()
        assert page.get_by_role("button", name="Flag as wrong").count() == 0  # needs a right
        page.context.clear_cookies()
        page.set_input_files("#file", as_file(picture(0), "late.png"))
        page.wait_for_selector("#notice[data-state=signed_out]")
        wait_for_card(page, "late.png", "waiting")
        page.get_by_role("link", name="Sign in").click()
        page.get_by_label("Token").fill(token)
        page.keyboard.press("Enter")
        page.get_by_text("1 result restored.").wait_for()
        page.get_by_role("button", name="Sign out").click()
        page.get_by_label("Token").wait_for()
        assert page.evaluate("sessionStorage.length") == 0
        assert_only_own_host(page, url)


def violations(page):
    from axe_playwright_python.sync_playwright import Axe

    found = []
    for rule in Axe().run(page).response["violations"]:
        found += [(rule["id"], node["html"], node["failureSummary"]) for node in rule["nodes"]]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 360), ("dark", 1280)])
def test_the_pages_are_accessible(site, open_page, scheme, width):
    page = open_page(site, width, color_scheme=scheme)
    page.wait_for_selector("#example-list img")
    assert violations(page) == []
    names = ["spot.png", "white.png", "even.png"]
    files = [as_file(IMAGES[name], name) for name in names]
    files += [as_file(b"no", "bad.png"), as_file(make_dicom(), "series")]
    page.set_input_files("#file", files)
    for name in (*names, "series"):
        wait_for_card(page, name)
    wait_for_card(page, "bad.png", "failed")
    card(page, "series").get_by_label("Window").select_option("Custom…")
    wait_for_upload(page, "series", window="-600,1500")
    page.get_by_role("button", name="Remove white.png").click()
    assert violations(page) == []
    for button in ("Enlarge spot.png", "Code"):
        page.get_by_role("button", name=button).first.click()
        assert violations(page) == []
        page.keyboard.press("Escape")
    page.get_by_label("Table", exact=True).check()
    assert violations(page) == []
    page.goto(f"{site}/about")
    assert page.get_by_role("table").first.get_by_role("row").count() == 7
    page.get_by_text("All metrics of the test split").click()
    assert page.get_by_role("table").nth(1).get_by_role("row").count() == 12
    page.get_by_text("1 more warning").click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert violations(page) == []
    assert page.errors == []


@pytest.mark.slow
def test_the_description_of_the_api_is_short_and_sends_requests(site, open_page):
    page = open_page(f"{site}/docs#model", 1280)
    assert page.evaluate("document.documentElement.scrollHeight") < 3000
    form = page.get_by_role("form", name="Try GET /model")
    form.get_by_role("button", name="Try it").click()
    form.get_by_text('"backbone": "tiny"').wait_for()
    page.get_by_text("Classify one or more images").click()
    form = page.get_by_role("form", name="Try POST /predict")
    form.get_by_label("File").set_input_files(as_file(IMAGES["spot.png"]))
    form.get_by_role("button", name="Try it").click()
    form.get_by_text('"class": "adenocarcinoma"').wait_for()
    for details in page.locator("details").all():
        details.evaluate("element => (element.open = true)")
    assert violations(page) == []
    assert page.errors == []


@pytest.mark.slow
def test_without_javascript_the_page_explains_itself(site, open_page):
    page = open_page(site, 400, java_script_enabled=False)
    notice = page.locator("noscript .notice")  # locators by text skip noscript
    assert "This page needs JavaScript" in notice.inner_text()
    assert f"curl -F file=@image.png {site}/predict" in notice.inner_text()
    assert page.locator("#drop, #status").filter(visible=True).count() == 0


@pytest.mark.slow
def test_the_reports_are_accessible(open_page, tmp_path):
    cards(tmp_path / "card")
    images = {
        f"{label}/{number}.png": random_picture(seed + number)
        for label, seed in (("ill", 0), ("well", 100))
        for number in range(8)
    }
    images |= {"ill/copy.png": random_picture(0), "well/small.png": random_picture(101, (84, 70))}
    save(tmp_path / "data", images)
    changes = {
        "data_ingestion.data_dir": str(tmp_path / "data"),
        "data_validation.report_path": str(tmp_path / "report/data_report.json"),
        "data_validation.manifest_path": str(tmp_path / "report/manifest.csv"),
    }
    folder = write_project(tmp_path / "project", changes)
    manager = ConfigurationManager(folder / "config/config.yaml", folder / "params.yaml")
    DataValidation(manager.data_validation()).run()
    for report in ("card/MODEL_CARD.html", "report/data_report.html"):
        page = open_page((tmp_path / report).as_uri(), 360)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert violations(page) == []
