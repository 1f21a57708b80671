import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cnnClassifier.dataset.audit import near_copies, read_files
from cnnClassifier.dataset.marks import NO_MARKS, find_marks, shared_marks
from ct_phantom import parse_phantom, write_phantom

BITS, CORRELATION = 8, 0.991  # as in config.yaml
CROPS = {  # left, top, right, bottom as shares of the sides: 60 to 75 % of the area
    "middle": (0.1, 0.1, 0.9, 0.9),
    "corner": (0, 0, 0.85, 0.85),
    "low": (0.05, 0.25, 1, 1),
    "narrow": (0.15, 0.04, 0.87, 0.95),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write slices of twelve patients, two of each that aren't far apart."""
    root = tmp_path_factory.mktemp("phantom")
    write_phantom(root, parse_phantom("phantom:patients=12,slices=2,size=256,seed=3"))
    return root


def cropped(image, share):
    """Crop, enlarge, draw a line, change the contrast, and encode anew."""
    width, height = image.size
    left, top, right, bottom = share
    image = (
        image.convert("L")
        .crop((left * width, top * height, right * width, bottom * height))
        .resize((280, 300))
    )
    image = image.point(lambda level: level * 0.8 + 20)
    ImageDraw.Draw(image).line((10, 30, 100, 12), fill=255, width=2)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=75)
    return out.getvalue()


def facts_of(folder):
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*g"))
    return read_files(folder, [(path, "a") for path in files], 10_000_000)


def test_strong_crops_are_joined_with_their_pictures_and_with_no_other(folder, tmp_path):
    shares = list(CROPS.values())
    for number, path in enumerate(sorted(folder.rglob("*_slice01.png"))):
        image = Image.open(path)
        image.save(tmp_path / path.name)
        (tmp_path / f"{path.stem} crop.jpg").write_bytes(
            cropped(image, shares[number % len(shares)])
        )
    facts = facts_of(tmp_path)
    found = [
        (facts[first].path, facts[other].path)
        for first, other in near_copies(facts, BITS, CORRELATION)
    ]
    assert all(one.partition("_")[0] == other.partition("_")[0] for one, other in found)
    assert (
        len(found) >= 11
    )  # of 12; `low` stretches by a third, which changes the codes: one has too few left


def test_other_patients_are_not_joined(folder):
    facts = facts_of(folder)
    for first, other in near_copies(facts, BITS, 0.95):
        assert facts[first].path.rpartition("_")[0] == facts[other].path.rpartition("_")[0]


def test_shared_marks_tell_where_a_crop_was_cut(folder):
    image = Image.open(min(folder.rglob("*.png"))).convert("L")
    width, height = image.size
    crop = image.crop((width // 8, 0, width * 7 // 8, height * 3 // 4))
    marks = [find_marks(image), find_marks(crop), NO_MARKS]
    (shared,) = shared_marks(marks)
    assert (shared.first, shared.other) == (0, 1)
    np.testing.assert_allclose(shared.place, [4 / 3, 4 / 3, 0, 1 / 3], atol=0.06)
    assert shared_marks([NO_MARKS] * 2) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 2), (64, 64)])
def test_flat_and_tiny_pictures_have_no_marks(size):
    marks = find_marks(Image.new("L", size, 90))
    assert (marks.places.shape, marks.codes.shape) == ((0, 4), (0,))
