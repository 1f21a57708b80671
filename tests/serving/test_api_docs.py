import base64
import io
import re

import pytest
from jsonschema import Draft202012Validator

from cnnClassifier.serving.app import create_app
from cnnClassifier.serving.auth import create_token, parse_tokens
from tests.serving.client import make_config

# Pages and forms are no part of the API.
PAGES = {
    *(
        "/",
        "/about",
        "/about/{name}",
        "/docs",
        "/drift",
        "/openapi.json",
        "/session",
        "/session/end",
    ),
    "/static/{filename}",
}
ALIASES = {"/v1/predict", "/health"}
IMPLICIT_METHODS = {"HEAD", "OPTIONS"}
MAX_EXAMPLES = 50  # of each operation and kind


@pytest.fixture(scope="module")
def config(tiny_bundle, tmp_path_factory):
    return make_config(tiny_bundle, feedback_dir=tmp_path_factory.mktemp("feedback"))


@pytest.fixture(scope="module")
def app(config):
    return create_app(config)


@pytest.fixture(scope="module")
def document(app):
    return app.test_client().get("/openapi.json").json


def operations(document):
    for path, item in document["paths"].items():
        for method in item.keys() & {"get", "post"}:
            yield path, method, item[method]


def test_every_route_method_and_parameter_is_described(app, document):
    routes = set()
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:.*:)?(\w+)>", r"{\1}", rule.rule)
        for method in rule.methods - IMPLICIT_METHODS if path not in PAGES else ():
            routes.add((path, method.lower()))
    described = {(path, method) for path, method, _ in operations(document)}
    assert described == routes
    for path, _, operation in operations(document):
        expected = {"403", "421", "500"} if operation.get("security") == [] else {"401", "429"}
        assert expected <= operation["responses"].keys(), path
        parameters = document["paths"][path].get("parameters", [])
        in_path = {parameter["name"] for parameter in parameters if parameter["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path))


def test_the_limits_are_those_of_the_server(config, document):
    changed = create_app(
        config.model_copy(update={"max_images": 3, "max_upload_bytes": 12_345})
    ).test_client()
    for found, images, size in (
        (document, 32, "200,000"),
        (changed.get("/openapi.json").json, 3, "12,345"),
    ):
        assert found["components"]["schemas"]["Images"]["maxItems"] == images
        assert size in found["paths"]["/predict"]["post"]["requestBody"]["description"]
        assert "Not a medical device" in found["info"]["description"]


def test_responses_match_their_schemas(app, document, picture):
    client = app.test_client()
    predict = "/predict?map=1&preview=1"
    body = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    example = body["examples"]["one"]["value"]
    form = {"file": [(io.BytesIO(picture()), "a/1.png"), (io.BytesIO(b"x"), "a/2")], "series": "1"}
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [example["image"]]}
    responses = {
        "Results": client.post(predict, data=picture(), content_type="image/png"),
        "Model": client.get("/model"),
        "Ready": client.get("/readyz"),
        "Live": client.get("/livez"),
        "SeriesResults": client.post("/predict", data=form),
        "Invocations": client.post("/invocations", json={"inputs": [example["image"]]}),
        "Inference": client.post("/v2/models/chest-ct/infer", json={"inputs": [tensor]}),
        "ModelMetadata": client.get("/v2/models/chest-ct"),
        "ModelReady": client.get("/v2/models/chest-ct/ready"),
        "ServerMetadata": client.get("/v2"),
        "ServerReady": client.get("/v2/health/ready"),
        "ServerLive": client.get("/v2/health/live"),
        "InferenceError": client.get("/v2/models/other"),
        "Examples": client.get("/examples"),
        "Error": client.get("/nothing"),
        "Feedback": client.post(
            "/feedback", data={"file": (io.BytesIO(picture()), "a.png"), "label": "normal"}
        ),
    }
    one = client.post("/predict", json=example)
    assert one.status_code == 200
    for name, response in [*responses.items(), ("Results", one)]:
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        Draft202012Validator(schema).validate(response.json)


def test_token_requirements_are_described(config, document):
    token, entry = create_token("a", False)
    client = create_app(config, tokens=parse_tokens(entry)).test_client()
    headers = {"Authorization": f"Bearer {token}"}
    secured = client.get("/openapi.json", headers=headers).json
    assert (document["security"], secured["security"]) == ([], [{"token": []}, {"session": []}])
    assert secured["paths"]["/livez"]["get"]["security"] == []
    train = [content["paths"]["/train"]["post"]["security"] for content in (document, secured)]
    assert train == [[], [{"token": []}]]  # a cookie isn't enough
    assert "This server requires a token" in client.get("/docs", headers=headers).text


def test_the_page_shows_the_description_without_script(app, document):
    page = app.test_client().get("/docs")
    assert page.mimetype == "text/html"
    for path, _, operation in operations(document):
        assert f"<code>{path}</code>" in page.text
        for status in operation["responses"]:
            assert f'scope="row">{status}<' in page.text
    assert "curl -F file=@image.png http://localhost/predict" in page.text
    text = re.sub(r'<script type="module" src="[\w/.]+"></script>', "", page.text)
    assert not re.search(r"<script|<style|\sstyle=|\son\w+=|\{\{|\{%|undefined", text)


@pytest.mark.slow
def test_schemathesis_finds_no_undocumented_response(app, picture):
    import hypothesis
    import schemathesis
    from hypothesis import strategies
    from schemathesis.checks import load_all_checks, not_a_server_error
    from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

    load_all_checks()
    schema = schemathesis.openapi.from_wsgi("/openapi.json", app)
    image = base64.b64encode(picture()).decode()
    found = set()

    def check(case, use_image):
        # A schema can't describe which bytes are an image: some cases get a valid one.
        if use_image and isinstance(case.body, dict) and case.media_type == "application/json":
            case.body = {**case.body, "image": image}
        excluded = [positive_data_acceptance]
        response = case.call()
        found.add((case.path, response.status_code))
        # A form may hold an invalid file beside valid ones; too many images are documented as 413.
        if use_image or case.media_type == "multipart/form-data" or response.status_code == 413:
            excluded.append(negative_data_rejection)
        if response.status_code in (501, 503):
            excluded.append(not_a_server_error)
        case.validate_response(response, excluded_checks=excluded)

    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path in ALIASES:
            continue
        settings = hypothesis.settings(
            max_examples=MAX_EXAMPLES * (4 if operation.path == "/predict" else 1),
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        for mode in schemathesis.GenerationMode:
            cases = operation.as_strategy(generation_mode=mode)
            try:
                settings(hypothesis.given(cases, strategies.booleans())(check))()
            except hypothesis.errors.Unsatisfiable:
                # Without parameters and body there is nothing to make invalid.
                assert mode is schemathesis.GenerationMode.NEGATIVE
    assert {200, 400, 422} <= {status for path, status in found if path == "/predict"}
    assert {status for _, status in found if status >= 500} <= {501, 503}
    assert {path for path, _ in found} == set(schema.raw_schema["paths"]) - ALIASES
