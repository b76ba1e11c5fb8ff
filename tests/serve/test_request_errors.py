"""Wrong requests: each is a 4xx in OpenAI's shape that names the field, never a 500."""

from __future__ import annotations

import json

import pytest
import urllib3
from live_server import DOT, fake_server, image_part, question
from pydantic import ValidationError

from paddlemix.serve.api.schema import ChatRequest, CompletionRequest

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server():
    with fake_server(max_images=2) as pair:
        yield pair


@pytest.fixture
def send(server):
    """Return a function that sends bytes to a path and returns (status, error)."""

    def send(body=b"", path=CHAT, method="POST", **headers):
        response = urllib3.request(method, server[0] + path, body=body, headers=headers, retries=False)
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"]
        return response.status, error

    return send


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "JSON array"),
        (b'{"messages": "\xff"}', "not UTF-8 at byte 14"),
        (b'{"messages": NaN}', "NaN is not a number"),
        (b'{"temperature": 1e999, "messages": []}', "too large"),
        (b'{"temperature": -Infinity}', "-Infinity"),
        (b'{"seed": ' + b"1" * 5000 + b"}", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"messages": [' + b"[]," * 200_000 + b"0]}", "more than 200000 values"),
        (b"{}", "messages is missing"),
    ],
)
def test_bodies_that_are_no_requests_are_400(send, body, text):
    status, error = send(body)
    assert status == 400 and text in error["message"] and error["type"] == "invalid_request_error"


FIELDS = [
    ({"temperature": 2.5}, "temperature"),
    ({"temperature": "0"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"n": 0}, "n"),
    ({"n": 17}, "n"),
    ({"n": 1.5}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": -1}, "max_completion_tokens"),
    ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
    ({"seed": 2**63}, "seed"),
    ({"stop": ["x"] * 10_000}, "stop"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", 1]}, "stop"),
    ({"stop": "x" * 257}, "stop"),
    ({"stop": {}}, "stop"),
    ({"logprobs": 1}, "logprobs"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"repetition_penalty": 1e-300}, "repetition_penalty"),
    ({"logit_bias": {"a": 1}}, "logit_bias"),
    ({"logit_bias": {"1000": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias"),
    ({"logit_bias": {"1": True}}, "logit_bias"),
    ({"logit_bias": {"1": "2"}}, "logit_bias"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"logit_bias": dict.fromkeys(map(str, range(100_000)), 1)}, "logit_bias"),
    ({"stop_token_ids": [1000]}, "stop_token_ids"),
    ({"stop_token_ids": [-1]}, "stop_token_ids"),
    ({"stop_token_ids": [True]}, "stop_token_ids"),
    ({"stop_token_ids": "1"}, "stop_token_ids"),
    ({"stop_token_ids": ["a"] * 100_000}, "stop_token_ids"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": 1}, "stream_options"),
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"messages": "Hello"}, "messages"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"functions": [{}]}, "functions"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"audio": {}}, "audio"),
    ({"prediction": {}}, "prediction"),
    ({"skip_special_tokens": False}, "skip_special_tokens"),
    ({"add_generation_prompt": False}, "add_generation_prompt"),
    ({"chat_template": "x"}, "chat_template"),
    ({"guided_json": {}}, "guided_json"),
]


def test_pydantic_sees_no_field_of_many_items():
    """It would make an error for each wrong item: a body of 2 MB kept a server busy for seconds."""
    for model in (ChatRequest, CompletionRequest):
        many = [{"messages": ["a"] * 1000, "prompt": [{}] * 1000}, dict.fromkeys(model.model_fields, ["a"] * 1000)]
        wide = {str(index): "a" for index in range(1000)}
        many.append(dict.fromkeys(model.model_fields, wide))
        for value in many:
            try:
                model.model_validate(value)
            except ValidationError as error:
                assert error.error_count() <= 2 * len(model.model_fields)


