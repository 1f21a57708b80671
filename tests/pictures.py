"""Images for the tests of data validation: smooth, all different, and edited copies of them."""

import io

import numpy as np
from PIL import Image, ImageDraw


def picture(seed, size=(96, 80)):
    """Return a smooth random grey picture, (width, height)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def save(folder, files):
    """Write bytes or pictures by their path below a folder."""
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content if isinstance(content, bytes) else encoded(content))


def drawn_on(image):
    marked = image.copy()
    ImageDraw.Draw(marked).line((5, 5, 40, 9), fill=255, width=2)
    return marked


COPIES = {
    "as JPEG": lambda image: encoded(image, "JPEG", quality=80),
    "smaller": lambda image: image.resize((60, 50), Image.Resampling.BILINEAR),
    "larger": lambda image: image.resize((192, 160), Image.Resampling.BICUBIC),
    "drawn on": drawn_on,
    "brighter": lambda image: image.point(lambda level: min(255, level + 12)),
    "in colour": lambda image: image.convert("RGB"),
}
