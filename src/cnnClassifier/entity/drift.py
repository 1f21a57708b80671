"""Histograms of images and of the predictions for them, of the training images and of served ones.

The bins are quantiles of the training images, so that both are counted in the same bins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cnnClassifier.utils.common import load_json, save_json

# Features of an image: keys of a result of /predict.
FEATURES = ("probability", "distance", "width", "height", "mean_intensity")
_STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def count_in_bins(
    edges: Sequence[float], values: Any, predicted: Any, class_count: int
) -> np.ndarray:
    """Return a histogram for each predicted class.

    Args:
        edges: increasing; a value that equals an edge is in the bin below it.
        values: of the images, (n,).
        predicted: class indices, (n,).
        class_count: number of classes.

    Returns:
        int64, (class_count, len(edges) + 1): the first and the last bin have no limit.
    """
    counts = np.zeros((class_count, len(edges) + 1), np.int64)
    np.add.at(counts, (np.asarray(predicted, int), np.searchsorted(edges, values)), 1)
    return counts


class FeatureReference(BaseModel):
    """The distribution of one feature among the training images.

    Attributes:
        edges: see `count_in_bins`.
        counts: for each predicted class the images in each bin.
        correlation: of two images of a group, 0 to 1.
    """

    model_config = _STRICT

    edges: tuple[float, ...]
    counts: tuple[tuple[int, ...], ...]
    correlation: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if any(len(row) != len(self.edges) + 1 for row in self.counts):
            raise ValueError("counts: expected one for each bin")
        return self


class DriftReference(BaseModel):
    """What the model sees and predicts for training images that it wasn't fitted to.

    Attributes:
        groups: number of groups.
        group_size: the mean over the images of the size of their group.
        class_correlation: of the predicted classes of two images of a group, 0 to 1.
        features: by name.
    """

    model_config = _STRICT

    groups: int = Field(ge=1)
    group_size: float = Field(ge=1)
    class_correlation: float = Field(ge=0, le=1)
    features: dict[str, FeatureReference] = Field(min_length=1)


@dataclass
class ServedImages:
    """Histograms of served images.

    Attributes:
        counts: of each feature, int64 (classes, bins), with the bins of the reference.
        squared_sizes: sum of the squares of the numbers of images in each request.
    """

    counts: dict[str, np.ndarray]
    squared_sizes: int = 0

    @classmethod
    def empty(cls, reference: DriftReference) -> "ServedImages":
        """Return histograms without an image."""
        counts = {}
        for name, feature in reference.features.items():
            counts[name] = np.zeros(np.shape(feature.counts), np.int64)
        return cls(counts)

    @property
    def class_counts(self) -> np.ndarray:
        """Number of images of each predicted class, (classes,)."""
        return next(iter(self.counts.values())).sum(axis=1)

    @property
    def request_size(self) -> float:
        """The mean over the images of the number of images in their request."""
        return self.squared_sizes / max(1, int(self.class_counts.sum()))

    def add_request(
        self,
        reference: DriftReference,
        predicted: Sequence[int],
        values: Mapping[str, Sequence[float]],
    ) -> None:
        """Count the images of one request.

        Args:
            reference: with the bins.
            predicted: class indices, (n,).
            values: of each feature, (n,).
        """
        for name, counts in self.counts.items():
            edges = reference.features[name].edges
            counts += count_in_bins(edges, values[name], predicted, len(counts))
        self.squared_sizes += len(predicted) ** 2

    def add(self, other: "ServedImages") -> None:
        """Add the counts of other images."""
        for name, counts in self.counts.items():
            counts += other.counts[name]
        self.squared_sizes += other.squared_sizes

    def write(self, path: Path) -> None:
        """Write the counts as JSON, atomically."""
        counts = {name: array.tolist() for name, array in self.counts.items()}
        save_json(path, {"squared_sizes": self.squared_sizes, "counts": counts})

    @classmethod
    def read(cls, path: Path, reference: DriftReference) -> "ServedImages":
        """Read what `write` wrote.

        Raises:
            ValueError: the file is damaged, or has other bins than the reference.
            OSError: the file can't be read.
        """
        content = load_json(path)
        served = cls.empty(reference)
        try:
            served.squared_sizes = int(content["squared_sizes"])
            for name, expected in served.counts.items():
                counts = np.array(content["counts"][name])
                if counts.shape != expected.shape or counts.dtype.kind != "i":
                    raise ValueError(f"{name}: other bins")
                served.counts[name] = counts
        except (KeyError, TypeError) as error:
            raise ValueError(f"damaged: {error}") from None
        return served


def hour_of(time: datetime) -> str:
    """Return the hour in UTC as text, which sorts as the time does."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H")


def served_file_name(hour: str, model_id: str, process_id: str) -> str:
    """Return the name of the file of one hour, model and process.

    Args:
        hour: from `hour_of`.
        model_id: of the model that classified the images.
        process_id: of the server; any text that no other process has.
    """
    return f"{hour}-{model_id}-{process_id}.json"


def find_served_files(folder: Path, model_id: str, since: datetime) -> list[Path]:
    """Return the files of a model, or of all (`*`), of all processes, from an hour on; sorted."""
    first_hour = hour_of(since)
    paths = folder.glob(served_file_name("*", model_id, "*"))
    return sorted(path for path in paths if path.name >= first_hour)
