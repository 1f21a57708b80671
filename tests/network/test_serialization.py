import re
import time
import zipfile

import numpy as np
import pytest

from cnnClassifier.network.serialization import load_model, save_model
from cnnClassifier.utils.errors import BundleError


def build(keras):
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = keras.layers.BatchNormalization(name="norm")(keras.layers.Conv2D(4, 3, name="mix")(image))
    return keras.Model(
        image, keras.layers.Dense(2, name="out")(keras.layers.Flatten(name="flat")(x)), name="small"
    )


@pytest.fixture
def model(keras):
    return build(keras)


def test_equal_models_give_equal_bytes_and_come_back(keras, model, tmp_path):
    first, second, third = (tmp_path / f"{name}.keras" for name in ("a", "deep/b", "c"))
    save_model(model, first)
    time.sleep(1.1)  # dates in HDF5 count seconds
    save_model(build(keras), second)
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:  # a memory address would differ in the next process
        shared = re.findall(r'"shared_object_id": (\d+)', archive.read("config.json").decode())
    assert set(shared) == {"0"}
    loaded = load_model(first, "")
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    assert np.array_equal(loaded(images), model(images))
    save_model(loaded, second)
    save_model(load_model(second, ""), third)
    assert third.read_bytes() == second.read_bytes()
    loaded.get_layer("out").set_weights(
        [values + 1 for values in model.get_layer("out").get_weights()]
    )
    save_model(loaded, third)
    assert third.read_bytes() != second.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.keras", "c.keras", "deep"]


def test_what_is_no_model_says_what_to_do(keras, model, tmp_path):
    path = tmp_path / "model.keras"
    save_model(model, path)
    whole = path.read_bytes()
    unsafe = tmp_path / "unsafe.keras"
    image = keras.Input((2,))
    keras.Model(image, keras.layers.Lambda(lambda x: x + 1)(image)).save(unsafe)
    path.unlink()
    for content in (
        None,
        b"",
        b"text",
        whole[: len(whole) // 2],
        whole.replace(b"Conv2D", b"Conv9D"),
        unsafe.read_bytes(),
    ):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(BundleError, match=r"can't be loaded \(.*\); run it first$"):
            load_model(path, "run it first")
        path.unlink(missing_ok=True)
