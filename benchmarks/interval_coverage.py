"""How often the 95% interval of a proportion contains the true value, on simulated groups."""

import argparse
import itertools

import numpy as np

from benchmarks.measure import table
from cnnClassifier.evaluation.metrics import proportion_interval


def main() -> None:
    """Print the coverage by size of the groups, correlation, true value and number of groups."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=4000)
    repetitions = parser.parse_args().repetitions
    group_counts = (4, 10, 20, 40)
    rows = []
    for max_images, correlation, true_value in itertools.product(
        (12, 50), (0.1, 0.3, 0.5), (0.7, 0.9, 0.98)
    ):
        row = [f"1-{max_images}", f"{correlation}", f"{true_value}"]
        for group_count in group_counts:
            case = (true_value, correlation, group_count, max_images, repetitions)
            row.append("{:.3f} ({:.2f})".format(*coverage(*case)))
        independent = coverage(true_value, correlation, 20, max_images, repetitions, False)
        row.append("{:.3f} ({:.2f})".format(*independent))
        rows.append(row)
    header = ["images per group", "correlation", "true value"]
    header += [f"{group_count} groups" for group_count in group_counts]
    print(table([*header, "20 groups, ignored"], rows))


def coverage(
    true_value: float,
    correlation: float,
    group_count: int,
    max_images: int,
    repetitions: int,
    respect_groups: bool = True,
) -> tuple[float, float]:
    """Simulate images, and compute how often the interval contains the true value.

    Args:
        true_value: expected fraction of hits.
        correlation: of two images of the same group; the hits of a group are beta-binomial.
        group_count: number of groups.
        max_images: of a group; its number of images is uniform from 1.
        repetitions: number of simulated data sets.
        respect_groups: whether the interval knows the groups or each image is a group.

    Returns:
        The coverage and the mean width of the intervals.
    """
    rng = np.random.default_rng(0)
    concentration = 1 / correlation - 1
    intervals = []
    for _ in range(repetitions):
        sizes = rng.integers(1, max_images + 1, group_count)
        fractions = rng.beta(
            true_value * concentration, (1 - true_value) * concentration, group_count
        )
        groups = np.repeat(np.arange(group_count), sizes)
        hits = rng.random(len(groups)) < fractions[groups]
        known_groups = groups if respect_groups else np.arange(len(groups))
        intervals.append(proportion_interval(hits, known_groups))
    low, high = np.transpose(intervals)
    contains = (low <= true_value) & (true_value <= high)
    return float(contains.mean()), float((high - low).mean())


if __name__ == "__main__":
    main()
