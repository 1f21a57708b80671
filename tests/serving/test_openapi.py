import base64
import re

import pytest
from jsonschema import Draft202012Validator

from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.serving.app import create_app
from cnnClassifier.serving.tokens import new_token, read_tokens

# Pages for people, and forms: no part of the API.
PAGES = {
    "/",
    "/about",
    "/about/model-card",
    "/about/data-report",
    "/docs",
    "/openapi.json",
    "/session",
    "/session/end",
}


@pytest.fixture(scope="module")
def app(tiny_bundle):
    return create_app(
        ServingConfig(
            bundle_dir=tiny_bundle,
            host="127.0.0.1",
            port=0,
            max_upload_bytes=200_000,
            max_pixels=1_000_000,
        )
    )


@pytest.fixture(scope="module")
def document(app):
    return app.test_client().get("/openapi.json").json


def references(content):
    if isinstance(content, dict):
        if "$ref" in content:
            yield content["$ref"]
        for value in content.values():
            yield from references(value)
    elif isinstance(content, list):
        for value in content:
            yield from references(value)


def test_every_route_is_described_and_no_other(app, document):
    rules = {
        re.sub("<(.*?)>", r"{\1}", rule.rule)
        for rule in app.url_map.iter_rules()
        if rule.endpoint != "static"
    }
    assert set(document["paths"]) == rules - PAGES - {"/train"} | {"/train"}
    for path, item in document["paths"].items():
        for method in set(item) & {"get", "post"}:
            assert {"401", "429"} <= set(item[method]["responses"]) or path in ("/livez", "/readyz")
    identifiers = [
        item[m]["operationId"]
        for item in document["paths"].values()
        for m in ("get", "post")
        if m in item
    ]
    assert len(set(identifiers)) == len(identifiers)
    names = {reference.rpartition("/")[2] for reference in references(document)}
    assert names == set(document["components"]["schemas"])


def test_answers_are_what_the_document_says(app, document, picture):
    client = app.test_client()
    answers = {
        "Answers": client.post(
            "/predict?map=1&preview=1", data=picture(), content_type="image/png"
        ),
        "Model": client.get("/model"),
        "Ready": client.get("/readyz"),
        "Live": client.get("/livez"),
        "Examples": client.get("/examples"),
        "Problem": client.get("/nothing"),
    }
    for name, answer in answers.items():
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        Draft202012Validator(schema).validate(answer.json)


def test_tokens_stand_in_it_where_they_are_needed(tmp_path, document):
    token, entry = new_token("a", False)
    client = create_app(
        ServingConfig(
            bundle_dir=tmp_path, host="127.0.0.1", port=0, max_upload_bytes=1, max_pixels=1
        ),
        tokens=read_tokens(entry),
    ).test_client()
    secured = client.get("/openapi.json", headers={"Authorization": f"Bearer {token}"}).json
    assert (document["security"], secured["security"]) == ([], [{"token": []}, {"session": []}])
    assert secured["paths"]["/livez"]["get"]["security"] == []
    page = client.get("/docs", headers={"Authorization": f"Bearer {token}"}).text
    assert "This server wants a token" in page


def test_the_page_shows_all_of_it_without_script(app, document):
    page = app.test_client().get("/docs")
    assert page.mimetype == "text/html"
    for path, item in document["paths"].items():
        assert f"<code>{path}</code>" in page.text
        for method in set(item) & {"get", "post"}:
            assert all(
                f'scope="row">{status}<' in page.text for status in item[method]["responses"]
            )
    assert "curl -F file=@slice.png http://localhost/predict" in page.text
    assert not re.search(r"<script|<style|\sstyle=|\son\w+=|\{\{|\{%|undefined", page.text)


CHECKED = 50  # cases of each operation and kind


@pytest.mark.slow
def test_schemathesis_finds_nothing_that_the_document_does_not_say(app, picture):
    import hypothesis
    import schemathesis
    from hypothesis import strategies
    from schemathesis.checks import load_all_checks, not_a_server_error
    from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

    load_all_checks()
    schema = schemathesis.openapi.from_wsgi("/openapi.json", app)
    image = base64.b64encode(picture()).decode()
    seen = set()

    def check(case, real):
        # What a schema can't say: which bytes are an image. So that some cases get through, some have one.
        if real and isinstance(case.body, dict) and case.media_type == "application/json":
            case.body = {**case.body, "image": image}
        excluded = [positive_data_acceptance]
        if real or case.media_type == "multipart/form-data":  # a file among others may be broken
            excluded.append(negative_data_rejection)
        response = case.call()
        seen.add((case.path, response.status_code))
        if (
            response.status_code == 413
        ):  # too many images: the document's status for it, not the checker's
            excluded.append(negative_data_rejection)
        if response.status_code in (501, 503):
            excluded.append(not_a_server_error)
        case.validate_response(response, excluded_checks=excluded)

    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in schemathesis.GenerationMode:
            settings = hypothesis.settings(
                max_examples=CHECKED * (4 if operation.path == "/predict" else 1),
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            cases = operation.as_strategy(generation_mode=mode)
            try:
                settings(hypothesis.given(cases, strategies.booleans())(check))()
            except hypothesis.errors.Unsatisfiable:
                assert (
                    mode is schemathesis.GenerationMode.NEGATIVE
                )  # nothing to get wrong: no parameter, no body
    assert {200, 400, 422} <= {status for path, status in seen if path == "/predict"}
    assert {status for _, status in seen if status >= 500} <= {501, 503}
    assert {path for path, _ in seen} == set(schema.raw_schema["paths"])
