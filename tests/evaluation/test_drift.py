import numpy as np
import pytest

from benchmarks.drift import CASES, Case, alarm_rate, draw_images, serve
from cnnClassifier.entity.drift import ServedImages
from cnnClassifier.evaluation.drift import MAX_FALSE_ALARMS, TITLES, build_reference, compare

LABELS = ("Ill", "Well")
REPORTS = 400


def reference_of(images):
    return build_reference(images.features, images.predicted, 2, images.groups)


def changes(reference, images):
    """Return what `compare` found, by feature."""
    return {
        feature.name: feature for feature in compare(reference, serve(reference, images), LABELS)
    }


@pytest.mark.parametrize("case", CASES)
def test_the_distribution_of_the_training_images_is_rarely_reported(case):
    assert alarm_rate(case, REPORTS) <= MAX_FALSE_ALARMS


def test_ignoring_the_groups_would_report_it():
    """Otherwise the test above would show nothing about groups."""
    case = Case(60, 30, 8, 0.8)
    assert alarm_rate(case, REPORTS, respect_groups=False) > 2 * MAX_FALSE_ALARMS


def test_rare_classes_are_rarely_reported():
    """With so few images of each class the statistic has no chi-squared distribution."""
    rng = np.random.default_rng(0)
    count = 10
    alarms = 0
    for _ in range(REPORTS // 2):
        shares = rng.dirichlet(np.ones(count))
        training, served = (rng.choice(count, size, p=shares) for size in (400, 12))
        reference = build_reference({"width": training}, training, count, np.arange(400))
        images = ServedImages.empty(reference)
        images.add_request(reference, served, {"width": served})
        images.squared_sizes = len(served)  # one image in each request
        found, _ = compare(reference, images, [""] * count)
        alarms += found.p_value < MAX_FALSE_ALARMS
    assert 0 < 2 * alarms / REPORTS <= MAX_FALSE_ALARMS


def test_brighter_images_are_reported_and_nothing_else():
    rng = np.random.default_rng(0)
    reference = reference_of(draw_images(rng, 160, 3, 0.5))
    found = changes(reference, draw_images(rng, 40, 3, 0.5, brighter=30))
    assert [name for name in found if found[name].has_changed] == ["mean_intensity"]
    assert list(found) == list(TITLES)
    feature = found["mean_intensity"]
    assert (feature.level, feature.test) == ("large", "Kolmogorov-Smirnov")
    assert feature.psi > 5 * feature.chance_psi
    assert feature.text.startswith("Mean intensity is higher: ")
    assert feature.served_size < 60 < feature.reference_size
    training, served = np.transpose([fractions for _, *fractions in feature.bars])
    assert (training.sum(), served.sum()) == pytest.approx((1, 1))
    assert served[-1] > 0.5
    assert feature.bars[0][0].startswith("below ")


def test_another_share_of_the_classes_changes_no_other_feature():
    """The features depend on the class: unweighted training images would differ."""
    rng = np.random.default_rng(0)
    reference = reference_of(draw_images(rng, 400))
    found = changes(reference, draw_images(rng, 400, share=0.1))
    assert [name for name in found if found[name].has_changed] == ["class"]
    assert found["class"].text == (
        "Ill is predicted for 6% of the served images, for 46% of the training images."
    )
    assert found["class"].bars[0][0] == "Ill"
    is_first = reference_of(draw_images(rng, 100, share=1))
    found = changes(is_first, draw_images(rng, 100, share=0))  # a class without training images
    assert found["class"].level == "large"


@pytest.mark.parametrize("side", [128, 512])
def test_another_size_is_reported_where_all_training_images_have_one(side):
    rng = np.random.default_rng(0)
    reference = reference_of(draw_images(rng, 100))
    found = changes(reference, draw_images(rng, 30, side=side))
    assert [name for name in found if found[name].has_changed] == ["width", "height"]
    relation, fraction = ("at least", 0) if side == 128 else ("above", 100)
    assert found["width"].text.startswith(
        f"Width is {'higher' if fraction else 'lower'}: {fraction}% of the served images are "
        f"{relation} 256, of the training images {100 - fraction}%."
    )
    labels = [label for label, *_ in found["width"].bars]
    assert labels == ["below 256", "256", "above 256"]


def test_larger_groups_of_served_images_count_less():
    rng = np.random.default_rng(0)
    reference = reference_of(draw_images(rng, 160, 3, 0.5))
    served = serve(reference, draw_images(rng, 40))
    sizes = [compare(reference, served, LABELS, size)[0].served_size for size in (1, 2, 20)]
    assert sizes[0] == sizes[1]  # as in training, where they have 2.3 on average
    assert sizes[2] == pytest.approx(2)  # the images of a group have the same class


def test_few_images_are_not_tested():
    rng = np.random.default_rng(0)
    reference = reference_of(draw_images(rng, 100, 3, 0.5))
    found = changes(reference, draw_images(rng, 5, brighter=100))
    assert {(feature.level, feature.p_value) for feature in found.values()} == {("too few", 1)}


def test_the_correlation_within_groups_is_estimated():
    rng = np.random.default_rng(0)
    reference = reference_of(draw_images(rng, 3000, 4, 0.6))
    # The mean over the images of the size of their group: 30 / 10.
    assert reference.group_size == pytest.approx(3, abs=0.1)
    assert reference.class_correlation == 1
    feature = reference.features["probability"]
    assert feature.correlation == pytest.approx(0.6, abs=0.08)
    assert np.array(feature.counts).sum(axis=0) == pytest.approx(750, abs=40)
    assert reference.features["width"].correlation == 1  # all are equal
    assert reference_of(draw_images(rng, 50)).features["distance"].correlation == 1
