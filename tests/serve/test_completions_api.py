"""POST /v1/completions: raw prompts of all kinds, echo, logprobs in the old shape, streams."""

from __future__ import annotations

import json

import pytest
import urllib3
from live_server import chunks_of, fake_server

PATH = "/v1/completions"


@pytest.fixture(scope="module")
def server():
    with fake_server(max_queue=20) as pair:
        yield pair


@pytest.fixture
def ask(server):
    """Return a function that sends a request for completions and returns the answer."""
    pool = urllib3.PoolManager(retries=False)
    return lambda **body: pool.request("POST", server[0] + PATH, body=json.dumps({"max_tokens": 50, **body}))


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("a", [" (a)"]),
        (["a", "b"], [" (a)", " (b)"]),
        ([1, 2, 3], [" 3 ids"]),
        ([[1], [2, 3]], [" 1 ids", " 2 ids"]),
    ],
)
def test_all_kinds_of_prompts_are_answered_in_order(ask, prompt, texts):
    answer = ask(prompt=prompt).json()
    assert answer["object"] == "text_completion" and answer["id"].startswith("cmpl-")
    assert [choice["text"] for choice in answer["choices"]] == texts
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(texts)))
    assert answer["usage"]["prompt_tokens"] == 10 * len(texts)


def test_answers_of_one_prompt_are_neighbors(ask):
    choices = ask(prompt=["a", "b"], n=2).json()["choices"]
    assert [choice["text"] for choice in choices] == [" (a)", " (a)", " (b)", " (b)"]


def test_stream_of_many_prompts_is_complete(ask):
    prompts = [str(number) for number in range(20)]
    *chunks, usage, done = chunks_of(
        ask(prompt=prompts, stream=True, stream_options={"include_usage": True}).data.decode()
    )
    assert done == "[DONE]" and usage["usage"]["prompt_tokens"] == 200
    texts = {}
    for chunk in chunks:
        (choice,) = chunk["choices"]
        assert chunk["object"] == "text_completion" and chunk["usage"] is None
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    assert texts == {index: f" ({prompt})" for index, prompt in enumerate(prompts)}
    assert sum(chunk["choices"][0]["finish_reason"] == "stop" for chunk in chunks) == 20


@pytest.mark.parametrize("is_stream", [False, True])
def test_echo_begins_with_the_prompt(ask, is_stream):
    response = ask(prompt="abc", echo=True, stream=is_stream)
    if is_stream:
        text = "".join(chunk["choices"][0]["text"] for chunk in chunks_of(response.data.decode())[:-1])
    else:
        text = response.json()["choices"][0]["text"]
    assert text == "abc (abc)"


@pytest.mark.parametrize("is_stream", [False, True])
def test_logprobs_have_the_old_shape_with_offsets(ask, is_stream):
    response = ask(prompt="abc", logprobs=1, stream=is_stream)
    if is_stream:
        parts = [chunk["choices"][0]["logprobs"] for chunk in chunks_of(response.data.decode())[:-1]]
        logprobs = {name: [one for part in parts if part for one in part[name]] for name in parts[0]}
    else:
        logprobs = response.json()["choices"][0]["logprobs"]
    assert logprobs["tokens"] == [" (", "ab", "c)"] and logprobs["text_offset"] == [0, 2, 4]
    assert logprobs["token_logprobs"] == [-0.5] * 3
    assert logprobs["top_logprobs"][0] == {"never": -9999.0, " (": -0.5}


def test_default_of_max_tokens_is_that_of_openai(ask, server):
    ask(prompt="a", max_tokens=None)
    assert server[1].jobs[-1].sampling.max_new_tokens == 16


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"prompt": []}, "prompt is empty"),
        ({"prompt": {}}, "JSON object"),
        ({"prompt": ["a", 1]}, "prompt[1] is 1"),
        ({"prompt": [1, "a"]}, "prompt[1] is 'a'"),
        ({"prompt": [[]]}, "prompt[0] is array of 0"),
        ({"prompt": [1000]}, "from 0 to 999"),
        ({"prompt": [-200]}, "from 0 to 999"),
        ({"prompt": [True]}, "prompt[0] is true"),
        ({"prompt": "\ud800"}, "surrogate"),
        ({"prompt": ["a"] * 21}, "at most 20"),
        ({}, "prompt is missing"),
        ({"prompt": "a", "echo": True, "logprobs": 0}, "echo with logprobs"),
        ({"prompt": "a", "suffix": "b"}, "suffix is not supported"),
        ({"prompt": "a", "best_of": 3}, "best_of is not supported"),
        ({"prompt": "a", "logprobs": 21}, "logprobs: input should be less than or equal to 20"),
    ],
)
def test_wrong_requests_are_refused_by_name(ask, fields, text):
    response = ask(**fields)
    assert response.status == 400 and text in response.json()["error"]["message"]


def test_fields_that_change_nothing_are_accepted(ask):
    assert ask(prompt="a", suffix=None, best_of=1, user="me", n=1).status == 200
