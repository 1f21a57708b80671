"""Time 100 images on the page against 100 requests one after the other; measure the tab's memory.

The requests are sent over one connection, and by curl. Needs a trained bundle (`make pipeline`),
Chromium and curl.

    python -m benchmarks.page [--size 512]
"""

import argparse
import http.client
import io
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import CDPSession, Page, sync_playwright

from benchmarks.serving import free_port, wait_until_ready

COUNT = 100
# Milliseconds from the choice of the files until the first and the last result are shown.
WATCH = """count => {
  let start = 0;
  const choose = () => (start = performance.now());
  document.getElementById("file").addEventListener("change", choose, {capture: true});
  const finished = () => document.querySelectorAll(".card[data-state=done]").length;
  window.times = new Promise((resolve) => {
    let first = 0;
    new MutationObserver(() => {
      if (finished() > 0) first ||= performance.now() - start;
      if (finished() === count) resolve([first, performance.now() - start]);
    }).observe(document.getElementById("cards"), {subtree: true, attributeFilter: ["data-state"]});
  });
}"""


def main() -> None:
    """Print both times, and the memory of the tab before and after."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=512, help="width and height of each image")
    size = parser.parse_args().size
    images = [make_image(size, seed) for seed in range(COUNT)]
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "app.py", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/readyz", server)
        send(port, images[:5])  # warm-up
        print(f"{COUNT} requests over one connection: {send(port, images):.1f} s")
        with tempfile.TemporaryDirectory() as folder:
            files = []
            for number, image in enumerate(images):
                files.append(Path(folder, f"{number}.png"))
                files[-1].write_bytes(image)
            url = f"http://127.0.0.1:{port}/"
            print(f"{COUNT} requests by curl: {send_by_curl(url, files):.1f} s")
            show(url, files)
    finally:
        server.terminate()
        server.wait()


def make_image(size: int, seed: int) -> bytes:
    """Return a PNG of smooth noise."""
    pixels = np.random.default_rng(seed).normal(110, 40, (64, 64)).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def send(port: int, images: list[bytes]) -> float:
    """Send the images over one connection; return the seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    start = time.perf_counter()
    for image in images:
        connection.request("POST", "/predict?map=true", image, {"Content-Type": "image/png"})
        response = connection.getresponse()
        response.read()
        assert response.status == 200, response.status
    connection.close()
    return time.perf_counter() - start


def send_by_curl(url: str, files: list[Path]) -> float:
    """Send each file by a process of its own; return the seconds."""
    start = time.perf_counter()
    for file in files:
        command = ["curl", "-sSf", "-F", f"file=@{file}", "-F", "map=true", f"{url}predict"]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def show(url: str, files: list[Path]) -> None:
    """Upload all images to the page at once."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(url)
        page.wait_for_selector("[data-state=ready]")
        session = browser.new_browser_cdp_session()
        print(f"the tab, empty: {tab_memory(session):.0f} MB")
        page.evaluate(WATCH, COUNT)
        page.set_input_files("#file", files)
        first, last = page.evaluate("times")
        print(f"on the page: first result {first / 1000:.2f} s, all {last / 1000:.1f} s")
        scroll_through(page)
        print(f"the tab, all cards seen: {tab_memory(session):.0f} MB")
        browser.close()


def scroll_through(page: Page) -> None:
    """Bring every card into view."""
    for card in page.locator(".card").all():
        card.scroll_into_view_if_needed()


def tab_memory(session: CDPSession) -> float:
    """Return the memory of the renderers in MB: what belongs to them alone, in RAM (Linux)."""
    total = 0
    for process in session.send("SystemInfo.getProcessInfo")["processInfo"]:
        if process["type"] == "renderer":
            text = Path(f"/proc/{process['id']}/smaps_rollup").read_text()
            for line in text.splitlines():
                if line.startswith("Private_"):
                    total += int(line.split()[1])
    return total / 1000


if __name__ == "__main__":
    main()
