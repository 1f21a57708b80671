import hashlib
import io
import json

import pytest

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.entity.feedback import FeedbackFolder
from cnnClassifier.serving import routes
from cnnClassifier.serving.app import create_app
from cnnClassifier.serving.auth import create_token, parse_tokens
from tests.serving.client import error_of, make_config

NAME = "Doe Jane.png"


@pytest.fixture
def make_client(tiny_bundle, tmp_path):
    """Make a client of a server that takes feedback; with a token if it has one."""

    def make(token="", entry="", **settings):
        settings = {"feedback_dir": tmp_path / "feedback"} | settings
        app = create_app(make_config(tiny_bundle, **settings), tokens=parse_tokens(entry))
        client = app.test_client()
        if token:
            client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {token}"
        return client

    return make


def send(client, image, label="normal", **fields):
    form = {"file": (io.BytesIO(image), NAME), "label": label}
    return client.post("/feedback", data=form | fields)


def test_an_image_is_stored_with_its_prediction_and_nothing_else(
    make_client, picture, tiny_bundle, tmp_path
):
    client, image = make_client(), picture(255)
    digest = hashlib.sha256(image).hexdigest()
    for status in (201, 200):
        response = send(client, image)
        assert (response.status_code, response.json) == (status, {"id": digest, "stored": True})
    assert send(client, image, "adenocarcinoma").status_code == 201
    predicted = client.post("/predict", data=image, content_type="image/png").json[0]
    for record in FeedbackFolder(tmp_path / "feedback").records():
        assert record.id == digest
        assert record.probabilities == predicted["probabilities"]
        assert record.predicted == "adenocarcinoma"
        assert record.model_sha256 == ModelBundle.read(tiny_bundle).model_sha256
        assert (record.status, record.time[-6:]) == ("pending", "+00:00")
        content = json.loads((tmp_path / "feedback" / record.record_name).read_text())
        expected = "format id label model_sha256 predicted probabilities status time"
        assert sorted(content) == expected.split()
    files = list((tmp_path / "feedback").iterdir())
    assert len(files) == 3
    assert (tmp_path / f"feedback/{digest}.png").read_bytes() == image
    assert not any(word in path.name for path in files for word in NAME.split())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"label": "sarcoma"}, (400, "unknown_label")),
        ({"label": ""}, (400, "unknown_label")),
        ({"file": b"text"}, (422, "not_an_image")),
        ({"file": bytes(200_001)}, (413, "too_large")),
        ({"file": b""}, (400, "empty")),
        ({"image": b"another one"}, (400, "too_many_images")),
        ({"frame": "2"}, (400, "bad_option")),
    ],
)
def test_an_invalid_form_is_refused(make_client, picture, tmp_path, change, expected):
    form = {"file": picture(), "label": "normal"} | change
    for name, value in form.items():
        if isinstance(value, bytes):
            form[name] = (io.BytesIO(value), NAME)
    assert error_of(make_client().post("/feedback", data=form)) == expected
    assert not (tmp_path / "feedback").exists()


def test_other_bodies_and_a_server_without_feedback_are_refused(make_client, picture, tmp_path):
    image = picture()
    response = make_client().post("/feedback", data=image, content_type="image/png")
    assert error_of(response) == (415, "unsupported_type")
    assert error_of(send(make_client(feedback_dir=None), image)) == (404, "feedback_off")


def test_the_disk_is_limited_and_may_fail(make_client, picture, tmp_path):
    client = make_client(max_feedback_bytes=1000)
    assert send(client, picture(255)).status_code == 201
    assert error_of(send(client, picture(0, kind="BMP"))) == (507, "feedback_full")
    assert send(client, picture(255)).status_code == 200
    (tmp_path / "file").touch()
    failing = make_client(feedback_dir=tmp_path / "file")
    response = send(failing, picture(255))
    assert error_of(response) == (507, "storage_error")
    assert str(tmp_path) not in response.text


@pytest.mark.parametrize("may", [False, True])
def test_with_tokens_feedback_needs_a_right(make_client, picture, monkeypatch, may):
    shown = {}
    monkeypatch.setattr(routes, "render_template", lambda name, **content: shown | content)
    token, entry = create_token("someone", may_give_feedback=may)
    client = make_client(token, entry)
    expected = (201, None) if may else (403, "no_right")
    response = send(client, picture())
    assert (response.status_code, response.json.get("error", {}).get("code")) == expected
    assert client.get("/").json["feedback"] is may
    anonymous = make_client(entry=entry)
    assert error_of(send(anonymous, picture())) == (401, "token_needed")
    for settings, expected in (({}, True), ({"feedback_dir": None}, False)):
        assert make_client(**settings).get("/").json["feedback"] is expected


def test_feedback_holds_a_slot_as_a_prediction_does(make_client, picture):
    client = make_client(max_concurrent_requests=1, max_queued_requests=0)
    limiter = client.application.extensions["concurrency_limiter"]
    with limiter.slot(lambda: None):
        assert error_of(send(client, picture())) == (503, "busy")
    limited = make_client(rate_limit="1/minute")
    assert [send(limited, picture()).status_code for _ in range(2)] == [201, 429]
