"""How often drift is reported: of simulated images, without drift and with it."""

import argparse
from typing import NamedTuple

import numpy as np

from benchmarks.measure import table
from cnnClassifier.entity.drift import DriftReference, ServedImages
from cnnClassifier.evaluation.drift import MAX_FALSE_ALARMS, build_reference, compare

_LABELS = ("Ill", "Well")


class Case(NamedTuple):
    """A simulated project.

    Attributes:
        training_groups: number of groups in training.
        served_groups: number of groups that are served.
        max_size: images of a group; their number is uniform from 1.
        correlation: of two images of a group.
        per_request: served groups in a request; None: each image is a request.
        served_max_size: of the served groups; None: as in training.
        group_size: `serving.drift_group_size`.
    """

    training_groups: int
    served_groups: int
    max_size: int
    correlation: float
    per_request: int | None = None
    served_max_size: int | None = None
    group_size: int = 1


CASES = (
    Case(40, 12, 1, 0.0),
    Case(200, 1000, 1, 0.0),
    Case(160, 40, 3, 0.6),
    Case(160, 1000, 3, 0.6),
    Case(60, 30, 8, 0.8),
    Case(60, 100, 20, 0.3),
    Case(60, 60, 3, 0.6, per_request=4),
    # Their images have 27 of the same group, on average.
    Case(160, 60, 3, 0.6, served_max_size=40, group_size=27),
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
    for case in CASES:
        unknown = case._replace(group_size=1)
        rates = [alarm_rate(case, options.reports), alarm_rate(unknown, options.reports, False)]
        rates.append(alarm_rate(case, options.reports, brighter=15))
        size = f"1-{case.max_size}"
        if case.served_max_size:
            size = f"{size}, served 1-{case.served_max_size}"
        row = [case.training_groups, case.served_groups, size, case.correlation]
        rows.append([*map(str, row), str(case.per_request or "-"), *(f"{x:.1%}" for x in rates)])
    header = ["groups in training", "served", "images per group", "correlation"]
    header += ["groups per request", "alarms", "groups ignored", "one std brighter"]
    print(table(header, rows))
    rate = alarm_rate(CASES[-1]._replace(group_size=1), options.reports)
    print(f"\nWithout serving.drift_group_size the last row has {rate:.1%} alarms.")


def alarm_rate(
    case: Case, reports: int, respect_groups: bool = True, brighter: float = 0.0
) -> float:
    """Return the fraction of reports that name a feature, with new training images in each.

    Args:
        case: the project.
        reports: number of reports.
        respect_groups: whether groups and requests are known, or each image is taken for one.
        brighter: see `draw_images`; 0: there is no drift.
    """
    rng = np.random.default_rng(0)
    served_size = case.served_max_size or case.max_size
    alarms = 0
    for _ in range(reports):
        training = draw_images(rng, case.training_groups, case.max_size, case.correlation)
        images = draw_images(
            rng, case.served_groups, served_size, case.correlation, brighter=brighter
        )
        groups = training.groups if respect_groups else np.arange(len(training.groups))
        reference = build_reference(training.features, training.predicted, 2, groups)
        served = serve(reference, images, case.per_request if respect_groups else None)
        found = compare(reference, served, _LABELS, case.group_size)
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
