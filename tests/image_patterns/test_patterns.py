import numpy as np
import pytest
from PIL import Image

from image_patterns import PatternOptions, parse_patterns, write_patterns
from tests.archives import read_files

SMALL = "patterns:classes=great tit|dr. Özil|狐%2C%7C100%,groups=2,images=2,size=64,seed=5"
CLASSES = ("great tit", "dr. Özil", "狐,|100%")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("patterns:", PatternOptions(("a", "b"), 20, 3, 128, 100, 0)),
        ("patterns: groups = 4, seed=3,", PatternOptions(groups=4, seed=3)),
        (SMALL, PatternOptions(CLASSES, 2, 2, 64, 100, 5)),
    ],
)
def test_options_are_read_from_a_url(url, expected):
    assert parse_patterns(url) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "colour=1",
            "colour: expected one of classes, groups, images, size, contrast, seed, found",
        ),
        ("groups", "groups: expected a whole number from 2 to 999, found ''"),
        ("groups=1", "groups: expected a whole number from 2 to 999, found '1'"),
        ("contrast=0", "contrast: expected a whole number from 1 to 100, found '0'"),
        ("size=2.5", "size: expected a whole number from 64 to 1024, found '2.5'"),
        ("seed=1,seed=2", "seed: expected it once, found it twice"),
        ("classes=a", "classes: expected 2 to 100 different folder names"),
        ("classes=a|A", "found 'a|A'"),
        ("classes=a||b", "found 'a||b'"),
        ("classes=a|../b", "found 'a|../b'"),
        ("classes=a|.b", "found 'a|.b'"),
        ("classes=a|b%2Fc", "found 'a|b%2Fc'"),
    ],
)
def test_an_invalid_option_is_reported_with_the_expected_value_and_an_example(options, message):
    with pytest.raises(ValueError) as raised:
        parse_patterns(f"patterns:{options}")
    assert message in str(raised.value)
    assert str(raised.value).endswith(
        "for example " + "patterns:classes=crow|great tit|jay,groups=20,images=3,size=128,seed=7"
    )


def test_the_same_options_give_the_same_bytes(tmp_path):
    groups = []
    for folder, url in (("one", SMALL), ("two", SMALL), ("other", SMALL.replace("=5", "=6"))):
        count = write_patterns(tmp_path / folder, parse_patterns(url), lambda: groups.append(1))
        assert count == 12
    assert len(groups) == 3 * 6
    files = read_files(tmp_path / "one")
    assert files == read_files(tmp_path / "two")
    other = read_files(tmp_path / "other")
    assert files.keys() == other.keys()
    assert len({*files.values(), *other.values()}) == 24
    assert len({len(content) for content in files.values()}) == 1  # the size tells nothing
    expected = set()
    for number in range(1, 7):
        for image in (1, 2):
            name = CLASSES[(number - 1) % 3]
            expected.add(f"{name}/group000{number}_image0{image}.png")
    assert files.keys() == expected


def test_images_of_a_group_have_the_same_colours(tmp_path):
    write_patterns(tmp_path, parse_patterns("patterns:groups=6,images=2,size=64"))
    means = []
    for path in sorted(tmp_path.glob("a/*.png")):
        with Image.open(path) as image:
            assert (image.mode, image.size) == ("RGB", (64, 64))
            means.append(np.asarray(image).mean(axis=(0, 1)))
    means = np.reshape(means, (6, 2, 3))
    within = np.abs(means[:, 0] - means[:, 1]).max()
    between = np.abs(means[1:, 0] - means[:-1, 0]).max(axis=1).min()
    assert within < 3 < between
    assert np.ptp(means, axis=2).max() > 20  # not gray


def test_there_may_be_100_classes(tmp_path):
    names = "|".join(map(str, range(100)))
    options = parse_patterns(f"patterns:classes={names},groups=2,images=1,size=64")
    assert write_patterns(tmp_path, options) == 200
