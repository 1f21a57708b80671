import base64
import gc
import io
import itertools
import json
import logging
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from cnnClassifier.entity.bundle import ModelBundle, is_uncertain
from cnnClassifier.serving.app import create_app
from cnnClassifier.utils.errors import ImageError
from tests.serving.client import error_of, make_config

MAX_UPLOAD_BYTES = 200_000
PNG, JSON, FORM = "image/png", "application/json", "multipart/form-data; boundary=b"
FIELDS = [
    *("image", "class", "probability", "probabilities", "threshold", "uncertain"),
    *("disagreement", "disagreement_limit", "unfamiliar", "distance", "unfamiliar_limit"),
    *("width", "height", "mean_intensity", "ms"),
    *("model", "model_sha256", "synthetic", "disclaimer"),
]


@pytest.fixture(scope="module")
def make_client():
    def make(bundle_dir, **settings):
        return create_app(make_config(bundle_dir, **settings)).test_client()

    return make


@pytest.fixture(scope="module")
def client(make_client, tiny_bundle):
    client = make_client(tiny_bundle)
    client.get("/model")  # loads it, so that no test depends on another one
    return client


def encode(width, height):
    out = io.BytesIO()
    Image.new("L", (width, height)).save(out, "PNG")
    return out.getvalue()


def as_json(data, prefix=""):
    return json.dumps({"image": prefix + base64.b64encode(data).decode()}).encode()


def test_all_ways_of_sending_give_the_same_result(client, picture):
    data = picture(255)
    requests = {
        "json": {"data": as_json(data), "content_type": JSON},
        "lines": {"json": {"image": f" {base64.encodebytes(data).decode()}\r\n"}},
        "data URL": {"data": as_json(data, "data:image/png;base64,"), "content_type": JSON},
        "charset": {"data": as_json(data), "content_type": f"{JSON}; charset=klingon"},
        "utf-16": {"data": as_json(data).decode().encode("utf-16"), "content_type": JSON},
        "file": {"data": {"file": (io.BytesIO(data), "a.png")}},
        "image": {"data": {"image": (io.BytesIO(data), "a.png")}},
        "raw": {"data": data, "content_type": "image/x-whatever"},
        "chunked": {
            "input_stream": io.BytesIO(data),
            "content_type": PNG,
            "environ_overrides": {"wsgi.input_terminated": True},
        },
    }
    results = []
    for name, request in requests.items():
        response = client.post("/predict", **request)
        assert response.status_code == 200, name
        results += response.json
    assert all(result | {"ms": 0} == results[0] | {"ms": 0} for result in results)
    result = results[0]
    assert len(results) == len(requests)
    assert list(result) == FIELDS
    assert (result["image"], result["class"]) == ("Adenocarcinoma", "adenocarcinoma")
    assert result["probability"] == result["probabilities"]["adenocarcinoma"] > 0.9
    assert result["synthetic"] is True
    assert result["model"] == client.get("/model").json["model"]
    assert "Not a medical device" in result["disclaimer"]


@pytest.mark.parametrize("broken", [1, 2])
@pytest.mark.parametrize("whole", [0, 1])
def test_errors_leave_no_image_in_memory(client, picture, broken, whole):
    """An exception in a cycle with its frames would keep the images until a collection."""
    images = [encode(8, 8)[:40]] * broken + [picture()] * whole
    body = {"images": [base64.b64encode(image).decode() for image in images]}
    gc.collect()
    gc.disable()
    try:
        response = client.post("/predict", json=body)
        left = [item for item in gc.get_objects() if isinstance(item, ImageError)]
    finally:
        gc.enable()
    assert response.status_code == (200 if whole else 422)
    assert not left


def test_several_images_are_answered_in_order_with_their_own_errors(client, picture):
    files = [(io.BytesIO(picture(level)), f"{level}.png") for level in (0, 255, 0)]
    results = client.post("/predict", data={"file": files}).json
    assert [result["class"] for result in results] == ["normal", "adenocarcinoma", "normal"]
    good = base64.b64encode(picture()).decode()
    large = base64.b64encode(b"x" * (MAX_UPLOAD_BYTES + 1)).decode()
    response = client.post("/predict", json={"images": ["aGk=", good, "?", "", large]})
    codes = [result.get("error", {}).get("code") for result in response.json]
    assert response.status_code == 200
    assert codes == ["not_an_image", None, "bad_base64", "empty", "too_large"]
    response = client.post("/predict", json={"images": ["?", "aGk="]})
    assert error_of(response) == (422, "bad_base64")
    response = client.post("/predict", json={"images": ["aGk="] * 40})
    assert error_of(response) == (413, "too_many_images")


