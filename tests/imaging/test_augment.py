import numpy as np
import pytest

from cnnClassifier.entity.config_entity import AugmentationConfig
from cnnClassifier.imaging.augment import View, augment, views_of

CONFIG = AugmentationConfig(
    views=40, rotation=30, shift=0.2, shear=10, zoom=0.3, horizontal_flip=True, seed=1
)
SHA = "ab" * 32
SQUARE = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
WIDE = np.random.default_rng(1).integers(0, 256, (20, 40, 3), np.uint8)


def moved(pixels, down, right):
    """Show at each place what lies so far below and to the right, the border repeated."""
    rows = np.clip(np.arange(pixels.shape[0]) + down, 0, pixels.shape[0] - 1)
    columns = np.clip(np.arange(pixels.shape[1]) + right, 0, pixels.shape[1] - 1)
    return pixels[rows][:, columns]


@pytest.mark.parametrize(
    ("pixels", "view", "expected"),
    [
        (WIDE, View(), WIDE),
        (WIDE, View(rotation=360), WIDE),
        (SQUARE, View(rotation=90), np.rot90(SQUARE)),
        (SQUARE, View(rotation=-90), np.rot90(SQUARE, -1)),
        (WIDE, View(rotation=180), WIDE[::-1, ::-1]),
        (WIDE, View(flip=True), WIDE[:, ::-1]),
        (WIDE, View(shift=(0.25, 0)), moved(WIDE, 5, 0)),
        (WIDE, View(shift=(0, -0.1)), moved(WIDE, 0, -4)),
        (WIDE, View(shift=(0.25, 0.1), flip=True), moved(WIDE, 5, 4)[:, ::-1]),
        (SQUARE, View(rotation=90, shift=(0.25, 0)), moved(np.rot90(SQUARE), 6, 0)),
    ],
)
def test_each_transform_does_what_it_says(pixels, view, expected):
    seen = augment(pixels, view)
    assert (seen.shape, seen.dtype) == (pixels.shape, np.uint8)
    assert np.abs(seen.astype(int) - expected).max() <= 1


def test_zoom_enlarges_below_one_and_shows_more_above():
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[15:25, 15:25] = 255
    for zoom, sides in {
        (0.5, 1): (20, 10),
        (1, 0.5): (10, 20),
        (2, 1): (5, 10),
        (0.5, 2): (20, 5),
    }.items():
        bright = augment(picture, View(zoom=zoom))[..., 0] > 127
        assert abs(bright.any(1).sum() - sides[0]) <= 1, zoom
        assert abs(bright.any(0).sum() - sides[1]) <= 1, zoom
        assert bright[20, 20]


def test_shear_slants_what_stood_upright():
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[:, 19:21] = 255
    seen = augment(picture, View(shear=30))[..., 0].astype(float)
    middles = (seen * np.arange(40)).sum(1) / seen.sum(1)
    step = np.diff(middles[10:30])
    assert np.allclose(step, np.sin(np.deg2rad(30)), atol=0.05)
    lying = np.rot90(picture)
    assert (augment(lying, View(shear=60))[:, 20, 0].astype(int).sum() / 255) == pytest.approx(
        2 / 0.5, abs=0.1
    )


def test_what_comes_from_outside_repeats_the_border_however_far():
    white = np.full((24, 32, 3), 255, np.uint8)
    widest = [
        View(rotation=45, shear=89, shift=(1, 1), zoom=(1.9, 1.9)),
        View(180, -89, (-1, 1), (1.9, 0.1), True),
    ]
    for view in widest + views_of(
        SHA,
        AugmentationConfig(
            views=60, rotation=180, shift=1, shear=89, zoom=0.9, horizontal_flip=True, seed=7
        ),
    ):
        assert augment(white, view).min() == 255, view


def test_views_are_drawn_from_seed_and_content_and_more_extend_the_list():
    views = views_of(SHA, CONFIG)
    assert views == views_of(SHA, CONFIG)
    assert views[:7] == views_of(SHA, CONFIG.model_copy(update={"views": 7}))
    assert len(set(views)) == 40
    for others in (
        views_of(SHA, CONFIG.model_copy(update={"seed": 2})),
        views_of("cd" * 32, CONFIG),
    ):
        assert set(views) & set(others) == {View()}


def test_views_keep_within_their_ranges_and_use_them():
    views = [view for number in range(10) for view in views_of(f"{number:064x}", CONFIG)[1:]]
    for values, low, high in (
        ([view.rotation for view in views], -30, 30),
        ([view.shear for view in views], -10, 10),
        ([side for view in views for side in view.shift], -0.2, 0.2),
        ([side for view in views for side in view.zoom], 0.7, 1.3),
    ):
        assert low <= min(values) < low + 0.05 * (high - low)
        assert high >= max(values) > high - 0.05 * (high - low)
        assert abs(np.mean(values) - (low + high) / 2) < 0.1 * (high - low)
    assert 0.4 < np.mean([view.flip for view in views]) < 0.6
    assert not any(
        view.flip for view in views_of(SHA, CONFIG.model_copy(update={"horizontal_flip": False}))
    )
