import base64
import io
import json
import logging
import shutil
import struct
import zlib
from pathlib import Path

import pytest

from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.web.application import create_app

LIMIT = 200_000


@pytest.fixture(scope="module")
def make_client():
    def make(bundle_dir, cors_origins=()):
        return create_app(ServingConfig(Path(bundle_dir), "", 0, LIMIT, 1_000_000, cors_origins)).test_client()

    return make


@pytest.fixture(scope="module")
def client(make_client, tiny_bundle):
    return make_client(tiny_bundle)


def empty_png(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b""))


def as_json(data, prefix=""):
    return json.dumps({"image": prefix + base64.b64encode(data).decode()}).encode()


def test_each_way_of_sending_gives_the_same_answer(client, picture):
    data = picture(255)
    text = base64.encodebytes(data).decode()
    requests = {
        "json": {"json": {"image": base64.b64encode(data).decode()}},
        "lines": {"json": {"image": f" {text}\r\n"}},
        "data URL": {"data": as_json(data, "data:image/png;base64,"), "content_type": "application/json"},
        "charset": {"data": as_json(data), "content_type": "application/json; charset=klingon"},
        "utf-16": {"data": as_json(data).decode().encode("utf-16"), "content_type": "application/json"},
        "file": {"data": {"file": (io.BytesIO(data), "a.png")}},
        "image": {"data": {"image": (io.BytesIO(data), "a.png")}},
        "raw": {"data": data, "content_type": "image/x-whatever"},
        "chunked": {
            "input_stream": io.BytesIO(data),
            "content_type": "image/png",
            "environ_overrides": {"wsgi.input_terminated": True},
        },
    }
    answers = {name: client.post("/predict", **request) for name, request in requests.items()}
    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(requests, 200)
    assert len({json.dumps(answer.json) for answer in answers.values()}) == 1
    (one,) = answers["json"].json
    assert one["image"] == "Adenocarcinoma"
    assert one["class"] == "adenocarcinoma"
    assert one["probability"] == one["probabilities"]["adenocarcinoma"] > 0.9
    assert one["synthetic"] is True
    assert one["model"] == client.get("/model").json["model"]
    assert "Not a medical device" in one["disclaimer"]


def test_several_files_are_answered_in_order(client, picture):
    files = [(io.BytesIO(picture(level)), f"{level}.png") for level in (0, 255, 0)]
    answers = client.post("/predict", data={"file": files}).json
    assert [answer["class"] for answer in answers] == ["normal", "adenocarcinoma", "normal"]


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "RGBA", {}),
        ("PNG", "P", {"transparency": 0}),
        ("PNG", "I;16", {}),
        ("JPEG", "CMYK", {}),
        ("GIF", "P", {}),
        ("TIFF", "L", {}),
        ("WEBP", "RGB", {}),
        ("BMP", "1", {}),
    ],
)
def test_odd_but_sound_images_are_answered(client, picture, kind, mode, options):
    for size in ((1, 1), (64, 3)):
        data = picture(200, size, kind, mode, **options)
        answer = client.post("/predict", data=data, content_type="image/*")
        assert answer.status_code == 200, answer.json


PNG = "image/png"
JSON = "application/json"
FORM = "multipart/form-data; boundary=b"


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
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
        (empty_png(10, 10), PNG, 422, "corrupt"),
        (empty_png(60_000, 1), PNG, 422, "corrupt"),
        (empty_png(60_000, 60_000), PNG, 413, "too_large"),
        (b"x" * (LIMIT + 1), PNG, 413, "too_large"),
        (b"x" * (2 * LIMIT), PNG, 413, "too_large"),
        (as_json(b"x" * (LIMIT + 1)), JSON, 413, "too_large"),
        (b"", "multipart/form-data", 400, "empty"),
        (b"--b--\r\n", FORM, 400, "empty"),
        (b"--b\r\nnonsense", FORM, 400, "empty"),
        (b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\ntext\r\n--b--\r\n', FORM, 400, "empty"),
        (
            b'--b\r\nContent-Disposition: form-data; name="other"; filename="a.png"\r\n\r\nx\r\n--b--\r\n',
            FORM,
            400,
            "empty",
        ),
        (b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n' * 40 + b"--b--\r\n", FORM, 413, "too_large"),
        (b"image=x", "application/x-www-form-urlencoded", 415, "unsupported_type"),
        (b"x", "text/plain", 415, "unsupported_type"),
        (b"x", "", 415, "unsupported_type"),
        (b"x", "a" * 5000, 415, "unsupported_type"),
    ],
)
def test_bad_requests_get_a_status_and_a_reason(client, body, kind, status, code):
    answer = client.post("/predict", data=body, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json["error"]["code"]) == (status, code), answer.json
    assert 0 < len(answer.json["error"]["message"]) < 400


