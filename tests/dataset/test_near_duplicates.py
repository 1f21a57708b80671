import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from cnnClassifier.dataset.near_duplicates import extract_keypoints, find_near_duplicates

MIN_CORRELATION = 0.9  # as in config.yaml
ORIGINALS, COPIES = 16, 8


def detailed_image(seed, size=(300, 240)):
    """Make a random image with details of all sizes, unlike that of any other seed."""
    rng = np.random.default_rng(seed)
    image = np.zeros(size[::-1])
    for cells in (5, 12, 30, 75):
        grid = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
        image += np.asarray(grid.resize(size, Image.Resampling.BICUBIC))
    return Image.fromarray((128 + 30 * image).clip(0, 255).astype(np.uint8))


def smooth_image(seed):
    """Make an image with few keypoints."""
    grid = np.random.default_rng(seed).integers(0, 256, (7, 7), np.uint8)
    return Image.fromarray(grid).resize((96, 80), Image.Resampling.BICUBIC)


def encoded(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def cropped(image, left, top, right, bottom):
    width, height = image.size
    return image.crop((left * width, top * height, right * width, bottom * height))


def drawn_on(image):
    image = image.copy()
    ImageDraw.Draw(image).line((5, 5, 0.5 * image.width, 12), fill=255, width=2)
    return image


def changed(image):
    """Stretch, draw on, change the contrast and encode, as web sites do."""
    return encoded(drawn_on(image.resize((280, 300)).point(lambda gray: gray * 0.8 + 20)), 75)


def with_text(image):
    image = image.copy()
    ImageDraw.Draw(image).text((40, 100), "www.example.com", fill=255, font_size=24)
    return image


def extract(images):
    return [extract_keypoints(np.asarray(image)) for image in images]


@pytest.fixture(scope="module")
def originals():
    return extract(detailed_image(seed) for seed in range(ORIGINALS))


@pytest.fixture(scope="module")
def smooth():
    return extract(smooth_image(seed) for seed in range(ORIGINALS))


SLIGHT_CHANGES = {
    "encoded": lambda image: encoded(image, 60),
    "smaller": lambda image: image.resize((round(0.6 * image.width), round(0.6 * image.height))),
    "larger": lambda image: image.resize((2 * image.width, 2 * image.height)),
    "stretched": lambda image: image.resize((image.width, round(1.4 * image.height))),
    "slightly cropped": lambda image: cropped(image, 0.03, 0.02, 0.98, 0.98),
    "drawn on": drawn_on,
    "darkened": lambda image: image.point(lambda gray: gray * 0.5),
    "brightened": lambda image: image.point(lambda gray: min(255, gray + 12)),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}
STRONG_CHANGES = {
    "cropped in the middle": lambda image: changed(cropped(image, 0.1, 0.1, 0.9, 0.9)),
    "cropped to a corner": lambda image: changed(cropped(image, 0, 0, 0.85, 0.85)),
    "cropped at the top": lambda image: changed(cropped(image, 0.05, 0.25, 1, 1)),
    "narrowed": lambda image: changed(cropped(image, 0.15, 0.04, 0.87, 0.95)),
    "padded": lambda image: Image.fromarray(np.pad(np.asarray(image), 25)),
    "rotated by 5°": lambda image: image.rotate(5, Image.Resampling.BICUBIC),
    "rotated by 90°": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "mirrored and cropped": lambda image: cropped(
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 0.1, 0.05, 0.95, 0.95
    ),
    "with a text": with_text,
}


def expected_pairs():
    return [(index, ORIGINALS + index) for index in range(COPIES)]


@pytest.mark.parametrize("name", SLIGHT_CHANGES | STRONG_CHANGES)
def test_changed_images_are_linked_with_their_originals_only(originals, name):
    change = (SLIGHT_CHANGES | STRONG_CHANGES)[name]
    copies = extract(change(detailed_image(seed)) for seed in range(COPIES))
    assert find_near_duplicates(originals + copies, MIN_CORRELATION) == expected_pairs()


@pytest.mark.parametrize("name", SLIGHT_CHANGES)
def test_images_with_few_keypoints_are_linked_too(smooth, name):
    copies = extract(SLIGHT_CHANGES[name](smooth_image(seed)) for seed in range(COPIES))
    assert find_near_duplicates(smooth + copies, MIN_CORRELATION) == expected_pairs()


def test_order_and_threads_change_nothing(originals):
    images = [changed(cropped(detailed_image(seed), 0.1, 0, 1, 0.9)) for seed in range(COPIES)]
    keypoints = originals + extract(images)
    shuffled = np.random.default_rng(0).permutation(len(keypoints))
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        again = originals + extract(images)
        pairs = find_near_duplicates([again[index] for index in shuffled], MIN_CORRELATION)
    finally:
        cv2.setNumThreads(threads)
    pairs = sorted(tuple(sorted(map(int, shuffled[list(pair)]))) for pair in pairs)
    assert pairs == find_near_duplicates(keypoints, MIN_CORRELATION) == expected_pairs()


def test_a_large_set_of_copies_is_connected(originals):
    rng = np.random.default_rng(0)
    pixels = np.asarray(detailed_image(0), int)
    noisy = [pixels + rng.integers(-6, 7, pixels.shape) for _ in range(60)]
    keypoints = originals + extract(image.clip(0, 255).astype(np.uint8) for image in noisy)
    pairs = find_near_duplicates(keypoints, MIN_CORRELATION)
    assert len(pairs) == 60
    assert {index for pair in pairs for index in pair} == {0, *range(ORIGINALS, ORIGINALS + 60)}


def test_a_common_overlay_neither_links_images_nor_hides_copies():
    images = [with_text(detailed_image(seed)) for seed in range(40)]
    copies = [with_text(changed(cropped(image, 0.1, 0.1, 0.95, 0.95))) for image in images[:COPIES]]
    pairs = find_near_duplicates(extract(images + copies), MIN_CORRELATION)
    assert pairs == [(index, 40 + index) for index in range(COPIES)]


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 2), (64, 64)])
def test_blank_images_are_linked_with_none(originals, shape):
    blank = extract([np.full(shape, 90, np.uint8), np.full(shape, 90, np.uint8)])
    assert [image.codes.shape for image in blank] == [(0, 16), (0, 16)]
    assert find_near_duplicates(blank, MIN_CORRELATION) == []
    assert find_near_duplicates(originals + blank, MIN_CORRELATION) == []


def test_what_is_kept_of_an_image_is_small():
    noise = np.random.default_rng(0).integers(0, 256, (500, 400), np.uint8)
    image = extract_keypoints(noise)
    assert image.points.nbytes + image.codes.nbytes + len(image.thumbnail) < 40_000
    assert len(image.points) == len(image.codes)


def test_there_may_be_few_images(originals):
    assert find_near_duplicates([], MIN_CORRELATION) == []
    assert find_near_duplicates(originals[:1], MIN_CORRELATION) == []
    assert find_near_duplicates(originals[:1] * 2, MIN_CORRELATION) == [(0, 1)]
    assert find_near_duplicates(originals[:1] * 2, 1.1) == []
