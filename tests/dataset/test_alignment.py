import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.ndimage import zoom

from cnnClassifier.dataset.alignment import aligned_correlation
from cnnClassifier.dataset.audit import FileFacts, near_copies


def picture(seed):
    return Image.fromarray(
        zoom(np.random.default_rng(seed).uniform(20, 235, (7, 7)), 300 / 7, order=1).astype(
            np.uint8
        )
    )


def thumbnail(image):
    return np.asarray(image.resize((64, 64), Image.Resampling.BOX))


def drawn_on(image):
    image = image.copy()
    ImageDraw.Draw(image).line((20, 250, 180, 290), fill=255, width=3)
    return image


SAME = {
    "crop": lambda image: image.crop((20, 9, 290, 280)),
    "crop of the width": lambda image: image.crop((30, 0, 300, 300)),
    "padding": lambda image: Image.fromarray(np.pad(np.asarray(image), 15, mode="edge")),
    "brightness": lambda image: Image.eval(
        image.crop((9, 9, 295, 290)), lambda level: level * 0.7 + 30
    ),
    "line": lambda image: drawn_on(image.crop((9, 9, 295, 290))),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
@pytest.mark.parametrize("seed", range(3))
def test_a_changed_picture_is_the_same(change, seed):
    one, other = thumbnail(picture(seed)), thumbnail(change(picture(seed)))
    assert aligned_correlation(one, other) > 0.97
    assert aligned_correlation(other, one) > 0.97


@pytest.mark.parametrize("seed", range(3))
def test_other_and_blank_pictures_are_not(seed):
    one = thumbnail(picture(seed))
    assert aligned_correlation(one, thumbnail(picture(seed + 50))) < 0.9
    assert aligned_correlation(one, np.full((64, 64), 90, np.uint8)) == -1
    assert aligned_correlation(one, 255 - one) < 0.9


def fact(number, phash, thumbnail):
    return FileFacts(str(number), "a", str(number), 1, phash, thumbnail, "64x64", "L", "PNG", "")


def test_links_connect_a_large_set_and_are_fewer_than_its_files():
    rng = np.random.default_rng(0)
    same = thumbnail(picture(1))
    noisy = [
        np.clip(same + rng.integers(-3, 4, same.shape), 0, 255).astype(np.uint8) for _ in range(60)
    ]
    facts = [fact(number, 1 << int(rng.integers(64)), look) for number, look in enumerate(noisy)]
    facts += [
        fact(60, 0, thumbnail(picture(2))),
        fact(61, (1 << 40) - 1, same),
    ]  # like hash, unlike look; and reverse
    links = near_copies(facts, 2, 0.97)
    assert len(links) == 59
    assert {place for link in links for place in link} == set(range(60))


@pytest.mark.parametrize(
    ("differing", "bits", "linked"), [(8, 8, True), (9, 8, False), (0, 0, True), (1, 0, False)]
)
def test_hashes_may_differ_in_so_many_bits(differing, bits, linked):
    same = thumbnail(picture(1))
    apart = sum(
        1 << int(place)
        for place in np.random.default_rng(differing).choice(64, differing, replace=False)
    )
    facts = [fact(0, 0x0123456789ABCDEF, same), fact(1, 0x0123456789ABCDEF ^ apart, same)]
    assert near_copies(facts, bits, 0.97) == ([(0, 1)] if linked else [])
