"""Make the README's pictures anew: the page with a prediction, and a sheet of phantoms.

Needs a trained bundle (`make pipeline`) and Chromium.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from benchmarks.serving import free_port, wait_until_ready
from ct_phantom import parse_phantom, write_phantom

DOCS = Path("docs")


def main() -> None:
    """Write `docs/phantom.png` and `docs/page.png`."""
    DOCS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_phantom(folder, parse_phantom("phantom:patients=8,slices=1,size=256,seed=5"))
        ill, well = (
            sorted((folder / label).glob("*.png")) for label in ("adenocarcinoma", "normal")
        )
        sheet(ill[:4] + well[:4]).save(DOCS / "phantom.png", optimize=True)
    page(DOCS / "page.png")


def sheet(files: list[Path]) -> Image.Image:
    """Lay eight slices out in two rows."""
    picture = Image.new("L", (4 * 256, 2 * 256))
    for number, file in enumerate(files):
        picture.paste(Image.open(file), (number % 4 * 256, number // 4 * 256))
    return picture


def page(target: Path) -> None:
    """Start the server, let it look at its first example in Chromium, and take a screenshot."""
    port = free_port()
    server = subprocess.Popen([sys.executable, "app.py", "--port", str(port)])
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/readyz", server)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"),
                args=[
                    "--no-sandbox",
                    "--disable-gpu",
                    "--no-first-run",
                    "--disable-background-networking",
                ],
            )
            shown = browser.new_page(viewport={"width": 1200, "height": 760})
            shown.goto(f"http://127.0.0.1:{port}/")
            shown.locator("#example-list button").first.click()
            shown.locator("#cards [data-state=done]").wait_for()
            shown.wait_for_timeout(800)
            shown.screenshot(path=target, full_page=True)
            browser.close()
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