@pytest.mark.parametrize(("fields", "param"), FIELDS, ids=lambda value: str(value)[:40])
def test_wrong_fields_are_named(send, fields, param):
    status, error = send(json.dumps(question(**fields)))
    assert status == 400 and error["param"] == param and error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ([1], "messages[0]"),
        ([{}], "messages[0].role"),
        ([{"role": "tool", "content": "x"}], "messages[0].role"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": []}], "messages[0].content"),
        ([{"role": "user", "content": [1]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": [{"type": "input_image"}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "image", "source": {}}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0].image_url"),
        ([{"role": "user", "content": [image_part(detail="max")]}], "messages[0].content[0].image_url.detail"),
        ([{"role": "user", "content": "\ud800"}], "messages[0].content"),
        ([{"role": "system", "content": "x"}], "messages"),
        ([{"role": "assistant", "content": "x"}, {"role": "user", "content": "x"}], "messages[0]"),
        ([{"role": "user", "content": "x"}, {"role": "system", "content": "x"}], "messages[1]"),
        ([{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}], "messages[1]"),
        ([{"role": "system", "content": [image_part()]}, {"role": "user", "content": "x"}], "messages[0].content[0]"),
        ([{"role": "assistant", "content": None, "tool_calls": [{}]}], "messages[0].tool_calls"),
        ([{"role": "user", "content": [image_part()] * 3}], "messages"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_wrong_messages_are_named(send, messages, param):
    status, error = send(json.dumps({"messages": messages}))
    assert status == 400 and error["param"] == param


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "/etc/passwd",
        "etc/passwd",
        "ftp://example.com/a.png",
        "http://127.0.0.1/a.png",
        "https://example.com/a.png",
        "",
        "javascript:alert(1)",
        "data:image/png;base64",
        "data:image/png;base64,",
        "data:image/png;base64,@@@@",
        "data:image/png;base64,AAAAA",
        "data:,",
    ],
)
def test_images_that_cannot_be_had_are_refused_and_nothing_is_opened(send, url):
    status, error = send(json.dumps(question([image_part(url)])))
    assert status == 400 and error["param"] == "messages[0].content[0].image_url.url"
    if url.startswith("http"):
        assert "--allow-image-urls" in error["message"]


@pytest.mark.parametrize(
    "url",
    [DOT.rstrip("="), DOT.replace("data:image", "DATA:Image").replace("base64", "BASE64"), DOT[:30] + "\n" + DOT[30:]],
)
def test_data_uris_in_other_spellings_are_read(server, url):
    body = question([{"type": "image_url", "image_url": url}])
    assert urllib3.request("POST", server[0] + CHAT, json=body).status == 200
    assert server[1].jobs[-1].images[0].data == b"\x89PNG\r\n\x1a\n"


def test_typing_error_is_named_with_the_right_field(send):
    status, error = send(json.dumps(question(max_token=5)))
    assert status == 400 and "did you mean 'max_tokens'" in error["message"]
    assert "did you mean 'repetition_penalty'" in send(json.dumps(question(repeat_penalty=1)))[1]["message"]


def test_unknown_fields_are_named_in_a_header(server):
    body = question(user="me", metadata={}, frobnicate=1, **{"x\r\ny": 1})
    response = urllib3.request("POST", server[0] + CHAT, json=body)
    assert response.status == 200 and response.headers["x-ignored-fields"] == "frobnicate"


def test_fields_with_neutral_values_are_accepted(server):
    body = question(
        tools=[], tool_choice="auto", parallel_tool_calls=True, modalities=["text"], store=False, audio=None
    )
    response = urllib3.request("POST", server[0] + CHAT, json=body)
    assert response.status == 200 and "x-ignored-fields" not in response.headers
    assert urllib3.request("POST", server[0] + CHAT, json=question(tools=[{}], tool_choice="none")).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "unknown_path"),
        ("POST", "/v1/responses", 404, "unknown_path"),
        ("GET", "/../../etc/passwd", 404, "unknown_path"),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404, "unknown_path"),
        ("GET", "/v1/models/none", 404, "model_not_found"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("DELETE", "/health", 405, "method_not_allowed"),
        ("GET", "/v1/image_tokens?width=0&height=5", 400, "invalid_value"),
        ("GET", "/v1/image_tokens?width=a&height=5", 400, "invalid_value"),
        ("GET", "/v1/image_tokens?width=5", 400, "invalid_value"),
    ],
)
def test_wrong_paths_and_methods_have_the_same_shape(send, method, path, status, code):
    found, error = send(path=path, method=method)
    assert (found, error["code"]) == (status, code)


def test_wrong_paths_and_methods_name_the_right_ones(send):
    for path in ("/v1", "/chat/completions"):
        message = send(path=path, method="GET")[1]["message"]
        assert f"there is no GET {path}: expected " in message and "{" not in message
        assert "POST /v1/chat/completions" in message and "GET /v1/models," in message
    assert send(path=CHAT, method="GET")[1]["message"] == f"GET {CHAT} is not supported: expected POST"


def test_a_limit_above_the_context_is_named_as_without_effect(server):
    for name in ("max_tokens", "max_completion_tokens"):
        for number, expected in ((server[1].info.max_model_len, None), (1 << 20, name)):
            response = urllib3.request("POST", server[0] + CHAT, json=question(**{name: number}))
            assert response.status == 200 and response.headers.get("x-ignored-fields") == expected


def test_unknown_model_is_404_and_an_empty_one_the_first(send, server):
    status, error = send(json.dumps({**question(), "model": "gpt-4"}))
    assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert urllib3.request("POST", server[0] + CHAT, json={**question(), "model": ""}).json()["model"] == "tiny"


def test_structured_output_without_its_package_says_what_to_install():
    from dataclasses import replace

    from fake_backend import INFO, FakeBackend

    with fake_server(FakeBackend(info=replace(INFO, is_structured_output_known=False))) as (address, _):
        body = question(response_format={"type": "json_object"})
        response = urllib3.request("POST", address + CHAT, json=body, retries=False)
        assert response.status == 400 and "with pip install" in response.json()["error"]["message"]
        assert urllib3.request("POST", address + CHAT, json=question(response_format={"type": "text"})).status == 200
