import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cnnClassifier.imaging.decode import decode
from cnnClassifier.utils.errors import ImageError

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
GREY = RGB[..., 0]
HALF = np.dstack([RGB, np.where(np.arange(30) < 15, 0, 255)[None].repeat(20, 0)]).astype(np.uint8)
MAX_PIXELS = 10_000


def encoded(pixels, kind="PNG", mode=None, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def grey3(pixels):
    return np.dstack([pixels] * 3)


def stretched(values):
    values = values.astype(float)
    return grey3(
        ((values - values.min()) * 255 / (values.max() - values.min())).round().astype(np.uint8)
    )


DEEP = GREY.astype(np.uint16) * 16 + 1000
BLACK_LEFT = np.where(np.arange(30)[:, None] < 15, 0, RGB)
PALETTE = Image.fromarray(GREY // 64, "P")
PALETTE.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]], np.uint8)
KEYED = RGB.copy()
KEYED[:5] = (1, 2, 3)
RED, BLUE = (Image.new("RGB", (8, 8), name) for name in ("red", "blue"))
RED_PIXELS = np.full((8, 8, 3), (255, 0, 0))
GIF = encoded(RED, "GIF", save_all=True, append_images=[BLUE])
WEBP = encoded(RED, "WEBP", save_all=True, append_images=[BLUE], lossless=True)


@pytest.mark.parametrize(
    ("data", "expected", "kind", "mode", "frames"),
    [
        (encoded(GREY), grey3(GREY), "PNG", "L", 1),
        (encoded(RGB), RGB, "PNG", "RGB", 1),
        (encoded(RGB, "BMP"), RGB, "BMP", "RGB", 1),
        (encoded(RGB, "TIFF", compression="tiff_lzw"), RGB, "TIFF", "RGB", 1),
        (encoded(RGB, "WEBP", lossless=True), RGB, "WEBP", "RGB", 1),
        (encoded(np.dstack([RGB, np.full_like(GREY, 255)])), RGB, "PNG", "RGBA", 1),
        (encoded(HALF), BLACK_LEFT, "PNG", "RGBA", 1),
        (encoded(Image.fromarray(HALF).convert("LA")), None, "PNG", "LA", 1),
        (encoded(np.dstack([RGB, np.full_like(GREY, 51)])), (RGB * 0.2).round(), "PNG", "RGBA", 1),
        (encoded(PALETTE), COLOURS[GREY // 64], "PNG", "P", 1),
        (
            encoded(PALETTE, transparency=1),
            np.where(GREY[..., None] // 64 == 1, 0, COLOURS[GREY // 64]),
            "PNG",
            "P",
            1,
        ),
        (
            encoded(KEYED, transparency=(1, 2, 3)),
            np.where(np.arange(20)[:, None, None] < 5, 0, RGB),
            "PNG",
            "RGB",
            1,
        ),
        (encoded(DEEP), stretched(DEEP), "PNG", "I;16", 1),
        (encoded(DEEP, "TIFF"), stretched(DEEP), "TIFF", "I;16", 1),
        (encoded(DEEP.astype(np.int32) - 2000, "TIFF"), stretched(DEEP), "TIFF", "I", 1),
        (encoded(DEEP.astype(np.float32) / 7, "TIFF"), stretched(DEEP), "TIFF", "F", 1),
        (encoded(np.full((4, 4), 700, np.uint16)), np.zeros((4, 4, 3)), "PNG", "I;16", 1),
        (encoded(GREY > 99), grey3((GREY > 99) * 255), "PNG", "1", 1),
        (GIF, RED_PIXELS, "GIF", "P", 2),
        (WEBP, RED_PIXELS, "WEBP", "RGB", 2),
        (encoded(RED, "TIFF", save_all=True, append_images=[BLUE]), RED_PIXELS, "TIFF", "RGB", 2),
    ],
)
def test_every_mode_becomes_rgb(data, expected, kind, mode, frames):
    image = decode(data, MAX_PIXELS)
    assert (image.format, image.mode, image.frames) == (kind, mode, frames)
    assert image.pixels.dtype == np.uint8
    assert image.size == f"{image.pixels.shape[1]}x{image.pixels.shape[0]}"
    if expected is None:
        assert (image.pixels[:, :15] == 0).all()
        assert image.pixels[:, 15:].any()
    else:
        assert image.pixels.shape == expected.shape
        assert np.abs(image.pixels.astype(int) - expected).max() <= (kind == "GIF")


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_keep_their_colours_whatever_the_file_is_called(mode):
    smooth = np.asarray(Image.fromarray(RGB[:2, :2]).resize((32, 32), Image.Resampling.BICUBIC))
    image = decode(encoded(smooth, "JPEG", mode, quality=98, subsampling=0), MAX_PIXELS)
    assert (image.format, image.mode) == ("JPEG", mode)
    wanted = np.asarray(Image.fromarray(smooth).convert(mode).convert("RGB")).astype(int)
    assert np.abs(image.pixels - wanted).max() < 12


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a)),
    ],
)
def test_exif_orientation_is_applied(orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode(encoded(RGB, exif=exif), MAX_PIXELS)
    assert np.array_equal(image.pixels, upright(RGB))


def png_that_claims(width, height):
    def chunk(kind, content):
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(10**6))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


PNG, JPEG = encoded(RGB), encoded(RGB, "JPEG")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty"),
        (b"patient,age\n1,50\n", "not_an_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
        (b"\x00" * 1000, "not_an_image"),
        (encoded(RGB, "PPM"), "not_an_image"),
        (encoded(RGB, "ICO"), "not_an_image"),
        (PNG[: len(PNG) // 2], "corrupt"),
        (PNG[:300] + bytes(100) + PNG[400:], "corrupt"),
        (JPEG[: len(JPEG) // 2], "corrupt"),
        (encoded(RGB, "GIF")[:-300], "corrupt"),
        (encoded(RGB, "TIFF")[:-300], "corrupt"),
        (encoded(np.zeros((101, 100), np.uint8)), "too_large"),
        (png_that_claims(50_000, 50_000), "too_large"),
        (png_that_claims(2**31 - 1, 2**31 - 1), "too_large"),
        (png_that_claims(10_000, 9_000), "too_large"),
    ],
)
def test_what_is_no_image_says_why(data, code):
    with pytest.raises(ImageError) as caught:
        decode(data, MAX_PIXELS)
    assert caught.value.code == code
    assert str(caught.value)


def test_as_many_pixels_as_allowed_are_taken():
    assert decode(encoded(np.zeros((100, 100), np.uint8)), MAX_PIXELS).size == "100x100"


@pytest.mark.parametrize("data", [PNG, JPEG, GIF, WEBP], ids=["png", "jpeg", "gif", "webp"])
def test_damage_of_any_kind_is_an_image_error_or_an_image(data):
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(data[: rng.integers(1, len(data))] if rng.random() < 0.5 else data)
        for place in rng.integers(0, len(damaged), 3):
            damaged[place] = rng.integers(256)
        try:
            assert decode(bytes(damaged), MAX_PIXELS).pixels.shape[2] == 3
        except ImageError as error:
            assert error.code in {"not_an_image", "corrupt", "too_large"}