def test_a_torn_file_is_refused_wherever_it_ends(client, picture):
    data = picture(90, (64, 64), "JPEG", quality=95)
    statuses = {client.post("/predict", data=data[:end], content_type=PNG).status_code for end in range(1, 200, 7)}
    assert statuses == {422}
    files = [(io.BytesIO(data), "a.jpg"), (io.BytesIO(data[:100]), "b.jpg")]
    answer = client.post("/predict", data={"file": files})
    assert answer.status_code == 422
    assert "image 2 of 2" in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("get", "/predict", 405), ("post", "/", 405), ("get", "/nothing", 404), ("get", "/static/../app.py", 404)],
)
def test_wrong_addresses_are_answered_in_json(client, method, path, status):
    answer = getattr(client, method)(path)
    assert answer.status_code == status
    assert answer.json["error"]["code"] in ("not_found", "method_not_allowed")
    assert ("Allow" in answer.headers) == (status == 405)


def test_the_unexpected_is_logged_and_keeps_its_words_to_itself(make_client, tiny_bundle, picture, monkeypatch, caplog):
    client = make_client(tiny_bundle)
    assert client.get("/readyz").status_code == 200

    def fail(*_):
        raise RuntimeError("secret")

    monkeypatch.setattr("cnnClassifier.pipeline.prediction.decode", fail)
    monkeypatch.setattr(logging.getLogger("cnnClassifier"), "propagate", True)
    answer = client.post("/predict", data=picture(), content_type=PNG)
    assert (answer.status_code, answer.json["error"]["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert "RuntimeError: secret" in caplog.text


def test_model_tells_what_it_is(client):
    card = client.get("/model").json
    assert card["classes"] == ["adenocarcinoma", "normal"]
    assert card["labels"] == {"adenocarcinoma": "Adenocarcinoma", "normal": "Normal"}
    assert (card["threshold"], card["backbone"], card["image_size"]) == (0.5, "tiny", [32, 32, 3])
    assert (card["synthetic"], card["data_source"]) == (True, "phantom")


def test_without_a_model_it_says_what_to_run_and_takes_one_up(make_client, tiny_bundle, picture, tmp_path):
    folder = tmp_path / "training"
    client = make_client(folder)
    assert client.get("/livez").status_code == 200
    assert client.get("/").status_code == 200
    for answer in (client.get("/readyz"), client.get("/model"), client.post("/predict", data=b"x", content_type=PNG)):
        assert (answer.status_code, answer.json["error"]["code"]) == (503, "no_model")
        assert "python main.py" in answer.json["error"]["message"]
        assert "Retry-After" in answer.headers
    shutil.copytree(tiny_bundle, folder)
    card = folder / "model.json"
    sound = card.read_text()
    card.write_text(sound.replace('"model_sha256": "', '"model_sha256": "0'))
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json["error"]["code"]) == (503, "broken_model")
    assert "sha256" in answer.json["error"]["message"]
    card.write_text(sound)
    assert client.get("/readyz").json["status"] == "ready"
    assert client.post("/predict", data=picture(), content_type=PNG).status_code == 200


def test_other_origins_are_allowed_only_where_configured(client, make_client, tiny_bundle):
    origin = "https://example.org"
    allowed = make_client(tiny_bundle, (origin,))
    ask = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    assert "Access-Control-Allow-Origin" not in client.options("/predict", headers=ask).headers
    assert allowed.options("/predict", headers=ask).headers["Access-Control-Allow-Origin"] == origin
    assert "Access-Control-Allow-Origin" not in allowed.get("/model", headers={"Origin": "https://evil.test"}).headers


@pytest.mark.parametrize("path", ["/", "/model", "/static/app.js", "/nothing"])
def test_security_headers_are_everywhere(client, path):
    headers = client.get(path).headers
    policy = headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


def test_each_prediction_is_logged_in_one_line_without_its_content(client, picture, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("cnnClassifier"), "propagate", True)
    caplog.set_level(logging.INFO, "cnnClassifier")
    client.post("/predict", json={"image": base64.b64encode(picture()).decode()})
    client.post("/a%0Ab")
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(" ms=")[0].split(" bytes=")[0] for line in lines] == [
        "method=POST path='/predict' status=200",
        "method=POST path='/a\\nb' status=404",
    ]