def test_a_request_that_takes_too_long_is_ended(client, picture, monkeypatch):
    clock = SimpleNamespace(monotonic=itertools.count(step=1000).__next__)
    monkeypatch.setattr("cnnClassifier.serving.concurrency.time", clock)
    response = client.post("/predict", data=picture(), content_type=PNG)
    assert error_of(response) == (503, "timeout")
    assert response.headers["Retry-After"] == "5"


def test_options_add_the_map_and_the_preview(client, picture):
    data = picture(200, (1000, 20))
    form = {"file": (io.BytesIO(data), "a"), "map": "true", "preview": "true"}
    content = {**json.loads(as_json(data)), "map": True, "preview": True}
    for response in (
        client.post("/predict?map=true&preview=1", data=data, content_type=PNG),
        client.post("/predict", data=form),
        client.post("/predict?map=0", json=content),  # the body overrides the query
    ):
        (result,) = response.json
        assert list(result) == [*FIELDS[:14], "map", "preview", *FIELDS[14:]]
        activation = np.array(result["map"])
        assert activation.shape == (30, 30)
        assert 0 <= activation.min() <= activation.max() <= 1
        encoded = result["preview"].removeprefix("data:image/png;base64,")
        preview = Image.open(io.BytesIO(base64.b64decode(encoded)))
        assert (preview.size, preview.getpixel((0, 0))) == ((500, 10), (200, 200, 200))


@pytest.mark.parametrize(
    ("option", "valid", "invalid"),
    [
        ("window", ["auto", "bone", "-600,1500", "40.5, 400"], ["", "40", "40,0", "nan,1", 7, {}]),
        ("frame", [1, "1"], [0, -1, 1.5, True, "", "x", "²", "9" * 5000, None, [1]]),
        ("map", [True, "1", "false"], ["yes", "", None, 1, {}]),
    ],
)
def test_options_are_validated(client, picture, option, valid, invalid):
    content = json.loads(as_json(picture()))
    for value in valid:
        assert client.post("/predict", json={**content, option: value}).status_code == 200
    for value in invalid:
        response = client.post("/predict", json={**content, option: value})
        assert error_of(response) == (400, "bad_option"), value
        assert response.json["error"]["message"].startswith(f"{option}: expected ")


@pytest.mark.parametrize(
    ("probabilities", "threshold", "margin", "expected"),
    [
        ([0.55, 0.45], 0.5, 0.1, True),
        ([0.61, 0.39], 0.5, 0.1, False),
        ([0.3, 0.7], 0.25, 0.1, True),
        ([0.5, 0.5], 0.5, 0, False),
        ([0.4, 0.35, 0.25], None, 0.1, True),
        ([0.5, 0.35, 0.15], None, 0.1, False),
    ],
)
def test_a_result_is_uncertain_near_the_threshold(
    tiny_bundle, probabilities, threshold, margin, expected
):
    classes = tuple("abc"[: len(probabilities)])
    bundle = ModelBundle.read(tiny_bundle)
    changes = {"classes": classes, "positive_class": "a", "threshold": threshold}
    bundle = bundle.model_copy(update=changes)
    by_class = dict(zip(classes, probabilities, strict=True))
    assert is_uncertain(by_class, 0.09, bundle, margin) is expected
    assert is_uncertain(by_class, 0.091, bundle, margin), "the heads disagree"
    single = bundle.model_copy(update={"max_disagreement": None})
    assert is_uncertain(by_class, 0.091, single, margin) is expected


def test_heads_that_disagree_make_a_result_uncertain(
    make_client, client, picture, write_bundle, tmp_path
):
    def ask(client, level):
        return client.post("/predict", data=picture(level), content_type=PNG).json[0]

    near, between, far = (ask(client, level) for level in (128, 153, 255))
    assert [result["uncertain"] for result in (near, between, far)] == [True, True, False]
    assert near["disagreement"] < 0.09 == near["disagreement_limit"] < between["disagreement"]
    single = ask(make_client(write_bundle(tmp_path, folds=1)), 153)
    assert (single["disagreement"], single["disagreement_limit"]) == (None, None)
    assert not single["uncertain"]


