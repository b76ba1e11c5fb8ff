"""The OpenAPI description: true for what is answered, and no request that it describes, or nearly, is a 500."""

from __future__ import annotations

import io
import sys
import time

import pytest
import urllib3
from live_server import fake_server, question
from PIL import Image

SECONDS = 60  # of the run of schemathesis, which needs five
MAX_EXAMPLES = 8  # of each operation


@pytest.fixture(scope="module")
def address():
    with fake_server(api_keys=("secret",)) as (address, _):
        yield address


@pytest.fixture(scope="module")
def document(address):
    return urllib3.request("GET", address + "/openapi.json").json()


def test_all_paths_are_described_with_their_errors_and_the_key(document):
    assert set(document["paths"]) == {
        *("/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/{model}", "/v1/status"),
        *("/v1/image_tokens", "/health", "/ready", "/metrics"),
    }
    chat = document["paths"]["/v1/chat/completions"]["post"]
    assert set(chat["responses"]) == {"200", "400", "401", "403", "404", "408", "413", "429", "500", "503", "504"}
    assert chat["security"] == [{"key": []}] and document["servers"] == [{"url": "/", "description": "this server"}]
    request = chat["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    fields = document["components"]["schemas"][request]["properties"]
    assert {"messages", "temperature", "max_completion_tokens", "response_format", "top_k"} <= set(fields)


def test_examples_are_answered(document):
    with fake_server() as (address, backend):
        for path in ("/v1/chat/completions", "/v1/completions"):
            content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
            for example in content["examples"].values():
                assert urllib3.request("POST", address + path, json=example["value"], retries=False).status == 200
        assert Image.open(io.BytesIO(next(job.images[0].data for job in backend.jobs if job.images))).size == (1, 1)


def test_every_reference_leads_somewhere(document):
    schemas = document["components"]["schemas"]

    def check(value):
        if isinstance(value, dict):
            if "$ref" in value:
                assert value["$ref"].rpartition("/")[2] in schemas
            list(map(check, value.values()))
        elif isinstance(value, list):
            list(map(check, value))

    check(document)


def test_answers_and_errors_are_as_described(address, document):
    validation = pytest.importorskip("jsonschema")
    headers = {"Authorization": "Bearer secret"}
    schemas = document["components"]["schemas"]
    for path, body, name in (
        ("/v1/chat/completions", question(logprobs=True), "ChatAnswer"),
        ("/v1/completions", {"prompt": "a"}, "CompletionAnswer"),
        ("/v1/completions", {}, "Error"),
    ):
        answer = urllib3.request("POST", address + path, json=body, headers=headers, retries=False).json()
        validation.validate(answer, {**schemas[name], "components": {"schemas": schemas}})


@pytest.mark.skipif(sys.version_info < (3, 11), reason="schemathesis 4 needs Python 3.11")
def test_generated_requests_are_never_a_500():
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, settings

    statuses, deadline = {}, time.monotonic() + SECONDS
    with fake_server() as (address, _):
        schema = schemathesis.openapi.from_url(address + "/openapi.json")
        for operation in (found.ok() for found in schema.get_all_operations()):

            @settings(
                max_examples=MAX_EXAMPLES,
                deadline=None,
                database=None,
                derandomize=True,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @schemathesis_given(schemathesis, operation)
            def run(case):
                if time.monotonic() < deadline:
                    response = case.call()
                    statuses.setdefault(case.operation.label, []).append(response.status_code)
                    case.validate_response(response, checks=[schemathesis.checks.not_a_server_error])

            run()
    assert len(statuses) == 9 and max(max(found) for found in statuses.values()) < 500
    assert 400 in statuses["POST /v1/chat/completions"] and 400 in statuses["POST /v1/completions"]


def schemathesis_given(schemathesis, operation):
    """Return a decorator that gives a test requests within the description, and requests that break it."""
    from hypothesis import given, strategies

    modes = schemathesis.GenerationMode
    return given(
        case=strategies.one_of(
            operation.as_strategy(generation_mode=modes.POSITIVE), operation.as_strategy(generation_mode=modes.NEGATIVE)
        )
    )
