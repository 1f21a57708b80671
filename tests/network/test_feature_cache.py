import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from cnnClassifier.entity.config_entity import FitConfig
from cnnClassifier.entity.dicom_options import DicomOptions
from cnnClassifier.imaging.augment import View
from cnnClassifier.imaging.view_loader import ViewLoader
from cnnClassifier.network import backend
from cnnClassifier.network import feature_cache as module
from cnnClassifier.network.architecture import add_heads
from cnnClassifier.network.feature_cache import (
    FeatureCache,
    choose_precision,
    forward,
    split_at,
    trunk_id,
)
from cnnClassifier.network.training import fit
from cnnClassifier.utils.object_store import RemoteFolder
from cnnClassifier.utils.parallel import LOCAL, Workers

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
FILE_BYTES = 2 * (4 * 4 * 5 + 5)


def build(keras, seed=0, scale=1.0, activation="relu"):
    """A frozen network from 8x8 RGB to a 4x4 map of 5 channels, and their averages."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Rescaling(scale / 255, name="scale")(image)
    x = keras.layers.Conv2D(5, 3, strides=2, padding="same", activation=activation, name="mix")(x)
    average = keras.layers.GlobalAveragePooling2D(name="mix_average")(x)
    return keras.Model(image, [x, average], name="trunk")


@pytest.fixture(scope="module")
def trunk(keras):
    return build(keras)


@pytest.fixture(scope="module")
def expected(trunk):
    return np.asarray(trunk(IMAGES.astype(np.float32))[0]).astype(np.float16).astype(np.float32)


@pytest.fixture
def cached(trunk, tmp_path):
    """Ask a cache for images by number; return the maps and which images had to be loaded."""

    def ask(numbers, folder=tmp_path):
        loaded = []

        def load(number, views):
            assert views == [0]
            loaded.append(number)
            return [IMAGES[number]]

        cache = FeatureCache(folder, trunk, "float32")
        found = cache.features([[f"image-{number}"] for number in numbers], numbers, load)
        return found.take(np.arange(len(numbers))), sorted(loaded)

    return ask


def test_maps_and_averages_are_the_trunks_and_computed_once(cached, trunk, expected, tmp_path):
    for numbers, computed in [
        ([3, 1, 4, 1, 5], [1, 3, 4, 5]),  # the same image twice is one
        ([3, 1, 4, 1, 5], []),
        ([9, 3, 2, 1], [2, 9]),  # more images or views add to those there are
        (list(range(11)), [0, 6, 7, 8, 10]),  # several batches, the last one padded
        (list(range(10, -1, -1)), []),
    ]:
        found, loaded = cached(numbers)
        assert loaded == computed
        assert np.allclose(found, expected[numbers], atol=1e-3)
    numbers = [2, 0]
    load_none = None  # all of them are cached
    cache = FeatureCache(tmp_path, trunk, "float32")
    averages = cache.features(
        [[f"image-{number}"] for number in numbers], numbers, load_none
    ).averages()
    assert np.allclose(averages, expected[numbers].mean((1, 2)), atol=1e-3)
    sizes = [path.stat().st_size for path in tmp_path.glob("*/*")]
    assert sizes == [FILE_BYTES] * 11


def test_an_image_is_loaded_once_for_all_its_missing_views(trunk, expected, tmp_path):
    """The views of image n are images n, n + 10, n + 20, …; however many, few are in memory."""
    calls, references, in_memory = [], [], []

    def load(image, views):
        calls.append((image, tuple(views)))
        loaded = [IMAGES[image + 10 * view].copy() for view in views]
        references.extend(map(weakref.ref, loaded))
        in_memory.append(sum(reference() is not None for reference in references))
        return loaded

    cache = FeatureCache(tmp_path, trunk, "float32")
    for views, missing in (([0, 1], (0, 1)), ([0, 1, 2, 3], (2, 3))):
        calls.clear()
        numbers = [image + 10 * view for image in range(10) for view in views]
        keys = [[f"{image}:{view}" for view in views] for image in range(10)]
        found = cache.features(keys, range(10), load)
        assert np.allclose(found.take(np.arange(len(numbers))), expected[numbers], atol=1e-3)
        assert sorted(calls) == [(image, missing) for image in range(10)]
    assert max(in_memory) <= 20  # of 40: three batches, the one in use, and an image


class OtherProcess(Workers):
    """Workers that get everything pickled, as those of a cluster do."""

    def __init__(self, folder):
        object.__setattr__(self, "folder", folder)

    def shared_path(self, name):
        return self.folder / name

    def map(self, function, items, size=16, threads=None):
        for start in range(0, len(items), size):
            task = pickle.dumps((function, items[start : start + size]))
            function, batch = pickle.loads(task)
            yield from function(batch)


def load_image(number, views):
    return [IMAGES[number + 20 * view] for view in views]


def test_workers_of_a_cluster_write_the_same_bytes(trunk, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BATCHES_PER_TASK", 2)
    keys = [[f"{image}:{view}" for view in range(2)] for image in range(13)]
    (tmp_path / "shared").mkdir()
    for name, workers in (("here", LOCAL), ("there", OtherProcess(tmp_path / "shared"))):
        cache = FeatureCache(tmp_path / name, trunk, "float32")
        cache.features(keys, range(13), load_image, workers=workers)
    here, there = (
        {path.name: path.read_bytes() for path in (tmp_path / name).glob("*/*.f16")}
        for name in ("here", "there")
    )
    assert len(here) == 26
    assert there == here


def test_a_killed_run_keeps_its_complete_maps(cached, expected, tmp_path):
    cached(list(range(5)))
    lost, damaged, *_ = tmp_path.glob("*/*")
    lost.rename(lost.with_name("0123.unfinished"))
    damaged.write_bytes(b"")
    found, loaded = cached(list(range(7)))
    assert len(loaded) == 4
    assert {5, 6} < set(loaded)
    assert np.allclose(found, expected[:7], atol=1e-3)


def test_a_cache_in_an_object_store(cached, expected, memory_store, monkeypatch):
    listed = []
    list_files = RemoteFolder.list_files
    monkeypatch.setattr(
        RemoteFolder, "list_files", lambda folder: listed.append(folder) or list_files(folder)
    )
    url = "memory://bucket/features?option=1"
    found, loaded = cached(list(range(9)), url)
    assert np.array_equal(found, cached(list(range(9)))[0])  # the same bytes as in a folder
    assert loaded == list(range(9))
    (name, *others) = memory_store.glob("/bucket/features/*/*.f16")
    assert [memory_store.size(path) for path in (name, *others)] == [FILE_BYTES] * 9
    memory_store.pipe_file(name, b"half a file")
    found, loaded = cached(list(range(8, -1, -1)), url)
    assert len(loaded) == 1
    assert np.allclose(found, expected[8::-1], atol=1e-3)
    assert len(listed) == 2  # once for each run, not for each file
    copied = pickle.loads(pickle.dumps(module.open_files(url, "x")))
    assert vars(copied) == vars(module.open_files(url, "x"))


def test_without_a_cache_features_are_computed_at_each_use(keras, trunk, tmp_path, monkeypatch):
    loaded = []

    def load(image, views):
        loaded.extend((image, view) for view in views)
        return [IMAGES[image + 10 * view] for view in views]

    keys = [[f"{image}:{view}" for view in (0, 1)] for image in range(7)]
    stored = FeatureCache(tmp_path, trunk, "float32").features(keys, range(7), load)
    monkeypatch.chdir(tmp_path)
    computed = FeatureCache(None, trunk, "float32").features(keys, range(7), load)
    loaded.clear()
    rows = np.array([9, 0, 13, 1, 2, 9])
    assert np.array_equal(computed.take(rows), stored.take(rows))
    assert loaded == [(4, 1), (0, 0), (6, 1), (0, 1), (1, 0), (4, 1)]
    assert np.array_equal(computed[::2].averages(), stored[::2].averages())
    assert np.array_equal(
        np.concatenate(list(computed.batches(5))), np.concatenate(list(stored.batches(5)))
    )
    # Keras may ask for them in another thread.
    labels, held_out = np.arange(7) % 2, np.arange(7)[:, None] % 3 == 0
    config = FitConfig(
        epochs=2, patience=2, batch_size=3, learning_rate=0.05, class_weights=None, seed=1
    )
    fitted = []
    for features in (stored, computed):
        image = keras.Input((4, 4, 5))
        maps = keras.layers.ReLU(negative_slope=1, name="maps")(image)
        model = add_heads(keras.Model(image, maps), ["maps"], "maps", "conv_max", 1, 0.0, 2, 0)
        tail = split_at(model, "maps", 1)[1]
        fitted.append(fit(tail, features, labels, held_out, config, verbose=0).probabilities)
    assert np.array_equal(*fitted)


def test_two_runs_at_once_do_not_meet(cached, expected, tmp_path):
    parts = [list(range(0, 30)), list(range(10, 40)), list(range(20, 0, -1))]
    with ThreadPoolExecutor(3) as pool:
        for numbers, (found, _) in zip(parts, pool.map(cached, parts), strict=True):
            assert np.allclose(found, expected[numbers], atol=1e-3)
    found, loaded = cached(list(range(40)))
    assert loaded == []
    assert np.allclose(found, expected, atol=1e-3)


def test_an_image_that_cannot_be_loaded_stops_the_run_and_keeps_the_rest(cached, trunk, tmp_path):
    def load(image, views):
        if image == 9:
            raise OSError("gone")
        return [IMAGES[image]]

    with pytest.raises(OSError, match="gone"):
        FeatureCache(tmp_path, trunk, "float32").features(
            [[f"image-{number}"] for number in range(12)], range(12), load
        )
    assert cached(list(range(12)))[1] == [8, 9, 10, 11]


def test_what_is_too_large_for_float16_stays_finite(keras, tmp_path):
    cache = FeatureCache(tmp_path, build(keras, scale=1e8, activation=None), "float32")
    keys = [["a", "b"]]
    found = cache.features(keys, [IMAGES], lambda images, views: images[views]).take(np.arange(2))
    assert np.isfinite(found).all()
    assert (found.min(), found.max()) == (-65504, 65504)


def test_the_id_follows_all_that_decides_a_map(keras, trunk):
    same = {trunk_id(trunk, "float32"), trunk_id(build(keras), "float32")}
    changes = [{"seed": 1}, {"scale": 2.0}, {"activation": "tanh"}]
    others = {trunk_id(build(keras, **change), "float32") for change in changes}
    assert len(same) == 1
    assert len(same | others | {trunk_id(trunk, "bfloat16")}) == 5


@pytest.mark.parametrize("head", ["auto", "linear"])
def test_a_model_is_cut_into_two_that_share_its_layers(keras, head):
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(5, 3, strides=2, name="cut")(image)
    model = add_heads(keras.Model(image, x), ["cut"], "cut", head, 4, 0.0, 2, 0)
    front, tail = split_at(model, "cut", 3)
    assert front.trainable_weights == []
    maps, averages = front(IMAGES[:3])
    assert np.allclose(np.mean(maps, (1, 2)), averages, atol=1e-3)
    if head == "linear":
        assert tail is None
        return
    assert tail.output_shape == (None, 3, 2)
    kernel = model.get_layer("conv_max_1").kernel
    before = np.asarray(tail(maps))
    kernel.assign(kernel + 1.0)
    after = np.asarray(tail(maps))
    assert (np.abs(after - before).max((0, 2)) > 0).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("precision", "error"), [("float32", 5e-4), ("bfloat16", 0.03), ("float16", 0.003)]
)
def test_the_trunk_runs_in_every_precision(trunk, precision, error):
    exact = np.asarray(trunk(IMAGES[:4].astype(np.float32))[0])
    rows = forward(trunk, precision)(IMAGES[:4])
    assert rows.dtype == np.float16
    found, averages = rows[:, :-5].reshape(exact.shape).astype(np.float32), rows[:, -5:]
    assert np.allclose(averages, found.mean((1, 2)), atol=1e-3)
    assert np.abs(found - exact).max() <= error * np.abs(exact).max()
    assert precision == "float32" or np.abs(found - exact).max() > 0


@pytest.mark.parametrize(
    ("requested", "has_bfloat16", "expected"),
    [
        ("float32", True, "float32"),
        ("bfloat16", False, "bfloat16"),
        ("auto", True, "bfloat16"),
        ("auto", False, "float32"),
    ],
)
def test_the_precision_is_what_was_asked_for_or_what_the_machine_has(
    monkeypatch, requested, has_bfloat16, expected
):
    monkeypatch.setattr(module, "_cpu_has_bfloat16", lambda: has_bfloat16)
    monkeypatch.setattr(backend, "has_gpu", lambda: False)
    assert choose_precision(requested) == expected
    monkeypatch.setattr(backend, "has_gpu", lambda: True)
    assert choose_precision(requested) == ("float16" if requested == "auto" else requested)


def test_processes_and_threads_load_the_same_views_in_the_same_order(monkeypatch, tmp_path):
    views = (View(), View(rotation=20.0))
    jobs = []
    for number, pixels in enumerate(IMAGES[:11]):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        jobs.append(((f"{number}.png", views), [1, 0] if number % 2 else [0]))
    load = ViewLoader(tmp_path, (32, 32, 3), 10**6, DicomOptions())
    monkeypatch.setattr(backend, "has_gpu", lambda: True)
    monkeypatch.setattr(module.joblib, "cpu_count", lambda: 2)
    pools = []
    for name in ("ThreadPoolExecutor", "ProcessPoolExecutor"):
        monkeypatch.setattr(module, name, count_uses(pools, getattr(module, name)))
    threads = list(module._load_ahead(jobs, load, 4))
    monkeypatch.setattr(module, "_MAX_THREADS", 1)
    monkeypatch.setattr(module, "_MIN_IMAGES_FOR_PROCESSES", 11)
    processes = list(module._load_ahead(jobs, load, 4))
    assert pools == ["ThreadPoolExecutor", "ProcessPoolExecutor"]
    assert len(threads) == 6 + 2 * 5
    assert np.array_equal(processes, threads)
    assert not np.array_equal(threads[1], threads[2])


def count_uses(names, pool):
    def create(*options):
        names.append(pool.__name__)
        return pool(*options)

    return create