def form_part(headers, content=b"x"):
    return b"--b\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (headers, content)


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"", JSON, 400, "bad_json"),
        (b"{", JSON, 400, "bad_json"),
        (b"\xff\xfe\x00", JSON, 400, "bad_json"),
        (b'{"image": "\xe4"}', JSON, 400, "bad_json"),
        (b"[" * 100_000, JSON, 400, "bad_json"),
        (b'{"image": ' + b"9" * 5000 + b"}", JSON, 400, "bad_json"),
        (b"[]", JSON, 400, "missing_image"),
        (b"null", JSON, 400, "missing_image"),
        (b"NaN", JSON, 400, "missing_image"),
        (b'"image"', JSON, 400, "missing_image"),
        (b"{}", JSON, 400, "missing_image"),
        (b'{"image": null}', JSON, 400, "missing_image"),
        (b'{"images": null}', JSON, 400, "missing_image"),
        (b'{"image": ["aGk="]}', JSON, 400, "missing_image"),
        (b'{"image": ""}', JSON, 400, "empty"),
        (b'{"image": "data:image/png;base64,"}', JSON, 400, "empty"),
        (b'{"image": "data:"}', JSON, 400, "empty"),
        (b'{"image": "aGk"}', JSON, 400, "bad_base64"),
        (b'{"image": "a\\u0000Gk="}', JSON, 400, "bad_base64"),
        ('{"image": "äöü="}'.encode(), JSON, 400, "bad_base64"),
        (b'{"image": "\\ud800"}', JSON, 400, "bad_base64"),
        (b'{"image": "aGk="}', JSON, 422, "not_an_image"),
        (b"", PNG, 400, "empty"),
        (b"\x00" * 100, PNG, 422, "not_an_image"),
        (b"GIF89a", PNG, 422, "not_an_image"),
        (encode(10, 10)[:45], PNG, 422, "corrupt"),
        (encode(1001, 1000), PNG, 413, "too_large"),
        (encode(1, 20_001), PNG, 413, "too_large"),
        (b"x" * (MAX_UPLOAD_BYTES + 1), PNG, 413, "too_large"),
        (b"x" * (2 * MAX_UPLOAD_BYTES), PNG, 413, "too_large"),
        (as_json(b"x" * (MAX_UPLOAD_BYTES + 1)), JSON, 413, "too_large"),
        (b"", "multipart/form-data", 400, "empty"),
        (b"--b--\r\n", FORM, 400, "empty"),
        (b"--b\r\nnonsense", FORM, 400, "empty"),
        (form_part(b'name="file"', b"text") + b"--b--\r\n", FORM, 400, "empty"),
        (form_part(b'name="other"; filename="a.png"') + b"--b--\r\n", FORM, 400, "empty"),
        (form_part(b'name="a"') * 40 + b"--b--\r\n", FORM, 413, "too_large"),
        (b"image=x", "application/x-www-form-urlencoded", 415, "unsupported_type"),
        (b"x", "text/plain", 415, "unsupported_type"),
        (b"x", "", 415, "unsupported_type"),
        (b"x", "a" * 5000, 415, "unsupported_type"),
    ],
)
def test_invalid_requests_get_a_status_and_a_message(client, body, content_type, status, code):
    response = client.post("/predict", data=body, headers={"Content-Type": content_type})
    assert error_of(response) == (status, code), response.json
    assert 0 < len(response.json["error"]["message"]) < 400


def test_a_truncated_file_is_refused_wherever_it_ends(client, picture):
    data = picture(90, (64, 64), "JPEG", quality=95)
    for end in range(1, 200, 7):
        assert client.post("/predict", data=data[:end], content_type=PNG).status_code == 422


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("get", "/predict", 405),
        ("post", "/", 405),
        ("get", "/nothing", 404),
        ("get", "/static/../app.py", 404),
    ],
)
def test_wrong_addresses_are_answered_in_json(client, method, path, status):
    response = getattr(client, method)(path)
    assert error_of(response) in ((404, "not_found"), (405, "method_not_allowed"))
    assert response.status_code == status
    assert ("Allow" in response.headers) == (status == 405)


def test_a_browser_gets_a_page_where_a_program_gets_json(make_client, tiny_bundle):
    client = make_client(tiny_bundle, rate_limit="1/minute")
    navigation = {"Accept": "text/html,*/*;q=0.8", "Sec-Fetch-Mode": "navigate"}
    page = client.get("/nothing", headers=navigation)
    assert (page.status_code, page.mimetype) == (404, "text/html")
    assert client.get("/about").status_code == 200
    for method, path, target in (("get", "/about", "/about"), ("post", "/predict", "/")):
        page = getattr(client, method)(path, headers=navigation)
        assert (page.status_code, page.mimetype) == (429, "text/html")
        assert "Rate limit reached (1 per 1 minute); try again in " in page.text
        assert f'<a href="{target}">Try again</a>' in page.text
        assert int(page.headers["Retry-After"]) > 0
    for headers in ({}, {"Accept": "*/*"}, navigation | {"Sec-Fetch-Mode": "cors"}):
        assert error_of(client.get("/about", headers=headers)) == (429, "too_many_requests")


def test_an_unexpected_error_is_logged_but_not_shown(
    make_client, tiny_bundle, picture, monkeypatch, caplog
):
    client = make_client(tiny_bundle)
    assert client.get("/readyz").status_code == 200

    def fail(*_):
        raise RuntimeError("secret")

    monkeypatch.setattr("cnnClassifier.serving.predictor.decode", fail)
    monkeypatch.setattr(logging.getLogger("cnnClassifier"), "propagate", True)
    response = client.post("/predict", data=picture(), content_type=PNG)
    assert error_of(response) == (500, "internal_error")
    assert "secret" not in response.text
    assert "RuntimeError: secret" in caplog.text


