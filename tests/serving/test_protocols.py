"""MLflow's and Triton's protocols. MLflow's client is asked here; Triton's needs other packages."""

import base64
import json
import struct
import threading
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from werkzeug.serving import make_server

import cnnClassifier
from cnnClassifier.serving.app import create_app
from cnnClassifier.serving.mlflow_model import ImageClassifier
from tests.dicoms import dicom, lungs
from tests.serving.client import error_of, make_config

NAME = "chest-ct"
INFER = f"/v2/models/{NAME}/infer"
HEADER = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def app(tiny_bundle):
    app = create_app(make_config(tiny_bundle))
    app.test_client().get("/model")  # loads it
    return app


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture(scope="module")
def images(picture):
    """Two images: an adenocarcinoma and a normal one; their files, base64, pixels, predictions."""
    files = [picture(200), picture(20)]
    texts = [base64.b64encode(file).decode() for file in files]
    pixels = np.stack([np.full((30, 40, 3), level, np.uint8) for level in (200, 20)])
    return SimpleNamespace(files=files, texts=texts, pixels=pixels)


@pytest.fixture(scope="module")
def expected(app, images):
    """The results of /predict."""
    return app.test_client().post("/predict", json={"images": images.texts}).json


def rows_of(results):
    rows = []
    for result in results:
        row = {"class": result["class"], **result["probabilities"]}
        rows.append(row | {"unfamiliar": result["unfamiliar"], "model_id": result["model"]})
    return rows


def test_mlflows_client_gets_what_the_logged_model_predicts(app, images, expected, tiny_bundle):
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        client = ScoringServerClient(server.host, server.port)
        client.ping()
        assert client.get_version() == cnnClassifier.__version__
        found = client.invoke(pd.DataFrame({"image": images.texts})).get_predictions()
        pixels = client.invoke(images.pixels).get_predictions()
    finally:
        server.shutdown()
    logged = ImageClassifier(tiny_bundle).predict(pd.DataFrame({"image": images.files}))
    pd.testing.assert_frame_equal(found, logged, check_dtype=False)
    pd.testing.assert_frame_equal(pixels, logged, check_dtype=False)
    assert found.to_dict("records") == rows_of(expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda images: {
            "dataframe_split": {
                "columns": ["id", "image"],
                "data": list(enumerate(images.texts)),
                "index": [5, 6],
            }
        },
        lambda images: {"dataframe_records": [{"image": text, "n": 1} for text in images.texts]},
        lambda images: {"instances": [{"image": text} for text in images.texts]},
        lambda images: {"instances": images.texts, "params": None},
        lambda images: {"instances": images.pixels.tolist()},
        lambda images: {"instances": [{"image": array.tolist()} for array in images.pixels]},
        lambda images: {"inputs": {"image": images.texts}, "params": {"window": "bone"}},
        lambda images: {"inputs": images.texts, "signature_name": "ignored"},
        lambda images: {"inputs": {"image": images.pixels.tolist()}},
    ],
)
def test_all_forms_of_a_table_give_the_predictions_of_predict(client, images, expected, make):
    response = client.post("/invocations", json=make(images))
    assert response.status_code == 200
    assert response.json["predictions"] == rows_of(expected)
    assert response.json["synthetic"] is True
    assert "Not a medical device" in response.json["disclaimer"]


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        ("[" * 100_000, 400, "bad_json"),
        ([], 400, "missing_image"),
        ({}, 400, "missing_image"),
        ({"inputs": ["aGk="], "instances": ["aGk="]}, 400, "missing_image"),
        ({"inputs": "aGk="}, 400, "missing_image"),
        ({"inputs": {"images": ["aGk="]}}, 400, "missing_image"),
        ({"dataframe_records": [{"x": "aGk="}]}, 400, "missing_image"),
        ({"dataframe_split": {"columns": ["x"], "data": [["aGk="]]}}, 400, "missing_image"),
        ({"dataframe_split": {"columns": ["image"], "data": [[]]}}, 400, "missing_image"),
        ({"dataframe_split": [["aGk="]]}, 400, "missing_image"),
        ({"dataframe_split": {"columns": 0, "data": [["aGk="]]}}, 400, "missing_image"),
        ({"inputs": ["aGk="], "params": [1]}, 400, "missing_image"),
        ({"inputs": ["aGk="], "params": {"frame": 0}}, 400, "bad_option"),
        ({"inputs": []}, 400, "empty"),
        ({"inputs": ["?"]}, 400, "bad_base64"),
        ({"inputs": ["aGk=", 3]}, 400, "bad_tensor"),
        ({"inputs": [[1, 2], [3]]}, 400, "bad_tensor"),
        ({"inputs": [[[[0.5, 0, 0]]]]}, 400, "bad_tensor"),
        ({"inputs": [[[[True, 0, 0]]]]}, 400, "bad_tensor"),
        ({"inputs": [[[[-1, 0, 0]]]]}, 400, "bad_tensor"),
        ({"inputs": [[[[256, 0, 0]]]]}, 400, "bad_tensor"),
        ({"inputs": [[[[10**30, 0, 0]]]]}, 400, "bad_tensor"),
        ({"inputs": [[[[0, 0, 0, 0]]]]}, 400, "bad_tensor"),
        ({"inputs": [[[[]]]]}, 400, "bad_tensor"),
        ({"inputs": [[[0, 0, 0]]]}, 400, "bad_tensor"),
        ({"inputs": ["aGk="]}, 422, "not_an_image"),
        ({"inputs": ["aGk="] * 40}, 413, "too_many_images"),
        ({"inputs": [[0]] * 40}, 413, "too_many_images"),
        ('{"inputs": [[' + ",".join(["[]"] * 100_000) + "]]}", 400, "bad_tensor"),
    ],
)
def test_invalid_tables_are_refused(client, content, status, code):
    body = content if isinstance(content, str) else json.dumps(content)
    response = client.post("/invocations", data=body, content_type="application/json")
    assert error_of(response) == (status, code), response.json


