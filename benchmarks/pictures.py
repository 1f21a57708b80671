"""Make the README's pictures anew: the page with a prediction, and a sheet of phantoms.

Needs a trained bundle (`make pipeline`) and Chromium.
"""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from cnnClassifier.imaging.phantom import parse_phantom, write_phantom

DOCS = Path("docs")


def main() -> None:
    """Write `docs/phantom.png` and `docs/page.png`."""
    DOCS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_phantom(folder, parse_phantom("phantom:patients=8,slices=1,size=256,seed=5"))
        ill, well = (sorted((folder / label).glob("*.png")) for label in ("adenocarcinoma", "normal"))
        sheet(ill[:4] + well[:4]).save(DOCS / "phantom.png", optimize=True)
        page(ill[0], DOCS / "page.png")


def sheet(files: list[Path]) -> Image.Image:
    """Lay eight slices out in two rows."""
    picture = Image.new("L", (4 * 256, 2 * 256))
    for number, file in enumerate(files):
        picture.paste(Image.open(file), (number % 4 * 256, number // 4 * 256))
    return picture


def page(file: Path, target: Path) -> None:
    """Start the server, predict one picture in Chromium, and take a screenshot."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "app.py", "--port", str(port)])
    try:
        for _ in range(150):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz")
                break
            except OSError:
                time.sleep(0.2)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"),
                args=["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"],
            )
            shown = browser.new_page(viewport={"width": 1200, "height": 760})
            shown.goto(f"http://127.0.0.1:{port}/")
            shown.set_input_files("#file", file)
            shown.click("#predict")
            shown.wait_for_selector("#answer:not([hidden])")
            shown.wait_for_timeout(800)
            shown.screenshot(path=target)
            browser.close()
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
