"""How far an image lies from what the model was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cnnClassifier.utils.errors import BundleError

_FOLDS = 5


@dataclass(frozen=True)
class Reference:
    """A Gaussian in the space of pooled features: few directions with their own variance, one variance for the rest.

    The distance is Mahalanobis's under probabilistic PCA (Tipping & Bishop 1999), per dimension, so that training
    images lie near 1.

    Attributes:
        mean: float32, (channels,).
        components: float32, (k, channels), orthonormal rows.
        variances: float32, (k,).
        noise: variance of every other direction.
    """

    mean: np.ndarray
    components: np.ndarray
    variances: np.ndarray
    noise: float

    @classmethod
    def fit(cls, features: np.ndarray) -> "Reference":
        """Fit to pooled features, float (n, channels), n at least 3."""
        from sklearn.decomposition import PCA

        squeezed = _squeeze(features)
        count = max(1, min(32, len(features) // 4, features.shape[1] - 1))
        pca = PCA(n_components=count, svd_solver="full").fit(squeezed)
        # scikit-learn's noise_variance_ spreads the rest over the samples' rank, not over all directions there are.
        rest = float(squeezed.var(axis=0, ddof=1).sum() - pca.explained_variance_.sum())
        return cls(
            pca.mean_.astype(np.float32),
            pca.components_.astype(np.float32),
            np.maximum(pca.explained_variance_, 1e-12).astype(np.float32),
            max(rest / max(features.shape[1] - count, 1), 1e-12),
        )

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Return each row's distance, float32 (n,).

        Args:
            features: pooled features, float (n, channels).
        """
        centred = _squeeze(features) - self.mean
        along = centred @ self.components.T
        across = np.maximum((centred**2).sum(1) - (along**2).sum(1), 0)
        squared = (along**2 / self.variances).sum(1) + across / self.noise
        return np.sqrt(squared / centred.shape[1]).astype(np.float32)

    def save(self, path: Path) -> None:
        """Write as `.npz`."""
        with path.open("wb") as file:
            np.savez(
                file,
                mean=self.mean,
                components=self.components,
                variances=self.variances,
                noise=np.float64(self.noise),
            )

    @classmethod
    def load(cls, path: Path) -> "Reference":
        """Read what `save` wrote.

        Raises:
            BundleError: it's missing or something else.
        """
        try:
            with np.load(path) as archive:
                return cls(
                    archive["mean"],
                    archive["components"],
                    archive["variances"],
                    float(archive["noise"]),
                )
        except Exception as error:  # NumPy and zipfile raise their own kinds for a damaged archive
            raise BundleError(
                f"{path}: not a reference for unfamiliar images ({error}); train again"
            ) from None


def fit_reference(
    features: np.ndarray, groups: Sequence[str], quantile: float
) -> tuple[Reference, float]:
    """Fit the reference, and the limit beyond which an image is unfamiliar.

    The limit is a quantile of distances of images from references that were fitted without their group: in-sample
    distances would be too small.

    Args:
        features: pooled features of the training images as they are, float (n, channels).
        groups: of each image.
        quantile: share of training images that count as familiar, such as 0.95.
    """
    from sklearn.model_selection import GroupKFold

    folds = min(_FOLDS, len(set(groups)))
    distances = np.empty(len(features), np.float32)
    for fitted, held_out in GroupKFold(folds).split(features, groups=groups):
        distances[held_out] = Reference.fit(features[fitted]).distances(features[held_out])
    return Reference.fit(features), round(float(np.quantile(distances, quantile)), 4)


def _squeeze(features: np.ndarray) -> np.ndarray:
    """Pooled activations have long tails: their signed square root is nearer to a Gaussian."""
    return np.sign(features) * np.sqrt(np.abs(features.astype(np.float64)))
