import io

import numpy as np
import pytest
from PIL import Image

from cnnClassifier.imaging.decode import decode, prepare, resize, shrink
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
        (encoded(np.zeros((100, 100), np.uint8)), np.zeros((100, 100, 3)), "PNG", "L", 1),
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
    expected = np.asarray(Image.fromarray(smooth).convert(mode).convert("RGB")).astype(int)
    assert np.abs(image.pixels - expected).max() < 12


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
    ],
)
def test_what_is_no_image_says_why(data, code):
    with pytest.raises(ImageError) as caught:
        decode(data, MAX_PIXELS)
    assert caught.value.code == code
    assert str(caught.value)


@pytest.mark.parametrize("shape", [(40, 60), (7, 5, 3), (32, 64, 4), (1, 1)])
def test_any_picture_gets_the_models_shape(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    image = prepare(encoded(pixels), (32, 64, 3), 10_000)
    assert (image.shape, image.dtype) == ((32, 64, 3), np.uint8)


def test_scaling_down_averages_and_keeps_height_from_width():
    stripes = np.zeros((64, 128, 3), np.uint8)
    stripes[:, 1::2] = 255  # without antialiasing these would stay black and white
    stripes[:32] = 0
    small = resize(stripes, (8, 16, 3))
    assert small[:3].max() == 0
    assert np.abs(small[5:, 1:-1].astype(int) - 127).max() <= 2
    assert resize(small, (8, 16, 3)) is small


@pytest.mark.parametrize(
    ("shape", "small"),
    [((8, 9), (8, 9)), ((16, 17), (8, 9)), ((1, 60_000), (1, 16)), ((4000, 9), (16, 1))],
)
def test_shrinking_keeps_the_shape_and_small_pictures(shape, small):
    pixels = np.full((*shape, 3), 7, np.uint8)
    found = shrink(pixels, 16)
    assert (found is pixels) == (max(shape) <= 16)
    assert found.shape[:2] == small
    assert (found == 7).all()
