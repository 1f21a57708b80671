"""Make the pictures of README and docs anew: the page with a prediction, and synthetic images.

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
from image_patterns import parse_patterns, write_patterns

DOCS = Path("docs")


def main() -> None:
    """Write `docs/phantom.png`, `docs/patterns.png` and `docs/page.png`."""
    DOCS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_phantom(folder, parse_phantom("phantom:patients=8,slices=1,size=256,seed=5"))
        ill, well = (
            sorted((folder / label).glob("*.png")) for label in ("adenocarcinoma", "normal")
        )
        sheet(ill[:4] + well[:4], 4).save(DOCS / "phantom.png", optimize=True)
        write_patterns(folder / "patterns", parse_patterns("patterns:classes=a|b|c,groups=2"))
        files = sorted((folder / "patterns").glob("*/*.png"))
        sheet(files, 6).quantize(64).save(DOCS / "patterns.png", optimize=True)
    page(DOCS / "page.png")


def sheet(files: list[Path], columns: int) -> Image.Image:
    """Lay images of equal size out in rows."""
    images = [Image.open(file) for file in files]
    width, height = images[0].size
    rows = -(-len(images) // columns)
    picture = Image.new(images[0].mode, (columns * width, rows * height))
    for number, image in enumerate(images):
        picture.paste(image, (number % columns * width, number // columns * height))
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
