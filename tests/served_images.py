"""Simulated images, for the comparison of served images with the training images."""

from typing import NamedTuple

import numpy as np

from cnnClassifier.entity.drift import ServedImages


class Images(NamedTuple):
    """Images of two classes.

    Attributes:
        groups: number of the group of each image.
        predicted: class index of each image.
        features: values by name.
    """

    groups: np.ndarray
    predicted: np.ndarray
    features: dict


def draw_images(rng, groups, max_size=1, correlation=0.0, share=0.5, brighter=0.0, side=256):
    """Draw groups of up to `max_size` images.

    The class and all features but the size are correlated within groups; the features depend on the
    class.

    Args:
        share: of the first class.
        brighter: is added to the mean intensity, whose standard deviation is 15.
        side: of the square images.
    """
    sizes = rng.integers(1, max_size + 1, groups)
    group = np.repeat(np.arange(groups), sizes)

    def noise():
        shared = rng.standard_normal(groups)[group] * np.sqrt(correlation)
        return shared + rng.standard_normal(len(group)) * np.sqrt(1 - correlation)

    predicted = (rng.random(groups) >= share).astype(int)[group]
    sides = np.full(len(group), side)
    return Images(
        group,
        predicted,
        {
            "probability": 1 / (1 + np.exp(-1 - predicted - noise())),
            "distance": np.exp(0.2 * noise() + 0.2 * predicted),
            "width": sides,
            "height": sides,
            "mean_intensity": 90 + 15 * noise() + 10 * predicted + brighter,
        },
    )


def serve(reference, images, groups_per_request=None):
    """Count images as the server does.

    Args:
        reference: with the bins.
        images: from `draw_images`.
        groups_per_request: None: each image is a request.
    """
    served = ServedImages.empty(reference)
    if groups_per_request is None:
        served.add_request(reference, images.predicted, images.features)
        served.squared_sizes = len(images.groups)
        return served
    for start in range(0, images.groups[-1] + 1, groups_per_request):
        is_in = images.groups // groups_per_request == start // groups_per_request
        features = {name: values[is_in] for name, values in images.features.items()}
        served.add_request(reference, images.predicted[is_in], features)
    return served
