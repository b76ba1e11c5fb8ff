"""lmms-eval and VLMEvalKit evaluate a served model: their requests, letter by letter, and how they read the answers.

Sources: lmms_eval 0.7.3 (models/chat/openai.py, protocol.py, models/model_utils/concurrency_control.py) and VLMEvalKit
(vlmeval/api/openai_sdk.py, vlmeval/api/lmdeploy.py, run.py).
"""

from __future__ import annotations

import base64
import io
import json

import pytest
import requests
from documentation import EVALUATION as PAGES
from documentation import blocks
from fake_backend import FakeBackend
from live_server import fake_server
from PIL import Image

from paddlemix.serve.errors import ApiError

openai = pytest.importorskip("openai")


def data_uri(kind: str, color: int) -> str:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (color, 0, 0)).save(file, kind.upper())
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def lmms_request(*parts: dict, **generation) -> dict:
    """Return what lmms-eval passes to the client of OpenAI for a question."""
    payload = {
        "messages": [{"role": "user", "content": list(parts)}],
        "model": "tiny",
        "max_tokens": generation.pop("max_new_tokens", 1024),
        "temperature": generation.pop("temperature", 0),
    }
    return payload | generation


def lmms_image(color: int) -> dict:
    return {"type": "image_url", "image_url": {"url": data_uri("png", color)}}


def text(value: str) -> dict:
    return {"type": "text", "text": value}


def vlmevalkit_image(color: int, **extra) -> dict:
    return {"type": "image_url", "image_url": {"url": data_uri("jpeg", color), **extra}}


def vlmevalkit_post(address: str, content: list[dict], *, system: str | None = None, stream: bool = False, **sampling):
    """Send a question as VLMEvalKit does."""
    messages = [{"role": "system", "content": system}] if system is not None else []
    payload = {"model": "tiny", "messages": [*messages, {"role": "user", "content": content}], "n": 1, **sampling}
    headers = {"Content-Type": "application/json", "Authorization": "Bearer sk-123456"}
    payload |= {"stream": True} if stream else {}
    url = f"{address}/v1/chat/completions"
    return requests.post(url, headers=headers, data=json.dumps(payload), timeout=30, stream=stream)


@pytest.fixture(scope="module")
def server():
    with fake_server() as (address, backend):
        yield address, backend


@pytest.fixture
def client(server):
    with openai.OpenAI(api_key="none", base_url=f"{server[0]}/v1") as client:
        yield client


def test_a_question_of_lmms_eval_is_greedy_with_the_image_before_the_text(server, client):
    answer = client.chat.completions.create(
        **lmms_request(lmms_image(1), text("How many? Answer with one word."), max_new_tokens=16)
    )
    job = server[1].jobs[-1]
    assert job.messages[-1].pieces == ("", "\nHow many? Answer with one word.") and len(job.images) == 1
    assert job.images[0].data.startswith(b"\x89PNG") and not job.images[0].is_low_detail
    assert (job.sampling.temperature, job.sampling.max_new_tokens, job.sampling.stop) == (0, 16, ())
    assert isinstance(answer.choices[0].message.content, str)
    assert answer.usage.prompt_tokens > 0 and answer.usage.completion_tokens > 0


def test_questions_of_lmms_eval_with_several_images_turns_and_sampling_arrive_as_meant(server, client):
    request = lmms_request(text("a"), lmms_image(1), text("b"), lmms_image(2), max_new_tokens=4096, temperature=0.7)
    request["messages"].insert(0, {"role": "system", "content": [text("Be brief.")]})
    request["messages"] += [{"role": "assistant", "content": [text("c")]}, {"role": "user", "content": [text("d")]}]
    request |= {"top_p": 0.9, "seed": 3, "presence_penalty": 0.0, "frequency_penalty": 0.5, "n": 2}
    assert len(client.chat.completions.create(**request).choices) == 2
    job = server[1].jobs[-1]
    assert [message.role for message in job.messages] == ["system", "user", "assistant", "user"]
    assert job.messages[1].pieces == ("a\n", "\nb\n", "") and len(job.images) == 2
    sampling = job.sampling
    assert (sampling.temperature, sampling.top_p, sampling.seed, sampling.frequency_penalty) == (0.7, 0.9, 3, 0.5)
    assert sampling.max_new_tokens == 4096 and job.num_answers == 2  # more than fits: what is left of the context


def test_names_for_which_lmms_eval_leaves_out_the_temperature_are_warned_of():
    for page in PAGES:
        for name in ("o1", "o3", "o4", "gpt-5"):
            assert f"`{name}`" in page.read_text(encoding="utf-8"), (page.name, name)


def test_a_full_server_is_recognized_by_lmms_eval_and_its_client_waits_as_told():
    error = ApiError(429, "64 requests wait", code="queue_full", headers={"Retry-After": "1"})
    with (
        fake_server(FakeBackend(answer_error=error)) as (address, _),
        openai.OpenAI(api_key="none", base_url=f"{address}/v1", max_retries=0) as client,
        pytest.raises(openai.RateLimitError) as caught,
    ):
        client.chat.completions.create(**lmms_request(text("a")))
    assert "429" in str(caught.value)  # as is_rate_limit_error finds it
    assert caught.value.response.headers["Retry-After"] == "1"


@pytest.mark.parametrize("extra", [{}, {"detail": "high"}, {"max_dynamic_patch": 6, "min_pixels": 4}])
def test_a_question_of_vlmevalkit_is_answered(server, extra):
    address, backend = server
    content = [vlmevalkit_image(1, **extra), text("Question: a?\nOptions:\nA. b\nPlease select the correct answer.\n")]
    response = vlmevalkit_post(address, content, temperature=0.0, max_tokens=32768)
    assert response.status_code == 200 and json.loads(response.text)["choices"][0]["message"]["content"].strip()
    job = backend.jobs[-1]
    assert job.images[0].data.startswith(b"\xff\xd8") and job.messages[-1].pieces[1].startswith("\nQuestion: a?")
    assert (job.sampling.temperature, job.sampling.max_new_tokens) == (0, 32768)


def test_vlmevalkit_streams_and_sends_further_settings(server):
    address, backend = server
    options = {"temperature": 0.0, "max_tokens": 64, "top_p": 0.9, "top_k": 5, "repetition_penalty": 1.05}
    whole = vlmevalkit_post(address, [text("a")], system="b", **options)
    response = vlmevalkit_post(address, [text("a")], system="b", stream=True, **options)
    parts = []
    for line in response.iter_lines(decode_unicode=True):
        if line and line.strip().startswith("data:") and line[5:].strip() != "[DONE]":
            choices = json.loads(line[5:]).get("choices", [])
            parts.append((choices[0]["delta"].get("content") or "") if choices else "")
    assert "".join(parts) == whole.json()["choices"][0]["message"]["content"]
    sampling = backend.jobs[-1].sampling
    assert (sampling.top_p, sampling.top_k, sampling.repetition_penalty) == (0.9, 5, 1.05)
    assert backend.jobs[-1].messages[0].pieces == ("b",)


def test_vlmevalkit_finds_the_name_of_the_model(server):
    # LMDeployAPI asks for it.
    assert requests.get(f"{server[0]}/v1/models", timeout=10).json()["data"][0]["id"] == "tiny"


def test_the_page_on_evaluation_has_a_command_of_each_toolkit():
    (commands,) = (block for block in blocks(PAGES[0], "bash") if "lmms_eval" in block)
    for words in ("paddlemix serve --model-path", "--model openai", "base_url=http://127.0.0.1", "--base-url http://"):
        assert words in commands