def test_an_image_that_cannot_be_used_fails_the_table(client, images):
    response = client.post("/invocations", json={"inputs": [images.texts[0], "aGk="]})
    assert error_of(response) == (422, "not_an_image")
    assert response.json["error"]["message"].startswith("image 1: not a PNG")
    response = client.post("/invocations", data=images.files[0], content_type="image/png")
    assert error_of(response) == (415, "unsupported_type")


@pytest.mark.parametrize("part", ["[]", "{}", '""'])
def test_json_of_very_many_parts_is_refused_before_it_is_parsed(client, monkeypatch, part):
    monkeypatch.setattr("cnnClassifier.serving.predict._MAX_JSON_PARTS", 100)
    body = '{"inputs": [' + ",".join([part] * 101) + "]}"
    for path in ("/invocations", "/predict"):
        response = client.post(path, data=body, content_type="application/json")
        assert error_of(response) == (413, "too_large")
    assert client.post(INFER, data=body).json["code"] == "too_large"


def tensor(data, datatype="BYTES", shape=None, **more):
    """Return an input; with `data` None its bytes follow the JSON."""
    content = {"name": "image", "datatype": datatype, "shape": shape or [len(data)], "data": data}
    return content | more


def infer(client, *inputs, binary=b"", **content):
    """Send an inference request, with binary tensors after the JSON if there are any."""
    header = json.dumps({"inputs": inputs, **content}).encode()
    headers = {HEADER: str(len(header))} if binary else {}
    return client.post(INFER, data=header + binary, headers=headers)


def as_strings(values):
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def read_outputs(response):
    """Return JSON and output tensors of a response, as Triton's client reads them."""
    length = int(response.headers.get(HEADER, len(response.data)))
    content, rest = json.loads(response.data[:length]), response.data[length:]
    outputs = {}
    for output in content.pop("outputs"):
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            values = output["data"]
        elif output["datatype"] == "BYTES":
            values = []
            raw = rest[:size]
            while raw:
                end = 4 + struct.unpack("<I", raw[:4])[0]
                values.append(raw[4:end].decode())
                raw = raw[end:]
        else:
            dtype = {"FP32": "<f4", "BOOL": bool}[output["datatype"]]
            values = np.frombuffer(rest[:size], dtype).tolist()
        rest = rest[size or 0 :]
        outputs[output["name"]] = np.array(values).reshape(output["shape"])
    assert not rest
    return content, outputs


