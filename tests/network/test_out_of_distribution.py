import numpy as np

from cnnClassifier.network.out_of_distribution import OutOfDistributionDetector, fit_detector


def sample(count, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    few = rng.normal(0, 3, (count, 4)) @ rng.normal(0, 1, (4, 64))
    return np.abs(few + rng.normal(0, 0.5, (count, 64)) + 10 + shift) ** 2


def test_reference_knows_its_own_and_finds_strangers(tmp_path):
    everything = sample(500)
    train, fresh = everything[:300], everything[300:]
    reference, out_of_fold = fit_detector(train, [str(n // 3) for n in range(300)])
    limit = np.quantile(out_of_fold, 0.95)
    distances = reference.distances(fresh)
    assert 0.6 < np.median(distances) < 1.4
    assert 0.01 < (distances > limit).mean() < 0.12
    assert (reference.distances(everything[:50] * 4) > limit).all()
    assert (
        reference.distances(np.random.default_rng(1).permuted(fresh, axis=1)) > limit
    ).mean() > 0.95

    reference.save(tmp_path / "ood_detector.npz")
    first = (tmp_path / "ood_detector.npz").read_bytes()
    again = OutOfDistributionDetector.load(tmp_path / "ood_detector.npz")
    assert np.array_equal(again.distances(fresh), distances)
    again.save(tmp_path / "ood_detector.npz")
    assert (tmp_path / "ood_detector.npz").read_bytes() == first
