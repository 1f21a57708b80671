import io

import numpy as np
import pytest
from PIL import Image

from cnnClassifier.imaging.prepare import prepare, resize, shrink
from cnnClassifier.utils.errors import ImageError


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("shape", [(40, 60), (7, 5, 3), (32, 64, 4), (1, 1)])
def test_any_picture_gets_the_models_shape(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    image = prepare(png(pixels), (32, 64, 3), 10_000)
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


def test_errors_pass_through():
    with pytest.raises(ImageError, match="empty"):
        prepare(b"", (32, 32, 3), 10)
