"""Compare served images with the training images: what changed, more than by chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from cnnClassifier.entity.drift import (
    DriftReference,
    FeatureReference,
    ServedImages,
    count_in_bins,
)

MAX_FALSE_ALARMS = 0.05  # of the reports, over all features together
# The usual limits of the population stability index: a smaller difference rarely matters.
MODERATE_PSI, LARGE_PSI = 0.1, 0.25
MIN_SIZE = 10  # independent images on each side; below it a feature isn't tested
CHANGED = ("moderate", "large")
_BINS = 10
_SIMULATIONS = 1999  # of the predicted classes
_MAX_BARS = 20  # of classes
TITLES = {
    "class": "Predicted class",
    "probability": "Confidence",
    "distance": "Distance from training",
    "width": "Width",
    "height": "Height",
    "mean_intensity": "Mean intensity",
}


@dataclass(frozen=True)
class FeatureDrift:
    """The difference of one feature.

    Attributes:
        name: key of `TITLES`.
        text: the largest difference, in one sentence.
        psi: population stability index.
        chance_psi: its expected value without drift, for these sample sizes.
        test: name of the test.
        statistic: of the test.
        p_value: corrected by Holm's method for the number of features; 1 if it isn't tested.
        served_size: effective number of independent images, see `compare`.
        reference_size: likewise, of the training images.
        bars: label, fraction of the training images and of the served images, of each bin.
        level: `none` (not significant), `small`, `moderate` or `large`; `too few` images to tell.
    """

    name: str
    text: str
    psi: float
    chance_psi: float
    test: str
    statistic: float
    p_value: float
    served_size: float
    reference_size: float
    bars: list[tuple[str, float, float]]
    level: str = "too few"

    @property
    def has_changed(self) -> bool:
        """Whether the difference is significant and not small."""
        return self.level in CHANGED


def build_reference(
    features: Mapping[str, np.ndarray], predicted: np.ndarray, class_count: int, groups: Any
) -> DriftReference:
    """Describe images that the model hasn't seen.

    Args:
        features: values of each feature, (n,), of `FEATURES`.
        predicted: class indices, (n,).
        class_count: number of classes.
        groups: of each image, (n,).
    """
    group_numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)[1:]
    references = {}
    for name, values in features.items():
        edges = _choose_edges(np.asarray(values, float))
        counts = count_in_bins(edges, values, predicted, class_count)
        ranks = np.searchsorted(edges, values)[:, np.newaxis]
        references[name] = FeatureReference(
            edges=edges,
            counts=counts.tolist(),
            correlation=_group_correlation(ranks, group_numbers),
        )
    return DriftReference(
        groups=len(sizes),
        group_size=float((sizes**2).sum() / sizes.sum()),
        class_correlation=_group_correlation(np.eye(class_count)[predicted], group_numbers),
        features=references,
    )


def _choose_edges(values: np.ndarray) -> tuple[float, ...]:
    """Return the deciles; a frequent value, such as the width of all images, has its own bin."""
    distinct, counts = np.unique(values, return_counts=True)
    frequent = distinct[counts >= len(values) / _BINS]
    deciles = np.quantile(values, np.arange(1, _BINS) / _BINS, method="inverted_cdf")
    below = np.nextafter(frequent, -np.inf)
    return tuple(np.unique(np.concatenate([deciles, frequent, below])).tolist())


def _group_correlation(values: np.ndarray, groups: np.ndarray) -> float:
    """Return the intraclass correlation by analysis of variance, from 0 to 1.

    Args:
        values: (n, k); the variances of the k columns are added.
        groups: numbers from 0, (n,).

    Returns:
        1 where it can't be known: no group has two images, or all values are equal.
    """
    sizes = np.bincount(groups)
    count, group_count = len(values), len(sizes)
    if group_count in (1, count):
        return 1.0
    means = np.stack([np.bincount(groups, column) / sizes for column in values.T], axis=1)
    within = ((values - means[groups]) ** 2).sum() / (count - group_count)
    between = (sizes @ (means - values.mean(axis=0)) ** 2).sum() / (group_count - 1)
    size = (count - (sizes**2).sum() / count) / (group_count - 1)
    total = between + (size - 1) * within
    return round(float(np.clip((between - within) / total, 0, 1)), 6) if total > 0 else 1.0


def compare(
    reference: DriftReference, served: ServedImages, labels: Sequence[str], group_size: int = 1
) -> list[FeatureDrift]:
    """Test each feature for a difference.

    Images of a group are alike, and tests count independent ones: n images count as
    n / (1 + (size - 1) * correlation). The correlation is that of the training images. The served
    images are taken to come in groups as large as in training, as the requests, or of `group_size`,
    whichever is largest. Predicted classes are compared by a chi-squared test; all other features
    by a Kolmogorov-Smirnov test, with the training images weighted so that each predicted class is
    as frequent as among the served images: another share of a class changes no other feature.

    Args:
        reference: of the model.
        served: at least one image.
        labels: display names of the classes.
        group_size: number of related images among the served ones, if known.
    """
    served_group = max(reference.group_size, served.request_size, group_size)
    features = [_compare_classes(reference, served, served_group, labels)]
    for name, feature in reference.features.items():
        counts = served.counts[name]
        features.append(_compare_feature(name, feature, counts, reference.group_size, served_group))
    return _correct_for_multiple_tests(features)


def _compare_classes(
    reference: DriftReference, served: ServedImages, served_group: float, labels: Sequence[str]
) -> FeatureDrift:
    counts = np.sum(next(iter(reference.features.values())).counts, axis=1)
    expected, actual = counts / counts.sum(), served.class_counts / served.class_counts.sum()
    correlation = reference.class_correlation
    size = _effective_size(served.class_counts.sum(), served_group, correlation)
    reference_size = _effective_size(counts.sum(), reference.group_size, correlation)
    statistic, p_value = _test_classes(expected, actual, reference_size, size)
    differences = np.abs(actual - expected)
    largest = int(differences.argmax())
    # The classes that differ most, in their order.
    shown = np.sort(np.argsort(-differences, kind="stable")[:_MAX_BARS])
    return FeatureDrift(
        name="class",
        text=f"{labels[largest]} is predicted for {actual[largest]:.0%} of the served images, for "
        f"{expected[largest]:.0%} of the training images.",
        psi=_psi(expected, actual, reference_size, size),
        chance_psi=_chance_psi(expected + actual, reference_size, size),
        test="chi-squared",
        statistic=statistic,
        p_value=p_value,
        served_size=float(size),
        reference_size=float(reference_size),
        bars=[(labels[index], expected[index], actual[index]) for index in shown],
    )


def _test_classes(
    expected: np.ndarray, actual: np.ndarray, reference_size: float, size: float
) -> tuple[float, float]:
    """Return the chi-squared statistic and its p-value.

    The p-value is from simulated samples of the pooled classes: with rare classes the statistic has
    no chi-squared distribution.
    """

    def statistic(*samples: np.ndarray) -> np.ndarray:
        mean = np.average(samples, axis=0, weights=(reference_size, size))
        squares = (samples[0] - samples[1]) ** 2
        terms = np.divide(squares, mean, out=np.zeros_like(mean), where=mean > 0)
        return terms.sum(axis=-1) / (1 / reference_size + 1 / size)

    rng = np.random.default_rng(0)
    pooled = np.average([expected, actual], axis=0, weights=(reference_size, size))
    simulated = []
    for count in (max(1, int(reference_size)), max(1, int(size))):
        simulated.append(rng.multinomial(count, pooled, _SIMULATIONS) / count)
    found = float(statistic(expected, actual))
    # Rounding mustn't tell equal samples apart.
    is_larger = statistic(*simulated) > found - 1e-9
    return found, float((1 + is_larger.sum()) / (1 + _SIMULATIONS))


def _compare_feature(
    name: str,
    feature: FeatureReference,
    served_counts: np.ndarray,
    reference_group: float,
    served_group: float,
) -> FeatureDrift:
    from scipy.special import kolmogorov

    counts = np.array(feature.counts)
    sizes = _effective_size(counts.sum(axis=1), reference_group, feature.correlation)
    # Classes that were hardly ever predicted are compared with all training images.
    counts[sizes < MIN_SIZE] = counts.sum(axis=0)
    totals, served_totals = counts.sum(axis=1), served_counts.sum(axis=1)
    weights = served_totals / served_totals.sum()
    expected = weights @ (counts / totals[:, np.newaxis])
    actual = served_counts.sum(axis=0) / served_totals.sum()
    sizes = _effective_size(totals, reference_group, feature.correlation)
    reference_size = 1 / (weights**2 / sizes).sum()
    size = _effective_size(served_totals.sum(), served_group, feature.correlation)
    above = np.cumsum(expected - actual)[:-1]  # difference of the fractions above each edge
    largest = int(np.abs(above).argmax())
    statistic = float(np.abs(above[largest]))
    pooled_size = size * reference_size / (size + reference_size)
    return FeatureDrift(
        name=name,
        text=_describe(name, feature.edges, largest, expected, actual),
        psi=_psi(expected, actual, reference_size, size),
        chance_psi=_chance_psi(expected + actual, reference_size, size),
        test="Kolmogorov-Smirnov",
        statistic=statistic,
        # Of a few bins instead of all values the statistic is smaller: the test is conservative.
        p_value=float(kolmogorov(statistic * np.sqrt(pooled_size))),
        served_size=float(size),
        reference_size=float(reference_size),
        bars=list(zip(_bin_labels(feature.edges), expected, actual, strict=True)),
    )


def _effective_size(count: Any, group_size: float, correlation: float) -> Any:
    """Return the number of independent images that tell as much as `count` images in groups."""
    return count / (1 + (group_size - 1) * correlation)


def _psi(expected: np.ndarray, actual: np.ndarray, *sizes: float) -> float:
    """Return the population stability index.

    One image is added to each side, spread as the mean of both, so that no bin is empty.
    """
    is_used = (expected + actual) > 0
    mean = (expected + actual)[is_used] / 2
    smoothed = []
    for fractions, size in zip((expected, actual), sizes, strict=True):
        smoothed.append((fractions[is_used] * size + mean) / (size + 1))
    return float(((smoothed[1] - smoothed[0]) * np.log(smoothed[1] / smoothed[0])).sum())


def _chance_psi(fractions: np.ndarray, *sizes: float) -> float:
    """Return the expected population stability index of two samples of the same distribution."""
    return float((np.count_nonzero(fractions) - 1) * sum(1 / size for size in sizes))


def _describe(
    name: str, edges: Sequence[float], index: int, expected: np.ndarray, actual: np.ndarray
) -> str:
    """Describe the largest difference, which is at an edge."""
    fractions = [values[index + 1 :].sum() for values in (actual, expected)]
    direction = "higher" if fractions[0] >= fractions[1] else "lower"
    # See `_choose_edges`: the edge just below a frequent value.
    is_below_value = np.nextafter(edges[index], np.inf) in edges
    relation = "at least" if is_below_value else "above"
    return (
        f"{TITLES[name]} is {direction}: {fractions[0]:.0%} of the served images are {relation} "
        f"{_format(edges[index])}, of the training images {fractions[1]:.0%}."
    )


def _bin_labels(edges: Sequence[float]) -> list[str]:
    texts = list(map(_format, edges))
    labels = [f"below {texts[0]}"]
    for low, high in pairwise(texts):
        labels.append(low if low == high else f"{low} to {high}")
    return [*labels, f"above {texts[-1]}"]


def _format(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _correct_for_multiple_tests(features: list[FeatureDrift]) -> list[FeatureDrift]:
    """Correct the p-values by Holm's method (1979), and set the levels."""
    tested = []
    for feature in features:
        if min(feature.served_size, feature.reference_size) >= MIN_SIZE:
            tested.append(feature)
    tested.sort(key=lambda feature: feature.p_value)
    p_values = [feature.p_value for feature in tested] * np.arange(len(tested), 0, -1)
    p_values = np.minimum(1, np.maximum.accumulate(p_values)).tolist()
    corrected = dict(zip((feature.name for feature in tested), p_values, strict=True))
    results = []
    for feature in features:
        p_value = corrected.get(feature.name, 1.0)
        level = _level(p_value, feature.psi) if feature.name in corrected else "too few"
        results.append(replace(feature, p_value=p_value, level=level))
    return results


def _level(p_value: float, psi: float) -> str:
    if p_value >= MAX_FALSE_ALARMS:
        return "none"
    if psi < MODERATE_PSI:
        return "small"
    return "moderate" if psi < LARGE_PSI else "large"
