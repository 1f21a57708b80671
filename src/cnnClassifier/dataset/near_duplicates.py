"""Find near-duplicates: copies that were re-encoded, resized, cropped, mirrored or drawn on.

1. Each image is reduced to SIFT keypoints (Lowe 2004) and a thumbnail.
2. An inverted file finds for each keypoint the nearest ones of other images, which vote for a pair
   of images (Sivic and Zisserman 2003; Jégou et al. 2011).
3. Pairs with the most votes are registered by their matching keypoints (RANSAC, Fischler and
   Bolles 1981), and what both show is correlated.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.cluster.hierarchy import DisjointSet

from cnnClassifier.utils.progress import progress

_SIZE = 160  # pixels
_MAX_KEYPOINTS = 100
_MIN_CONTRAST = 0.02  # of a keypoint, in SIFT's unit
_MIN_KEYPOINTS = 16  # an image with fewer gets a grid of keypoints in addition
_GRID = (40, 64, 80, 96, 120)  # their x and y
_GRID_SIZE = 16  # their diameter: the descriptor covers about 100 pixels
_JPEG_QUALITY = 90

# The lists of the inverted file have as many codes as there are lists: time grows by the power 1.5.
_MIN_MEAN_LENGTH = 64
_MAX_LENGTH_RATIO = 8  # to the mean; longer lists are divided
_NEIGHBORS = 6  # nearest codes that a code votes for, itself included
_CANDIDATES = 6  # pairs that are registered for each image

_RATIO = 0.85  # of the distances to the nearest and the second nearest code (Lowe 2004)
_MIN_INLIERS = 8  # keypoints that agree on a registration
_MAX_ERROR = 3.0  # pixels between them
_RANSAC_ITERATIONS = 500
_MIN_OVERLAP = 0.3  # of the area
_FINE_SIGMA, _COARSE_SIGMA = 1.0, 4.0  # pixels; similar images agree on coarser structures
_TRIMMED_FRACTION = 0.03  # of the pixels, the most different ones: lines, arrows, text
_MIN_STD = 0.25  # gray levels of details; below it an image is blank

# A SIFT descriptor has 4×4 cells with 8 angles each. Mirroring an image reverses the rows and the
# angles, and changes the sign of the curl of its gradients (F-SIFT, Zhao and Ngo 2013).
_MIRRORED = np.arange(128).reshape(4, 4, 8)[::-1, :, -np.arange(8) % 8].ravel()
_ROW, _COLUMN, _ANGLE = np.indices((4, 4, 8)).reshape(3, 128)
_CURL = (_COLUMN - 1.5) * np.sin(_ANGLE * np.pi / 4) - (_ROW - 1.5) * np.cos(_ANGLE * np.pi / 4)


@dataclass(frozen=True)
class Keypoints:
    """The part of an image that is kept to find its near-duplicates: 10 kB, at most 40 kB.

    Attributes:
        points: float16, (keypoints, 2): x and y in pixels of the thumbnail.
        codes: uint8, (keypoints, 16): binary descriptors of 128 bits.
        thumbnail: the image as gray JPEG of 160×160 pixels.
    """

    points: np.ndarray
    codes: np.ndarray
    thumbnail: bytes


def extract_keypoints(gray: np.ndarray) -> Keypoints:
    """Find and describe the keypoints of an image.

    The image is resized to a square, so that stretched copies become equal. A descriptor and its
    mirror image get the same code, so that mirrored copies need no second search.

    Args:
        gray: uint8, (height, width), of any size.
    """
    shrink = min(gray.shape) > _SIZE
    interpolation = cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
    small = cv2.resize(gray, (_SIZE, _SIZE), interpolation=interpolation)
    sift = cv2.SIFT.create(
        _MAX_KEYPOINTS, contrastThreshold=_MIN_CONTRAST, enable_precise_upscale=True
    )
    found, descriptors = sift.detectAndCompute(small, None)
    if len(found) < _MIN_KEYPOINTS:
        grid = [cv2.KeyPoint(x, y, _GRID_SIZE, 90) for y in _GRID for x in _GRID]
        found, descriptors = sift.compute(small, [*found, *grid])
    points = np.array([keypoint.pt for keypoint in found], np.float16)
    filled = descriptors.any(axis=1)  # blank areas have empty descriptors
    points, descriptors = points[filled], descriptors[filled]
    turned = descriptors @ _CURL < 0
    descriptors[turned] = descriptors[turned][:, _MIRRORED]
    medians = np.median(descriptors, axis=1, keepdims=True)
    codes = np.packbits(descriptors > medians, axis=1)
    _, jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return Keypoints(points, codes, jpeg.tobytes())


def find_near_duplicates(
    keypoints: Sequence[Keypoints], min_correlation: float, queries: Sequence[int] | None = None
) -> list[tuple[int, int]]:
    """Find the images that are copies of each other.

    Each image is compared with a few candidates only. In later rounds one image represents all
    that are linked with it, so that large sets of copies are connected too. The result doesn't
    depend on the order of the images, because they are sorted by content first.

    Args:
        keypoints: of each image.
        min_correlation: of the details of two registered images, from 0 to 1.
        queries: indices of the images whose copies are searched; None: of all.

    Returns:
        Pairs of indices, the lower one first, sorted. They connect all near-duplicates that were
        found, with fewer pairs than images.
    """
    described = [index for index, image in enumerate(keypoints) if len(image.codes)]
    if not described:
        return []
    order = sorted(described, key=lambda index: keypoints[index].thumbnail)
    images = [keypoints[index] for index in order]
    inverted_file = _InvertedFile(images)
    linked = DisjointSet(range(len(images)))
    links = []
    active = list(range(len(images)))
    searched = active
    if queries is not None:
        searched = list(np.flatnonzero(np.isin(order, queries)))
    while searched:
        changed = set()
        pairs = inverted_file.candidates(active, searched)
        for first, second in progress(pairs, desc="registering images", unit="pair"):
            if linked.connected(first, second):
                continue
            if _correlation(images[first], images[second]) >= min_correlation:
                linked.merge(first, second)
                changed.add(first)
                links.append(sorted((order[first], order[second])))
        active, searched = [], []
        for subset in linked.subsets():
            representative = max(subset, key=lambda index: (len(images[index].codes), index))
            active.append(representative)
            if not changed.isdisjoint(subset):
                searched.append(representative)
    return sorted((first, second) for first, second in links)


class _InvertedFile:
    """The codes of all images, in lists: similar codes are mostly in the same list."""

    def __init__(self, images: Sequence[Keypoints]) -> None:
        counts = [len(image.codes) for image in images]
        self.codes = np.concatenate([image.codes for image in images])
        self.starts = np.cumsum([0, *counts])
        self.owners = np.repeat(np.arange(len(images), dtype=np.int32), counts)
        self.mean_length = max(_MIN_MEAN_LENGTH, math.isqrt(len(self.codes)))
        # Each code is listed under its visual word: the nearest of a sample of the codes.
        num_words = -(-len(self.codes) // self.mean_length)
        sample = np.random.default_rng(0).choice(len(self.codes), num_words, replace=False)
        self.words = _nearest(self.codes, self.codes[sample], 1)[1][:, 0]

    def candidates(self, active: Sequence[int], queries: Sequence[int]) -> list[tuple[int, int]]:
        """Return the pairs of images with the most similar codes.

        Args:
            active: indices of the images to search.
            queries: indices of the images to search for, a subset of the active ones.

        Returns:
            Pairs of indices, the lower one first, sorted.
        """
        neighbors, weights = self._vote(active, queries)
        pairs = set()
        for image in queries:
            rows = slice(self.starts[image], self.starts[image + 1])
            others, votes = np.unique(neighbors[rows], return_inverse=True)
            scores = np.bincount(votes.ravel(), weights[rows].ravel())
            scores[others == image] = 0
            for best in np.argsort(-scores, kind="stable")[:_CANDIDATES]:
                if scores[best] > 0:
                    pair = sorted((image, int(others[best])))
                    pairs.add((pair[0], pair[1]))
        return sorted(pairs)

    def _vote(self, active: Sequence[int], queries: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return for each code the images with the nearest codes of its list, and their weights.

        A neighbor counts by how much nearer it is than the furthest one (local naive Bayes nearest
        neighbor, McCann and Lowe 2012): codes that occur everywhere count for little.

        Returns:
            (codes, neighbors): int32 indices of images, and uint8 weights; 0 where there is none.
        """
        neighbors = np.zeros((len(self.codes), _NEIGHBORS), np.int32)
        weights = np.zeros((len(self.codes), _NEIGHBORS), np.uint8)
        is_query = np.isin(self.owners, queries)
        listed = np.flatnonzero(np.isin(self.owners, active))
        # Similar codes are neighbors in a list, so that they stay together if it is divided.
        listed = listed[np.lexsort((self.codes.view(np.uint64)[listed, 0], self.words[listed]))]
        lists = np.split(listed, np.flatnonzero(np.diff(self.words[listed])) + 1)
        for codes in progress(lists, desc="comparing keypoints", unit="list"):
            parts = -(-len(codes) // (_MAX_LENGTH_RATIO * self.mean_length))
            for part in np.array_split(codes, max(1, parts)):
                rows = part[is_query[part]]
                if len(rows):
                    distances, nearest = _nearest(self.codes[rows], self.codes[part], _NEIGHBORS)
                    found = distances.shape[1]
                    neighbors[rows, :found] = self.owners[part[nearest]]
                    weights[rows, :found] = distances[:, -1:] + 1 - distances
        return neighbors, weights


def _nearest(first: np.ndarray, second: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the Hamming distances to the nearest of the second codes, and their indices."""
    distances, indices = cv2.batchDistance(
        first, second, cv2.CV_32S, normType=cv2.NORM_HAMMING, K=count
    )
    return np.asarray(distances), np.asarray(indices)


def _correlation(first: Keypoints, second: Keypoints) -> float:
    """Register two images and correlate what both show; -1 where they can't be registered."""
    if min(len(first.codes), len(second.codes)) < _MIN_INLIERS:
        return -1.0
    distances, nearest = _nearest(first.codes, second.codes, 2)
    _, backward = _nearest(second.codes, first.codes, 1)
    is_mutual = backward[nearest[:, 0], 0] == np.arange(len(first.codes))
    matched = np.flatnonzero(is_mutual & (distances[:, 0] < _RATIO * distances[:, 1]))
    if len(matched) < _MIN_INLIERS:
        return -1.0
    cv2.setRNGSeed(0)
    transform, inliers = cv2.estimateAffine2D(
        first.points[matched].astype(np.float32),
        second.points[nearest[matched, 0]].astype(np.float32),
        method=cv2.RANSAC,
        ransacReprojThreshold=_MAX_ERROR,
        maxIters=_RANSAC_ITERATIONS,
    )
    if transform is None or inliers.sum() < _MIN_INLIERS:
        return -1.0
    if abs(np.linalg.det(transform[:, :2])) < 1:  # the image that shows less is enlarged
        first, second = second, first
        transform = cv2.invertAffineTransform(transform)
    return _registered_correlation(_decode(first), _decode(second), transform)


def _decode(image: Keypoints) -> np.ndarray:
    thumbnail = cv2.imdecode(np.frombuffer(image.thumbnail, np.uint8), cv2.IMREAD_GRAYSCALE)
    return np.asarray(thumbnail)


def _registered_correlation(moving: np.ndarray, fixed: np.ndarray, transform: np.ndarray) -> float:
    """Correlate the details of two thumbnails where they overlap, without the most different.

    Args:
        moving: uint8, (160, 160).
        fixed: uint8, (160, 160).
        transform: (2, 3), from pixels of `moving` to pixels of `fixed`.
    """
    size = (_SIZE, _SIZE)
    mask = cv2.warpAffine(np.ones_like(moving), transform, size, flags=cv2.INTER_NEAREST)
    if mask.mean() < _MIN_OVERLAP:
        return -1.0
    # Outside the overlap both are made equal, so that its border isn't a detail of one of them.
    warped = np.where(mask > 0, cv2.warpAffine(moving, transform, size), fixed)
    inner = cv2.erode(mask, np.ones((5, 5), np.uint8))[::2, ::2] > 0
    one, other = _details(warped)[inner], _details(fixed)[inner]
    if min(one.std(), other.std()) < _MIN_STD:
        return -1.0
    one = (one - one.mean()) / one.std()
    other = (other - other.mean()) / other.std()
    difference = np.abs(one - other)
    kept = difference <= np.quantile(difference, 1 - _TRIMMED_FRACTION)
    return float(np.corrcoef(one[kept], other[kept])[0, 1])


def _details(image: np.ndarray) -> np.ndarray:
    """Return every second pixel of an image without its noise and its coarse structures."""
    pixels = image.astype(np.float32)
    fine = cv2.GaussianBlur(pixels, (0, 0), _FINE_SIGMA)
    coarse = cv2.GaussianBlur(pixels, (0, 0), _COARSE_SIGMA)
    return np.asarray(fine - coarse)[::2, ::2]
