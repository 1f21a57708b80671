import base64
import io
import json
import logging
import re
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.entity.prediction import Prediction
from cnnClassifier.serving.app import create_app
from cnnClassifier.serving.responses import is_uncertain

LIMIT = 200_000


@pytest.fixture(scope="module")
def make_client():
    def make(bundle_dir, cors_origins=()):
        return create_app(
            ServingConfig(
                bundle_dir=Path(bundle_dir),
                host="127.0.0.1",
                port=0,
                max_upload_bytes=LIMIT,
                max_pixels=1_000_000,
                cors_origins=cors_origins,
            )
        ).test_client()

    return make


@pytest.fixture(scope="module")
def client(make_client, tiny_bundle):
    client = make_client(tiny_bundle)
    client.get("/model")  # which loads it: no test depends on another's having done so
    return client


def empty_png(width, height):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

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
        "data URL": {
            "data": as_json(data, "data:image/png;base64,"),
            "content_type": "application/json",
        },
        "charset": {"data": as_json(data), "content_type": "application/json; charset=klingon"},
        "utf-16": {
            "data": as_json(data).decode().encode("utf-16"),
            "content_type": "application/json",
        },
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
    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(
        requests, 200
    )
    assert (
        len({json.dumps([one | {"ms": 0} for one in answer.json]) for answer in answers.values()})
        == 1
    )
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


def test_one_bad_image_among_several_spoils_only_its_own_answer(client, picture):
    good = base64.b64encode(picture()).decode()
    large = base64.b64encode(b"x" * (LIMIT + 1)).decode()
    answers = client.post("/predict", json={"images": ["aGk=", good, "?", "", large]})
    codes = [answer.get("error", {}).get("code") for answer in answers.json]
    assert (answers.status_code, codes) == (
        200,
        ["not_an_image", None, "bad_base64", "empty", "too_large"],
    )
    answers = client.post("/predict", json={"images": ["?", "aGk="]})
    assert (answers.status_code, answers.json["error"]["code"]) == (422, "bad_base64")
    answers = client.post("/predict", json={"images": ["aGk="] * 40})
    assert (answers.status_code, answers.json["error"]["code"]) == (413, "too_many_images")


def test_options_add_the_map_and_the_preview(client, picture):
    data = picture(200, (1000, 20))
    (plain,) = client.post("/predict", data=data, content_type=PNG).json
    sent = {
        "query": client.post("/predict?map=true&preview=1", data=data, content_type=PNG),
        "form": client.post(
            "/predict", data={"file": (io.BytesIO(data), "a"), "map": "true", "preview": "true"}
        ),
        "json": client.post(
            "/predict?map=0", json={**json.loads(as_json(data)), "map": True, "preview": True}
        ),
    }
    for answer in sent.values():
        (one,) = answer.json
        assert list(one) == [*list(plain)[:9], "map", "preview", *list(plain)[9:]]
        assert {len(row) for row in one["map"]} == {30}
        assert len(one["map"]) == 30
        assert all(0 <= value <= 1 for row in one["map"] for value in row)
        preview = Image.open(
            io.BytesIO(base64.b64decode(one["preview"].removeprefix("data:image/png;base64,")))
        )
        assert (preview.size, preview.getpixel((0, 0))) == ((500, 10), (200, 200, 200))
    assert list(plain) == [
        *(
            "image",
            "class",
            "probability",
            "probabilities",
            "threshold",
            "uncertain",
            "unfamiliar",
            "distance",
        ),
        *("unfamiliar_limit", "ms", "model", "model_sha256", "synthetic", "disclaimer"),
    ]


@pytest.mark.parametrize(
    ("option", "good", "bad"),
    [
        (
            "window",
            ["auto", "bone", "-600,1500", "40.5, 400"],
            ["", "Lung", "40", "1e3,2", "40,0", "nan,1", "٣,٣", 7],
        ),
        ("frame", [1, "1"], [0, -1, 1.5, True, "", "x", "²", "9" * 5000, None, [1]]),
        ("map", [True, "1", "false"], ["yes", "", None, 1, {}]),
    ],
)
def test_options_are_checked(client, picture, option, good, bad):
    content = json.loads(as_json(picture()))
    assert {
        client.post("/predict", json={**content, option: value}).status_code for value in good
    } == {200}
    for value in bad:
        answer = client.post("/predict", json={**content, option: value})
        assert (answer.status_code, answer.json["error"]["code"]) == (400, "bad_option"), value
        assert answer.json["error"]["message"].startswith(f"{option}: expected ")


