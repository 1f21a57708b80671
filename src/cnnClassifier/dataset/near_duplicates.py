"""Find images that show the same picture: re-encoded, resized, cropped, mirrored, rotated, drawn on.

Keypoints of all images vote for pairs through visual words and an inverted index (Sivic and Zisserman 2003). Each
candidate pair is registered by its matching keypoints (RANSAC, Fischler and Bolles 1981) and correlated.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import joblib
import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

_SIDE = 160  # pixels of the square that each image is resized to
_MAX_KEYPOINTS = 100
_MIN_CONTRAST = 0.02  # of a SIFT keypoint
_FEW_KEYPOINTS = 16  # smooth images get a grid of keypoints in addition
_GRID = (40.0, 64.0, 80.0, 96.0, 120.0)  # x and y of these keypoints
_GRID_SIZE = 16.0  # their diameter; the descriptor covers about 100 pixels
_JPEG_QUALITY = 90

_MAX_WORDS = 8192
_DESCRIPTORS_PER_WORD = 4
_MAX_POSTINGS = 2000  # files in one list of the inverted index
_CANDIDATES = 8  # pairs that are registered for each file
_MIN_SHARED_WORDS = 3
_ROWS_PER_CHUNK = 256
_CODES_PER_CHUNK = 4096
_HASH = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xD6E8FEB86659FD93], np.uint64)

_RATIO = 0.85  # of the distances to the nearest and the second nearest descriptor (Lowe 2004)
_MIN_INLIERS = 8
_MAX_ERROR = 3.0  # pixels between a keypoint and its registered match
_RANSAC_ITERATIONS = 500
_MAX_AREA_RATIO = 8.0
_MIN_OVERLAP = 0.3  # of the area
_FINE_SIGMA, _COARSE_SIGMA = 1.0, 4.0  # pixels; neighbouring slices agree on what is coarser
_DRAWN = 0.03  # fraction of pixels that may differ: lines, arrows, text
_MIN_STD = 0.25  # gray levels that remain after the filter


def _mirror_indices() -> np.ndarray:
    """Return the element of a SIFT descriptor that each element moves to when the image is mirrored."""
    elements = np.arange(128).reshape(4, 4, 8)
    return elements[::-1, :, -np.arange(8) % 8].ravel()


def _curl_weights() -> np.ndarray:
    """Return the weights whose product with a descriptor is its curl: mirroring changes the sign."""
    y, x, angle = np.meshgrid(
        np.arange(4) - 1.5, np.arange(4) - 1.5, np.arange(8) * np.pi / 4, indexing="ij"
    )
    return (x * np.sin(angle) - y * np.cos(angle)).ravel().astype(np.float32)


_MIRROR = _mirror_indices()
_CURL = _curl_weights()


@dataclass(frozen=True)
class Keypoints:
    """What is kept of one image to find its near-duplicates: about 7 kB, at most 30 kB.

    Attributes:
        points: float16, (keypoints, 2): x and y in pixels of the 160×160 thumbnail.
        codes: uint8, (keypoints, 16): binary descriptors of 128 bits.
        thumbnail: the image as 160×160 gray JPEG.
    """

    points: np.ndarray
    codes: np.ndarray
    thumbnail: bytes


def extract_keypoints(gray: np.ndarray) -> Keypoints:
    """Find and describe the SIFT keypoints of an image (Lowe 2004).

    The image is resized to a square, so that copies with another aspect ratio differ less. A descriptor and its
    mirror image give the same code: the one with positive curl is used (F-SIFT, Zhao and Ngo 2013).

    Args:
        gray: uint8, (height, width), of any size.
    """
    height, width = gray.shape
    shrink = min(height, width) > _SIDE
    small = cv2.resize(
        gray, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
    )
    sift = cv2.SIFT_create(
        _MAX_KEYPOINTS, contrastThreshold=_MIN_CONTRAST, enable_precise_upscale=True
    )
    found, descriptors = sift.detectAndCompute(small, None)
    if len(found) < _FEW_KEYPOINTS:
        grid = [cv2.KeyPoint(x, y, _GRID_SIZE, 90) for y in _GRID for x in _GRID]
        found, descriptors = sift.compute(small, (*found, *grid))
    points = np.array([keypoint.pt for keypoint in found], np.float16).reshape(-1, 2)
    filled = descriptors.any(axis=1)
    points, descriptors = points[filled], descriptors[filled]
    mirrored = descriptors @ _CURL < 0
    descriptors[mirrored] = descriptors[mirrored][:, _MIRROR]
    medians = np.median(descriptors, axis=1, keepdims=True)
    codes = np.packbits(descriptors > medians, axis=1)
    jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
    return Keypoints(points, codes, jpeg)


def find_near_duplicates(
    keypoints: Sequence[Keypoints], min_correlation: float
) -> list[tuple[int, int]]:
    """Find the pairs of images that show the same picture.

    Time grows in proportion to the number of images: each is compared with a few candidates. After a round, one
    image speaks for all that are linked, so that large sets of copies are found however few candidates each has.

    Args:
        keypoints: of each image.
        min_correlation: of the high-pass filtered pixels after registration, from 0 to 1.

    Returns:
        Pairs of indices, the lower one first, sorted. They connect all near-duplicates that were found, but don't
        contain each pair of a set of three or more.
    """
    # Sorted by content, so that the order of the files changes nothing.
    order = sorted(range(len(keypoints)), key=lambda index: keypoints[index].thumbnail)
    images = [keypoints[index] for index in order]
    index = _InvertedIndex(images)
    tried: set[tuple[int, int]] = set()
    links: list[tuple[int, int]] = []
    active = rows = np.arange(len(images))
    while len(rows):
        pairs = sorted(set(index.candidates(rows, active)) - tried)
        tried.update(pairs)
        new = [
            pair for pair in pairs if _correlation(*(images[i] for i in pair)) >= min_correlation
        ]
        links += new
        active, rows = _representatives(images, links, new)
    return sorted((min(order[i], order[j]), max(order[i], order[j])) for i, j in links)


class _InvertedIndex:
    """Visual words of each image and their weights."""

    def __init__(self, images: Sequence[Keypoints]) -> None:
        self.codes = np.concatenate([image.codes for image in images] or [np.empty((0, 16))])
        counts = [len(image.codes) for image in images]
        self.owners = np.repeat(np.arange(len(images)), counts)
        self.words = _visual_words(self.codes)
        self.num_images = len(images)

    def candidates(self, rows: np.ndarray, active: np.ndarray) -> Iterator[tuple[int, int]]:
        """Yield the pairs of each row's image with the active images that share the rarest words.

        Args:
            rows: indices of images, some of the active ones.
            active: indices of the images that are looked through.
        """
        weights = self._weights(active)
        columns = weights.T.tocsr()
        for start in range(0, len(rows), _ROWS_PER_CHUNK):
            chunk = rows[start : start + _ROWS_PER_CHUNK]
            scores = (weights[chunk] @ columns).tocsr()
            for row, first, last in zip(chunk, scores.indptr, scores.indptr[1:], strict=False):
                others, values = scores.indices[first:last], scores.data[first:last]
                for other in _highest(others[others != row], values[others != row]):
                    yield min(int(row), int(other)), max(int(row), int(other))

    def _weights(self, active: np.ndarray) -> csr_array:
        """Return (images, words): the inverse document frequency of each word that an image has."""
        is_active = np.zeros(self.num_images, bool)
        is_active[active] = True
        postings = np.unique(
            self.words[is_active[self.owners]].astype(np.int64) * self.num_images
            + self.owners[is_active[self.owners]]
        )
        words, owners = np.divmod(postings, self.num_images)
        _, starts, lists, lengths = np.unique(
            words, return_index=True, return_inverse=True, return_counts=True
        )
        # A list that is too long would make the time quadratic: it becomes several.
        ranks = np.arange(len(words)) - starts[lists]
        blocks = words * self.num_images + ranks // _MAX_POSTINGS
        _, columns = np.unique(blocks, return_inverse=True)
        weights = np.log(len(active) / lengths[lists]).astype(np.float32)
        shape = (self.num_images, columns.max(initial=0) + 1)
        return csr_array((weights, (owners, columns)), shape=shape)


def _visual_words(codes: np.ndarray) -> np.ndarray:
    """Return the number of each code's nearest word; the words are some of the codes."""
    if len(codes) == 0:
        return np.empty(0, np.int32)
    halves = codes.view(np.uint64)
    hashes = (halves[:, 0] * _HASH[0] ^ halves[:, 1] * _HASH[1]) * _HASH[2]
    count = min(_MAX_WORDS, -(-len(codes) // _DESCRIPTORS_PER_WORD))
    vocabulary = np.unique(codes[np.argpartition(hashes, count - 1)[:count]], axis=0)
    words = np.empty(len(codes), np.int32)
    for start in range(0, len(codes), _CODES_PER_CHUNK):
        chunk = codes[start : start + _CODES_PER_CHUNK]
        _, nearest = cv2.batchDistance(
            chunk, vocabulary, cv2.CV_32S, normType=cv2.NORM_HAMMING, K=1
        )
        words[start : start + len(chunk)] = nearest[:, 0]
    return words


def _highest(indices: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the indices of the highest scores; of equal ones those that come first."""
    if len(scores) > _CANDIDATES:
        limit = np.partition(scores, -_CANDIDATES)[-_CANDIDATES]
        indices, scores = indices[scores >= limit], scores[scores >= limit]
    return indices[np.lexsort((indices, -scores))[:_CANDIDATES]]


def _representatives(
    images: Sequence[Keypoints], links: Sequence[tuple[int, int]], new: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the image with the most keypoints of each linked set, and those of sets that grew."""
    first, second = np.array(links, int).reshape(-1, 2).T
    graph = csr_array((np.ones(len(links)), (first, second)), shape=(len(images), len(images)))
    _, sets = connected_components(graph, directed=False)
    sizes = np.array([len(image.codes) for image in images])
    ordered = np.lexsort((np.arange(len(images)), -sizes))
    _, places = np.unique(sets[ordered], return_index=True)
    active = ordered[places]
    grown = np.unique(sets[np.array(new, int).ravel()])
    return np.sort(active), np.sort(active[grown])


def _correlation(first: Keypoints, second: Keypoints) -> float:
    """Register two images and correlate what they both show; -1 if they can't be registered."""
    matches = _match(first.codes, second.codes)
    fewest = min(len(first.codes), len(second.codes))
    min_inliers = min(_MIN_INLIERS, max(4, fewest // 2))
    if len(matches) < min_inliers:
        return -1.0
    cv2.setRNGSeed(0)
    transform, inliers = cv2.estimateAffine2D(
        first.points[matches[:, 0]].astype(np.float32),
        second.points[matches[:, 1]].astype(np.float32),
        method=cv2.RANSAC,
        ransacReprojThreshold=_MAX_ERROR,
        maxIters=_RANSAC_ITERATIONS,
    )
    if transform is None or inliers.sum() < min_inliers:
        return -1.0
    area_ratio = abs(np.linalg.det(transform[:, :2]))
    if not 1 / _MAX_AREA_RATIO <= area_ratio <= _MAX_AREA_RATIO:
        return -1.0
    if area_ratio < 1:  # the one that shows less is enlarged
        first, second = second, first
        transform = cv2.invertAffineTransform(transform)
    return _registered_correlation(_decode(first), _decode(second), transform)


def _decode(image: Keypoints) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(image.thumbnail, np.uint8), cv2.IMREAD_GRAYSCALE)


def _match(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return pairs of indices of codes that are each other's nearest, and clearly so."""
    if min(len(first), len(second)) < 2:
        return np.empty((0, 2), int)
    differing = first.view(np.uint64)[:, None] ^ second.view(np.uint64)[None]
    distances = np.bitwise_count(differing).sum(axis=2, dtype=np.int16)
    nearest = distances.argmin(axis=1)
    two = np.partition(distances, 1, axis=1)[:, :2]
    mutual = distances.argmin(axis=0)[nearest] == np.arange(len(first))
    kept = np.flatnonzero(mutual & (two[:, 0] < _RATIO * two[:, 1]))
    return np.stack([kept, nearest[kept]], axis=1)


def _registered_correlation(moving: np.ndarray, fixed: np.ndarray, transform: np.ndarray) -> float:
    """Correlate the details of two thumbnails where both have pixels.

    Args:
        moving: uint8, (160, 160).
        fixed: uint8, (160, 160).
        transform: (2, 3), from pixels of `moving` to pixels of `fixed`.
    """
    size = fixed.shape[::-1]
    inside = cv2.warpAffine(np.ones_like(moving), transform, size, flags=cv2.INTER_NEAREST)
    if inside.mean() < _MIN_OVERLAP:
        return -1.0
    warped = cv2.warpAffine(moving, transform, size)
    # Beyond the overlap both show the same, so that its border leaves no mark.
    warped = np.where(inside > 0, warped, fixed)
    inner = cv2.erode(inside, np.ones((5, 5), np.uint8)) > 0
    one, other = _details(warped)[inner], _details(fixed)[inner]
    if min(one.std(), other.std()) < _MIN_STD:
        return -1.0
    one = (one - one.mean()) / one.std()
    other = (other - other.mean()) / other.std()
    difference = np.abs(one - other)
    kept = difference <= np.quantile(difference, 1 - _DRAWN)
    return float(np.corrcoef(one[kept], other[kept])[0, 1])


def _details(image: np.ndarray) -> np.ndarray:
    """Remove noise and what is coarse."""
    image = image.astype(np.float32)
    fine = cv2.GaussianBlur(image, (0, 0), _FINE_SIGMA)
    coarse = cv2.GaussianBlur(image, (0, 0), _COARSE_SIGMA)
    return fine - coarse
