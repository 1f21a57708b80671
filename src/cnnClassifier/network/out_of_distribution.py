"""Distance of an image from the training images."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

_FOLDS = 5
_MAX_COMPONENTS = 32


@dataclass(frozen=True)
class OutOfDistributionDetector:
    """A Gaussian of pooled features: probabilistic PCA (Tipping & Bishop 1999).

    A few directions have their own variance, all others share one. The distance is Mahalanobis's,
    per dimension, so that it is near 1 for training images.

    Attributes:
        mean: float32, (channels,).
        components: float32, (k, channels), orthonormal rows.
        variances: float32, (k,).
        noise: variance of every other direction.
    """

    mean: np.ndarray
    components: np.ndarray
    variances: np.ndarray
    noise: np.ndarray | float

    @classmethod
    def fit(cls, features: np.ndarray) -> "OutOfDistributionDetector":
        """Fit to pooled features, float (n, channels), n at least 3."""
        from sklearn.decomposition import PCA

        transformed = _signed_sqrt(features)
        count = max(1, min(_MAX_COMPONENTS, len(features) // 4, features.shape[1] - 1))
        pca = PCA(n_components=count, svd_solver="full").fit(transformed)
        # scikit-learn's noise_variance_ divides the rest by the rank of the sample, not by the
        # number of all other directions.
        rest = float(transformed.var(axis=0, ddof=1).sum() - pca.explained_variance_.sum())
        return cls(
            mean=pca.mean_.astype(np.float32),
            components=pca.components_.astype(np.float32),
            variances=np.maximum(pca.explained_variance_, 1e-12).astype(np.float32),
            noise=max(rest / max(features.shape[1] - count, 1), 1e-12),
        )

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Return the distance of each row of pooled features.

        Args:
            features: float, (n, channels).

        Returns:
            float32, (n,).
        """
        centered = _signed_sqrt(features) - self.mean
        projected = centered @ self.components.T
        residual = np.maximum((centered**2).sum(1) - (projected**2).sum(1), 0)
        squared = (projected**2 / self.variances).sum(1) + residual / self.noise
        return np.sqrt(squared / centered.shape[1]).astype(np.float32)

    def save(self, path: Path) -> None:
        """Write as `.npz`."""
        with path.open("wb") as file:
            np.savez(file, **asdict(self))

    @classmethod
    def load(cls, path: Path) -> "OutOfDistributionDetector":
        """Read a file from `save`."""
        with np.load(path) as archive:
            return cls(**archive)


def fit_detector(
    features: np.ndarray, groups: Sequence[str] | np.ndarray
) -> tuple[OutOfDistributionDetector, np.ndarray]:
    """Fit the detector, and return out-of-fold distances of the training images as well.

    Whole groups are left out: distances of images that the detector was fitted to are too small.

    Args:
        features: pooled features of the training images without augmentation, (n, channels).
        groups: of each image.

    Returns:
        The detector, and float32 (n,).
    """
    from sklearn.model_selection import GroupKFold

    folds = min(_FOLDS, len(set(groups)))
    distances = np.empty(len(features), np.float32)
    for fitted, held_out in GroupKFold(folds).split(features, groups=groups):
        detector = OutOfDistributionDetector.fit(features[fitted])
        distances[held_out] = detector.distances(features[held_out])
    return OutOfDistributionDetector.fit(features), distances


def _signed_sqrt(features: np.ndarray) -> np.ndarray:
    """Make the long-tailed distribution of pooled activations more like a Gaussian."""
    return np.sign(features) * np.sqrt(np.abs(features.astype(np.float64)))
