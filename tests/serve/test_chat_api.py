"""POST /v1/chat/completions: shapes of answers and streams, and what arrives at the backend."""

from __future__ import annotations

import pytest
import urllib3
from fake_backend import FakeBackend, text_of
from live_server import DOT, chunks_of, fake_server, image_part, question

from paddlemix.generate.sampling import Grammar

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server():
    with fake_server() as pair:
        yield pair


@pytest.fixture
def ask(server):
    """Return a function that sends a chat request and returns the answer."""
    address, _ = server
    pool = urllib3.PoolManager(retries=False)
    return lambda **body: pool.request("POST", address + CHAT, json=body)


def test_answer_has_the_shape_of_openai(ask, server):
    answer = ask(**question("Hi")).json()
    assert answer["id"].startswith("chatcmpl-") and answer["object"] == "chat.completion"
    assert answer["model"] == "tiny" and isinstance(answer["created"], int)
    text = text_of(server[1].jobs[-1])
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": text, "refusal": None}
    assert choice["index"] == 0 and choice["finish_reason"] == "stop" and choice["logprobs"] is None
    tokens = (len(text) + 1) // 2
    assert answer["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": tokens,
        "total_tokens": 10 + tokens,
        "prompt_tokens_details": {"cached_tokens": 4},
    }


def test_stream_has_role_first_then_text_then_reason_then_usage_then_done(ask, server):
    response = ask(**question("Hi", stream=True, stream_options={"include_usage": True}))
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache" and response.headers["x-accel-buffering"] == "no"
    *chunks, usage, done = chunks_of(response.data.decode())
    assert done == "[DONE]"
    assert {chunk["id"] for chunk in chunks} == {usage["id"]} and usage["choices"] == []
    assert usage["usage"]["total_tokens"] == usage["usage"]["prompt_tokens"] + usage["usage"]["completion_tokens"]
    assert all(chunk["object"] == "chat.completion.chunk" and chunk["usage"] is None for chunk in chunks)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert choices[-1]["delta"] == {} and choices[-1]["finish_reason"] == "stop"
    assert all(choice["finish_reason"] is None for choice in choices[:-1])
    assert "".join(choice["delta"].get("content", "") for choice in choices) == text_of(server[1].jobs[-1])


def test_stream_without_the_option_has_no_usage(ask):
    *chunks, _ = chunks_of(ask(**question(stream=True)).data.decode())
    assert all("usage" not in chunk for chunk in chunks)


def test_several_answers_have_an_index_each(ask):
    answer = ask(**question(n=3)).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 4  # what was known before the first
    chunks = chunks_of(ask(**question(n=2, stream=True)).data.decode())[:-1]
    for index in (0, 1):
        choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert choices[0]["delta"]["role"] == "assistant" and choices[-1]["finish_reason"] == "stop"


@pytest.mark.parametrize("is_stream", [False, True])
def test_logprobs_have_tokens_bytes_and_alternatives(ask, is_stream):
    response = ask(**question(logprobs=True, top_logprobs=2, stream=is_stream))
    if is_stream:
        choices = [chunk["choices"][0] for chunk in chunks_of(response.data.decode())[:-1]]
        tokens = [token for choice in choices if choice["logprobs"] for token in choice["logprobs"]["content"]]
    else:
        tokens = response.json()["choices"][0]["logprobs"]["content"]
    first = tokens[0]
    assert first["token"] == "he" and first["bytes"] == [104, 101] and first["logprob"] == -0.5
    assert [(one["token"], one["logprob"]) for one in first["top_logprobs"]] == [("t0", -1.0), ("never", -9999.0)]


def test_images_stay_at_their_places_and_typed_marks_stay_text(ask, server):
    parts = [
        {"type": "text", "text": "a <image> b"},
        image_part(),
        image_part(detail="low"),
        {"type": "text", "text": "c"},
    ]
    assert ask(**question(parts)).status == 200
    job = server[1].jobs[-1]
    assert job.messages[-1].pieces == ("a <image> b\n", "\n", "\nc")
    assert [image.is_low_detail for image in job.images] == [False, True]
    assert job.images[0].data == b"\x89PNG\r\n\x1a\n"


def test_image_before_text_is_what_a_chat_session_sends(ask, server):
    from paddlemix.conversation.messages import Message

    ask(**question([image_part(), {"type": "text", "text": "What is this?"}]))
    assert server[1].jobs[-1].messages[-1].pieces == Message.typed("What is this?", 1).pieces


