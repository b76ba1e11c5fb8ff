"""Clients that people use: OpenAI's, LangChain's, and the requests of open-webui."""

from __future__ import annotations

import json

import pytest
import urllib3
from fake_backend import FakeBackend, text_of
from live_server import DOT, chunks_of, fake_server, image_part, question

from paddlemix.serve.errors import ApiError
from paddlemix.serve.protocol import Accepted, Delta, Ended, Failed

openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def server():
    with fake_server(api_keys=("secret",)) as pair:
        yield pair


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server[0] + "/v1", api_key="secret", max_retries=0)


MESSAGES = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, image_part(detail="auto")]}]


def test_openai_client_answers_and_counts(client, server):
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=50, seed=1)
    assert answer.choices[0].message.content == text_of(server[1].jobs[-1])
    assert answer.choices[0].finish_reason == "stop" and answer.usage.prompt_tokens == 586
    assert answer.usage.prompt_tokens_details.cached_tokens == 4 and answer._request_id


def test_openai_client_streams_with_usage(client, server):
    stream = client.chat.completions.create(
        model="tiny", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == text_of(server[1].jobs[-1]) and chunks[-1].usage.total_tokens > 586


def test_openai_client_reads_logprobs_completions_and_models(client):
    answer = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "a"}], logprobs=True, top_logprobs=1, n=2
    )
    assert answer.choices[1].logprobs.content[0].token == "he"
    completion = client.completions.create(model="tiny", prompt=["a", "b"], max_tokens=9, logprobs=1)
    assert [choice.text for choice in completion.choices] == [" (a)", " (b)"]
    assert completion.choices[0].logprobs.text_offset == [0, 2]
    assert [model.id for model in client.models.list()] == ["tiny", "other"]
    assert client.models.retrieve("other").id == "other"


def test_openai_client_takes_extensions_as_extra_body(client, server):
    client.chat.completions.create(model="tiny", messages=MESSAGES, extra_body={"top_k": 3, "min_p": 0.1})
    assert server[1].jobs[-1].sampling.top_k == 3


def test_openai_client_raises_its_own_errors_with_our_texts(client, server):
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=3)
    with pytest.raises(openai.NotFoundError, match="not served here"):
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    stranger = openai.OpenAI(base_url=server[0] + "/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError, match="not one of this server's"):
        stranger.models.list()
    with pytest.raises(openai.NotFoundError, match="there is no POST /v1/responses"):
        client.responses.create(model="tiny", input="Hello")


def test_openai_client_waits_as_long_as_a_full_server_says():
    class Busy(FakeBackend):
        """Is full for the first request."""

        async def answer(self, job, session):
            if not self.sessions:
                self.sessions.append("refused")
                raise ApiError(429, "full", code="queue_full", headers={"Retry-After": "0"})
            async for event in super().answer(job, session):
                yield event

    with fake_server(Busy()) as (address, backend):
        patient = openai.OpenAI(base_url=address + "/v1", api_key="none", max_retries=1)
        answer = patient.chat.completions.create(model="tiny", messages=MESSAGES)
        assert answer.choices[0].message.content and backend.sessions[0] == "refused"


def test_openai_client_raises_the_error_of_a_stream():
    script = [Accepted("x", 1), Delta("x", 0, "a", (1,)), Failed("x", 500, "the process died", code="worker_died")]
    with fake_server(FakeBackend(script=script)) as (address, _):
        client = openai.OpenAI(base_url=address + "/v1", api_key="none", max_retries=0)
        stream = client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match="the process died"):
            list(stream)


@pytest.fixture
def langchain(server):
    """Return a chat model of LangChain."""
    models = pytest.importorskip("langchain_openai")
    return models.ChatOpenAI(model="tiny", base_url=server[0] + "/v1", api_key="secret", max_retries=0)


def test_langchain_invokes_and_streams(langchain, server):
    assert langchain.invoke("Hello").content == text_of(server[1].jobs[-1])
    limited = langchain.bind(max_tokens=3).invoke([("system", "Be brief."), ("user", "Hello")])
    assert limited.response_metadata["finish_reason"] == "length"
    assert "".join(chunk.content for chunk in langchain.stream("Hello")) == text_of(server[1].jobs[-1])


def test_langchain_sends_images(langchain, server):
    from langchain_core.messages import HumanMessage

    data = DOT.partition(",")[2]
    for part in ({"type": "image", "base64": data, "mime_type": "image/png"}, image_part()):
        langchain.invoke([HumanMessage(content=[{"type": "text", "text": "What?"}, part])])
        job = server[1].jobs[-1]
        assert job.messages[-1].pieces == ("What?\n", "") and job.images[0].data.startswith(b"\x89PNG")


def test_langchain_gets_structured_output():
    pytest.importorskip("llguidance")  # which checks schemas
    models = pytest.importorskip("langchain_openai")
    from pydantic import BaseModel

    class Shape(BaseModel):
        """A shape."""

        color: str
        sides: int

    answer = json.dumps({"color": "red", "sides": 3})
    script = [Accepted("x", 1), Delta("x", 0, answer, (1, 2)), Ended("x", 0, "stop", 2)]
    with fake_server(FakeBackend(script=script)) as (address, backend):
        model = models.ChatOpenAI(model="tiny", base_url=address + "/v1", api_key="none", max_retries=0)
        assert model.with_structured_output(Shape).invoke("What shape?") == Shape(color="red", sides=3)
        schema = json.loads(backend.jobs[-1].sampling.grammar.schema)
        assert schema["required"] == ["color", "sides"]


def test_requests_of_open_webui_are_answered(server):
    """The fields that open-webui sends, with an image in each turn of the history."""
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "What?"}, image_part()]},
        {"role": "assistant", "content": "A dot."},
    ]
    body = {
        **question(stream=True, stream_options={"include_usage": True}, temperature=0.7, max_tokens=20),
        "messages": [*turns * 3, {"role": "user", "content": [{"type": "text", "text": "And now?"}, image_part()]}],
        "stop": ["###"],
        "logit_bias": None,
        "user": {"name": "x"},
        "chat_id": "1",
        "background_tasks": {"title_generation": True},
        "variables": {},
    }
    headers = {"Authorization": "Bearer secret"}
    response = urllib3.request("POST", server[0] + "/v1/chat/completions", json=body, headers=headers)
    *chunks, usage, done = chunks_of(response.data.decode())
    assert response.status == 200 and done == "[DONE]" and len(server[1].jobs[-1].images) == 4
    assert usage["usage"]["prompt_tokens"] == 10 + 4 * 576 and chunks[-1]["choices"][0]["finish_reason"]
    assert response.headers["x-ignored-fields"] == "background_tasks, variables"