@pytest.mark.parametrize("binary_output", [False, True])
@pytest.mark.parametrize("kind", ["base64", "column", "binary", "flat", "nested", "raw"])
def test_inference_gives_the_predictions_of_predict(client, images, expected, kind, binary_output):
    pixels, shape = images.pixels, list(images.pixels.shape)
    strings = as_strings(images.files)

    def in_binary(data, **more):
        return tensor(None, parameters={"binary_data_size": len(data)}, **more)

    inputs, binary = {
        "base64": (tensor(images.texts), b""),
        "column": (tensor([[text] for text in images.texts], shape=[2, 1]), b""),
        "binary": (in_binary(strings, shape=[2]), strings),
        "flat": (tensor(pixels.ravel().tolist(), "UINT8", shape), b""),
        "nested": (tensor(pixels.tolist(), "UINT8", shape), b""),
        "raw": (in_binary(pixels.tobytes(), datatype="UINT8", shape=shape), pixels.tobytes()),
    }[kind]
    parameters = {"binary_data_output": binary_output}
    response = infer(client, inputs, binary=binary, id="a-7", parameters=parameters)
    assert response.status_code == 200, response.text
    assert (HEADER in response.headers) is binary_output
    content, outputs = read_outputs(response)
    assert (content["model_name"], content["id"]) == (NAME, "a-7")
    assert content["parameters"]["model"] == expected[0]["model"]
    assert "Not a medical device" in content["parameters"]["disclaimer"]
    assert outputs["class"].tolist() == [result["class"] for result in expected]
    names = outputs["class_names"].tolist()
    rows = [[result["probabilities"][name] for name in names] for result in expected]
    assert outputs["probabilities"] == pytest.approx(np.array(rows), abs=1e-7)
    for name in ("uncertain", "unfamiliar"):
        assert outputs[name].tolist() == [result[name] for result in expected]


def test_requested_outputs_come_in_their_order_and_form(client, images):
    outputs = [
        {"name": "unfamiliar", "parameters": {"binary_data": False}},
        {"name": "probabilities"},
        {"name": "class", "parameters": {"binary_data": True}},
    ]
    response = infer(client, tensor(images.texts), outputs=outputs)
    length = int(response.headers[HEADER])
    found = json.loads(response.data[:length])["outputs"]
    assert [output["name"] for output in found] == ["unfamiliar", "probabilities", "class"]
    assert ["data" in output for output in found] == [True, True, False]


@pytest.mark.parametrize(
    ("inputs", "status", "code"),
    [
        ([], 400, "bad_inference"),
        ([tensor(["aGk="])] * 2, 400, "bad_inference"),
        ([tensor(["aGk="], name="x")], 400, "bad_inference"),
        ([tensor(["aGk="], "FP32")], 400, "bad_inference"),
        ([tensor(["aGk="], shape=[0])], 400, "bad_inference"),
        ([tensor(["aGk="], shape=[1] * 5)], 400, "bad_inference"),
        ([tensor(["aGk="], shape=["1"])], 400, "bad_inference"),
        ([tensor(["aGk="], shape=[2])], 400, "bad_tensor"),
        ([tensor([7])], 400, "bad_tensor"),
        ([tensor([[[["a"]], "b"], "c"])], 400, "bad_tensor"),
        ([tensor(["aGk="], parameters={"binary_data_size": 3})], 400, "bad_tensor"),
        ([tensor(None, shape=[1])], 400, "bad_tensor"),
        ([tensor([1, 2, 3], "UINT8", [3])], 400, "bad_tensor"),
        ([tensor([1, 2, 3], "UINT8", [1, 1, 1, 1])], 400, "bad_tensor"),
        ([tensor([1, 2, 3, 4], "UINT8", [1, 2, 2, 1])], 400, "bad_tensor"),
        ([tensor([1, 2, 300], "UINT8", [1, 1, 1, 3])], 400, "bad_tensor"),
        ([tensor(["x" * 9999, *[1] * 2], "UINT8", [1, 1, 1, 3])], 400, "bad_tensor"),
        ([tensor([""] * 40)], 413, "too_many_images"),
        ([tensor([1], "UINT8", [10**18, 1, 1, 3])], 413, "too_many_images"),
        ([tensor(["?"])], 400, "bad_base64"),
        ([tensor([""])], 400, "empty"),
        ([tensor(["aGk="])], 422, "not_an_image"),
    ],
)
def test_invalid_tensors_are_refused_with_a_text(client, inputs, status, code):
    response = infer(client, *inputs)
    assert (response.status_code, response.json["code"]) == (status, code), response.json
    assert 0 < len(response.json["error"]) < 300