def test_system_texts_come_first_and_neighbors_are_joined(ask, server):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "user", "content": "one\n"},
        {"role": "user", "content": [image_part()]},
        {"role": "assistant", "content": "yes <image>"},
        {"role": "user", "content": "two"},
    ]
    assert ask(messages=messages).status == 200
    sent = server[1].jobs[-1].messages
    assert [(message.role, message.pieces) for message in sent] == [
        ("system", ("Be brief.\nBe kind.",)),
        ("user", ("one\n", "")),
        ("assistant", ("yes <image>",)),
        ("user", ("two",)),
    ]


def test_continued_message_is_the_last_of_the_assistant(ask, server):
    messages = [{"role": "user", "content": "Count"}, {"role": "assistant", "content": "one, two"}]
    assert ask(messages=messages).status == 400
    assert ask(messages=messages, continue_final_message=True).status == 200
    assert server[1].jobs[-1].is_continued


def test_turns_of_a_conversation_have_one_session(ask, server):
    first = question([image_part(), {"type": "text", "text": "What?"}])["messages"]
    ask(messages=first)
    ask(messages=[*first, {"role": "assistant", "content": "A dot."}, {"role": "user", "content": "Sure?"}])
    ask(
        messages=[
            {"role": "user", "content": [image_part(DOT.replace("o=", "oAAAA")), {"type": "text", "text": "What?"}]}
        ]
    )
    same, second, other = server[1].sessions[-3:]
    assert same == second != other


def test_settings_arrive_as_they_were_sent(ask, server):
    ask(
        **question(
            temperature=0,
            top_p=0.5,
            top_k=-1,
            min_p=0.1,
            max_tokens=7,
            max_completion_tokens=5,
            stop="END",
            seed=-1,
            frequency_penalty=1,
            presence_penalty=-1,
            repetition_penalty=1.2,
            logit_bias={"3": 2.5},
            stop_token_ids=[9],
            ignore_eos=True,
            min_tokens=2,
        )
    )
    sampling = server[1].jobs[-1].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0, 0.5, 0, 0.1)
    assert (sampling.max_new_tokens, sampling.min_new_tokens, sampling.stop) == (5, 2, ("END",))
    assert sampling.seed == 2**63 - 1 and sampling.ignore_eos and sampling.stop_ids == (9,)
    assert (sampling.frequency_penalty, sampling.presence_penalty, sampling.repetition_penalty) == (1, -1, 1.2)
    assert sampling.logit_bias == ((3, 2.5),)


def test_formats_become_grammars(ask, server):
    pytest.importorskip("llguidance")  # which checks schemas
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    for sent, expected in ((schema, Grammar('{"type": "object"}')), ({"type": "json_object"}, Grammar())):
        assert ask(**question(response_format=sent)).status == 200
        assert server[1].jobs[-1].sampling.grammar == expected
    refused = ask(**question(response_format=schema, ignore_eos=True))
    assert refused.status == 400 and "ignore_eos" in refused.json()["error"]["message"]


def test_defaults_are_those_of_openai_and_the_rest_of_the_context(ask, server):
    ask(**question(temperature=None, n=None, stop=None))
    sampling = server[1].jobs[-1].sampling
    assert sampling.temperature == 1.0 and sampling.top_p == 1.0 and sampling.seed is None
    assert sampling.max_new_tokens == server[1].info.max_model_len


def test_failure_before_the_first_token_has_its_status_also_in_a_stream(ask):
    for is_stream in (False, True):
        response = ask(**question("fail", stream=is_stream))
        assert response.status == 400 and response.json()["error"]["code"] == "context_length_exceeded"


def test_token_ids_are_returned_if_asked_for(ask):
    answer = ask(**question(return_token_ids=True, max_tokens=3)).json()
    assert answer["choices"][0]["token_ids"] == [0, 1, 2] and answer["choices"][0]["finish_reason"] == "length"


def test_request_id_is_taken_or_made_and_dangerous_ones_are_replaced(server):
    pool, address = urllib3.PoolManager(), server[0]
    given = pool.request("GET", f"{address}/health", headers={"X-Request-Id": "abc-1"})
    assert given.headers["x-request-id"] == "abc-1"
    made = pool.request("GET", f"{address}/health", headers={"X-Request-Id": "a b\tc"})
    assert len(made.headers["x-request-id"]) == 32


def test_backend_that_is_full_answers_429_with_retry_after():
    from paddlemix.serve.errors import ApiError

    error = ApiError(429, "64 requests wait already", code="queue_full", headers={"Retry-After": "7"})
    with fake_server(FakeBackend(answer_error=error)) as (address, _):
        response = urllib3.request("POST", address + CHAT, json=question(), retries=False)
        assert response.status == 429 and response.headers["retry-after"] == "7"
        assert response.json()["error"]["type"] == "rate_limit_error"
        metrics = urllib3.request("GET", address + "/metrics").data.decode()
        assert 'reason="queue_full"} 1.0' in metrics and "finished_reason=" not in metrics  # one event, one counter