def test_model_describes_the_model(client):
    expected = {
        "classes": ["adenocarcinoma", "normal"],
        "labels": {"adenocarcinoma": "Adenocarcinoma", "normal": "Normal"},
        "threshold": 0.5,
        "backbone": "tiny",
        "image_size": [32, 32, 3],
        "synthetic": True,
        "data_source": "synthetic",
    }
    assert expected.items() <= client.get("/model").json.items()


def test_without_a_model_errors_say_what_to_run_until_there_is_one(
    make_client, tiny_bundle, picture, tmp_path
):
    bundle_dir = tmp_path / "training"
    client = make_client(bundle_dir)
    assert client.get("/livez").status_code == 200
    assert client.get("/").status_code == 200
    for response in (
        client.get("/readyz"),
        client.get("/model"),
        client.post("/predict", data=b"x", content_type=PNG),
    ):
        assert error_of(response) == (503, "no_model")
        message = response.json["error"]["message"]
        assert message.startswith("no trained model: model.json is missing; ")
        assert "python main.py" in message
        assert "Retry-After" in response.headers
    shutil.copytree(tiny_bundle, bundle_dir)
    metadata = bundle_dir / "model.json"
    valid = metadata.read_text()
    metadata.write_text(valid.replace('"model_sha256": "', '"model_sha256": "0'))
    response = client.get("/readyz")
    assert error_of(response) == (503, "broken_model")
    assert "sha256" in response.json["error"]["message"]
    for text in (response.text, client.get("/about").text):
        assert "model.json" in text
        assert tmp_path.name not in text
    metadata.write_text(valid)
    assert client.get("/readyz").json["status"] == "ready"
    assert client.post("/predict", data=picture(), content_type=PNG).status_code == 200


def test_cross_origin_requests_are_allowed_only_if_configured(client, make_client, tiny_bundle):
    origin = "https://example.org"
    allowing = make_client(tiny_bundle, cors_origins=(origin,))
    preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    header = "Access-Control-Allow-Origin"
    assert header not in client.options("/predict", headers=preflight).headers
    assert allowing.options("/predict", headers=preflight).headers[header] == origin
    assert header not in allowing.get("/model", headers={"Origin": "https://evil.test"}).headers


def test_the_page_is_shown_in_frames_of_configured_sites_only(make_client, tiny_bundle):
    client = make_client(tiny_bundle, frame_ancestors=("https://example.org", "'self'"))
    for path in ("/", "/about"):
        policy = client.get(path).headers["Content-Security-Policy"]
        assert policy.endswith("; frame-ancestors https://example.org 'self'")


@pytest.mark.parametrize("path", ["/", "/model", "/static/app.js", "/nothing", "/predict"])
def test_every_response_has_security_headers_and_a_request_id(client, path):
    response = client.get(path)
    policy = response.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "same-origin"
    request_id = response.headers["X-Request-Id"]
    assert re.fullmatch("[0-9a-f]{16}", request_id)
    assert response.status_code < 400 or response.json["request_id"] == request_id
    for sent, valid in {"a.B-7_": True, "x" * 65: False, "a b": False, "é": False}.items():
        returned = client.get(path, headers={"X-Request-Id": sent}).headers["X-Request-Id"]
        assert (returned == sent) is valid


def test_metrics_count_requests_and_predictions(make_client, tiny_bundle, picture):
    client = make_client(tiny_bundle)
    assert "model_info{" not in client.get("/metrics").text
    for level in (0, 255, 255):
        client.post("/predict", data=picture(level), content_type=PNG)
    client.post("/predict", data=b"x", content_type=PNG)
    client.get("/no/such/page/of/Jane")
    response = client.get("/metrics")
    assert response.content_type.startswith("text/plain; version=")
    assert "Jane" not in response.text
    samples = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            samples[(sample.name, *sample.labels.values())] = sample.value
    expected = {
        ("predictions_total", "adenocarcinoma"): 2,
        ("predictions_total", "normal"): 1,
        ("http_requests_total", "POST", "/predict", "200"): 3,
        ("http_requests_total", "GET", "none", "404"): 1,
        ("http_request_seconds_count", "/predict"): 4,
        ("errors_total", "not_an_image"): 1,
        ("errors_total", "not_found"): 1,
        ("predictions_unfamiliar_total",): 0,
        ("predictions_uncertain_total",): 0,
        ("predict_running",): 0,
        ("predict_waiting",): 0,
    }
    assert expected.items() <= samples.items()
    assert f'model_info{{backbone="tiny",id="{client.get("/model").json["model"]}"' in response.text