@pytest.mark.parametrize("length", ["-1", "x", "²", "9" * 5000, "3", "99999"])
def test_a_wrong_header_length_is_refused(client, images, length):
    body = json.dumps({"inputs": [tensor(images.texts)]})
    response = client.post(INFER, data=body, headers={HEADER: length})
    assert response.status_code == (200 if length == "99999" else 400)


@pytest.mark.parametrize("binary", [b"\x05\x00\x00\x00abc", b"\x00\x00", b"\x00" * 400])
def test_wrong_lengths_in_binary_strings_are_refused(client, binary):
    parameters = {"binary_data_size": len(binary)}
    response = infer(client, tensor(None, shape=[1], parameters=parameters), binary=binary)
    assert (response.status_code, response.json["code"]) == (400, "bad_tensor")


def test_parameters_choose_the_window_of_a_dicom_file(client):
    file = dicom(lungs(side=32))
    text = base64.b64encode(file).decode()
    found = {}
    for window in ("lung", "bone"):
        form = client.post(f"/predict?window={window}", data=file, content_type="application/dicom")
        response = infer(client, tensor([text]), parameters={"window": window})
        table = client.post("/invocations", json={"inputs": [text], "params": {"window": window}})
        found[window] = form.json[0]["probabilities"]["normal"]
        assert read_outputs(response)[1]["probabilities"][0, 1] == pytest.approx(found[window])
        assert table.json["predictions"][0]["normal"] == found[window]
    assert found["lung"] != found["bone"]


def test_metadata_and_health_are_those_of_the_protocol(client, tmp_path):
    assert client.get("/v2").json["extensions"] == ["binary_tensor_data"]
    metadata = client.get(f"/v2/models/{NAME}").json
    assert metadata["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    outputs = {output["name"]: output for output in metadata["outputs"]}
    assert outputs["probabilities"]["shape"] == [-1, 2]
    paths = ("/ping", "/health", "/v2/health/ready", f"/v2/models/{NAME}/ready")
    without = create_app(make_config(tmp_path)).test_client()
    for path in paths:
        assert client.get(path).status_code == 200
        assert without.get(path).status_code == 503
    assert without.get("/v2/health/live").json == {"live": True}
    assert without.get(paths[-1]).json["code"] == "no_model"
    for path in ("/v2/models/other", "/v2/models/other/ready"):
        response = client.get(path)
        assert (response.status_code, response.json["code"]) == (404, "no_such_model")
    response = client.get("/v2/repository/index")
    assert response.status_code == 404
    assert isinstance(response.json["error"], str)


def test_v1_predict_is_predict(client, images, expected):
    found = client.post("/v1/predict", json={"images": images.texts}).json
    assert [result | {"ms": 0} for result in found] == [result | {"ms": 0} for result in expected]


def test_predictions_of_all_protocols_are_counted(tiny_bundle, images):
    client = create_app(make_config(tiny_bundle)).test_client()
    client.post("/invocations", json={"inputs": images.texts})
    infer(client, tensor(images.texts))
    metrics = client.get("/metrics").text
    assert 'predictions_total{class="normal"} 2.0' in metrics