@pytest.mark.parametrize(
    ("probabilities", "threshold", "margin", "expected"),
    [
        ([0.55, 0.45], 0.5, 0.1, True),
        ([0.61, 0.39], 0.5, 0.1, False),
        ([0.3, 0.7], 0.25, 0.1, True),
        ([0.5, 0.5], 0.5, 0, False),
        ([0.4, 0.35, 0.25], 0.5, 0.1, True),
        ([0.5, 0.35, 0.15], 0.5, 0.1, False),
    ],
)
def test_uncertain_is_what_was_nearly_called_otherwise(
    tiny_bundle, probabilities, threshold, margin, expected
):
    classes = tuple("abc"[: len(probabilities)])
    changes = {"classes": classes, "positive_class": "a", "threshold": threshold}
    bundle = ModelBundle.read(tiny_bundle).model_copy(update=changes)
    nothing = np.zeros((1, 1), np.float32)
    prediction = Prediction(
        "A",
        "a",
        dict(zip(classes, probabilities, strict=True)),
        "",
        False,
        0,
        1,
        nothing,
        None,
        nothing,
    )
    assert is_uncertain(prediction, bundle, margin) is expected


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
        (
            b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\ntext\r\n--b--\r\n',
            FORM,
            400,
            "empty",
        ),
        (
            b'--b\r\nContent-Disposition: form-data; name="other"; filename="a.png"\r\n\r\nx\r\n--b--\r\n',
            FORM,
            400,
            "empty",
        ),
        (
            b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n' * 40 + b"--b--\r\n",
            FORM,
            413,
            "too_large",
        ),
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
    statuses = {
        client.post("/predict", data=data[:end], content_type=PNG).status_code
        for end in range(1, 200, 7)
    }
    assert statuses == {422}


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
    answer = getattr(client, method)(path)
    assert answer.status_code == status
    assert answer.json["error"]["code"] in ("not_found", "method_not_allowed")
    assert ("Allow" in answer.headers) == (status == 405)


def test_the_unexpected_is_logged_and_keeps_its_words_to_itself(
    make_client, tiny_bundle, picture, monkeypatch, caplog
):
    client = make_client(tiny_bundle)
    assert client.get("/readyz").status_code == 200

    def fail(*_):
        raise RuntimeError("secret")

    monkeypatch.setattr("cnnClassifier.serving.predictor.decode", fail)
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


def test_without_a_model_it_says_what_to_run_and_takes_one_up(
    make_client, tiny_bundle, picture, tmp_path
):
    folder = tmp_path / "training"
    client = make_client(folder)
    assert client.get("/livez").status_code == 200
    assert client.get("/").status_code == 200
    for answer in (
        client.get("/readyz"),
        client.get("/model"),
        client.post("/predict", data=b"x", content_type=PNG),
    ):
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
    assert (
        "Access-Control-Allow-Origin"
        not in allowed.get("/model", headers={"Origin": "https://evil.test"}).headers
    )


@pytest.mark.parametrize("path", ["/", "/model", "/static/app.js", "/nothing"])
def test_security_headers_are_everywhere(client, path):
    headers = client.get(path).headers
    policy = headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"


def test_each_prediction_is_logged_in_one_line_without_its_content(
    client, picture, monkeypatch, caplog
):
    monkeypatch.setattr(logging.getLogger("cnnClassifier"), "propagate", True)
    caplog.set_level(logging.INFO, "cnnClassifier")
    secret = "Doe^Jane"
    data = {"file": (io.BytesIO(picture()), f"{secret}.png")}
    client.post(f"/predict?patient={secret}", data=data, headers={"X-Request-Id": "mine-1"})
    client.post("/a%0Ab", headers={"X-Request-Id": f"no good {secret}"})
    lines = [record.getMessage() for record in caplog.records]
    assert [re.sub(r"(bytes|ms)=\d+", r"\1=N", line) for line in lines] == [
        'method=POST path="/predict" status=200 bytes=N ms=N request=mine-1 client=address:127.0.0.1 images=1 code=-',
        f'method=POST path="/a\\nb" status=404 bytes=N ms=N request={lines[1].split("request=")[1][:16]} '
        "client=address:127.0.0.1 images=0 code=not_found",
    ]
    assert secret not in "".join(lines)


@pytest.mark.parametrize("path", ["/livez", "/nothing", "/static/app.js", "/predict"])
def test_every_answer_has_a_request_id(client, path):
    made = client.get(path)
    assert re.fullmatch("[0-9a-f]{16}", made.headers["X-Request-Id"])
    assert made.status_code < 400 or made.json["request_id"] == made.headers["X-Request-Id"]
    for given, taken in {
        "a.B-7_": True,
        "x" * 65: False,
        "a b": False,
        "": False,
        "é": False,
    }.items():
        assert (
            client.get(path, headers={"X-Request-Id": given}).headers["X-Request-Id"] == given
        ) is taken


def test_metrics_count_what_was_answered(make_client, tiny_bundle, picture):
    client = make_client(tiny_bundle)
    assert "model_info{" not in client.get("/metrics").text
    for level in (0, 255, 255):
        client.post("/predict", data=picture(level), content_type=PNG)
    client.post("/predict", data=b"x", content_type=PNG)
    client.get("/no/such/page/of/Jane")
    answer = client.get("/metrics")
    assert answer.content_type.startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert found["predictions_total", "adenocarcinoma"] == 2
    assert found["predictions_total", "normal"] == 1
    assert found["http_requests_total", "POST", "/predict", "200"] == 3
    assert found["http_requests_total", "GET", "none", "404"] == 1
    assert found["http_request_seconds_count", "/predict"] == 4
    assert found["errors_total", "not_an_image"] == found["errors_total", "not_found"] == 1
    assert found["predictions_unfamiliar_total",] == found["predictions_uncertain_total",] == 0
    assert found["predict_running",] == found["predict_waiting",] == 0
    assert families["model_info"].samples[0].labels["id"] == client.get("/model").json["model"]
    assert "Jane" not in answer.text
