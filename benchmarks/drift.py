"""How often drift is reported: of simulated images, without drift and with it."""

import argparse
from typing import NamedTuple

import numpy as np

from benchmarks.measure import table
from cnnClassifier.entity.drift import DriftReference, ServedImages
from cnnClassifier.evaluation.drift import MAX_FALSE_ALARMS, build_reference, compare

_LABELS = ("Ill", "Well")
# Groups in training and served, images in a group at most, their correlation, groups per request.
CASES = (
    (40, 12, 1, 0.0, None),
    (200, 1000, 1, 0.0, None),
    (160, 40, 3, 0.6, None),
    (160, 1000, 3, 0.6, None),
    (60, 30, 8, 0.8, None),
    (60, 100, 20, 0.3, None),
    (60, 60, 3, 0.6, 4),
)


class Images(NamedTuple):
    """Images of two classes.

    Attributes:
        groups: number of the group of each image, int (n,), sorted.
        predicted: class index of each image, int (n,).
        features: values of each image, (n,), by name.
    """

    groups: np.ndarray
    predicted: np.ndarray
    features: dict[str, np.ndarray]


def main() -> None:
    """Print how many reports name a feature, without drift and with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reports", type=int, default=1000)
    options = parser.parse_args()
    rows = []
    print("The groups of the served images are as large as in training.\n")
    for case in CASES:
        rates = alarm_rate(case, options.reports), alarm_rate(case, options.reports, False)
        brighter = alarm_rate(case, options.reports, brighter=15)
        rows.append([*map(str, case), *(f"{rate:.1%}" for rate in (*rates, brighter))])
    header = ["groups in training", "served", "images per group", "correlation"]
    header += ["groups per request", "alarms", "groups ignored", "one std brighter"]
    print(table(header, rows))


def alarm_rate(
    case: tuple[int, int, int, float, int | None],
    reports: int,
    respect_groups: bool = True,
    brighter: float = 0.0,
) -> float:
    """Return the fraction of reports that name a feature, with new training images in each.

    Args:
        case: see `CASES`.
        reports: number of reports.
        respect_groups: whether groups and requests are known, or each image is taken for one.
        brighter: see `draw_images`; 0: there is no drift.
    """
    training_groups, served_groups, max_size, correlation, per_request = case
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(reports):
        training = draw_images(rng, training_groups, max_size, correlation)
        images = draw_images(rng, served_groups, max_size, correlation, brighter=brighter)
        groups = training.groups if respect_groups else np.arange(len(training.groups))
        reference = build_reference(training.features, training.predicted, 2, groups)
        served = serve(reference, images, per_request if respect_groups else None)
        found = compare(reference, served, _LABELS)
        # That small differences aren't reported would hide alarms where there are many images.
        alarms += min(feature.p_value for feature in found) < MAX_FALSE_ALARMS
    return alarms / reports


def draw_images(
    rng: np.random.Generator,
    groups: int,
    max_size: int = 1,
    correlation: float = 0.0,
    share: float = 0.5,
    brighter: float = 0.0,
    side: int = 256,
) -> Images:
    """Draw groups of images; the features depend on the predicted class, which groups share.

    Args:
        rng: random numbers.
        groups: number of groups.
        max_size: images of a group; their number is uniform from 1.
        correlation: of a feature of two images of a group.
        share: of the first class.
        brighter: is added to the mean intensity, whose standard deviation is 15 in each class.
        side: of the square images, in pixels.
    """
    sizes = rng.integers(1, max_size + 1, groups)
    group = np.repeat(np.arange(groups), sizes)

    def noise() -> np.ndarray:
        shared = rng.standard_normal(groups)[group] * np.sqrt(correlation)
        return shared + rng.standard_normal(len(group)) * np.sqrt(1 - correlation)

    predicted = (rng.random(groups) >= share).astype(int)[group]
    sides = np.full(len(group), side)
    features = {
        "probability": 1 / (1 + np.exp(-1 - predicted - noise())),
        "distance": np.exp(0.2 * noise() + 0.2 * predicted),
        "width": sides,
        "height": sides,
        "mean_intensity": 90 + 15 * noise() + 10 * predicted + brighter,
    }
    return Images(group, predicted, features)


def serve(
    reference: DriftReference, images: Images, groups_per_request: int | None = None
) -> ServedImages:
    """Count images as the server does.

    Args:
        reference: with the bins.
        images: to count.
        groups_per_request: None: each image is a request.
    """
    served = ServedImages.empty(reference)
    if groups_per_request is None:
        served.add_request(reference, images.predicted, images.features)
        served.squared_sizes = len(images.groups)
        return served
    requests = images.groups // groups_per_request
    for request in np.unique(requests):
        part = take(images, np.flatnonzero(requests == request))
        served.add_request(reference, part.predicted, part.features)
    return served


def take(images: Images, rows: np.ndarray) -> Images:
    """Select images."""
    features = {name: values[rows] for name, values in images.features.items()}
    return Images(images.groups[rows], images.predicted[rows], features)


if __name__ == "__main__":
    main()
