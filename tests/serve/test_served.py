"""A real `paddlemix serve` with the bundled model: each answer equals the command line's, alone and in company."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from PIL import Image, ImageDraw
from served_process import Served, served

from paddlemix.checkpoints.load_both import load_both
from paddlemix.checkpoints.source import open_source
from paddlemix.constants import BUNDLED_MODEL
from paddlemix.generate.sampling import SamplingParams
from paddlemix.generate.session import ChatSession

COLORS = ("red", "blue", "green")
QUESTIONS = ("What is in the image?", "What color is it?", "How many shapes are there?", "Hello", "Why?")
MAX_TOKENS = 8


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served("--max-running", "8", "--max-queue", "64") as server:
        yield server
        assert not [line for line in server.log if "Traceback" in line], "\n".join(server.log)


@pytest.fixture(scope="module")
def parts():
    return load_both(open_source(BUNDLED_MODEL), device="cpu")


def png(color: str, size: tuple[int, int] = (96, 64)) -> bytes:
    """Return the file of a small image with a circle."""
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).ellipse((20, 10, 70, 60), fill=color)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def message(text: str, images: list[bytes]) -> dict[str, Any]:
    """Return a question with its images before it."""
    urls = ["data:image/png;base64," + base64.b64encode(image).decode() for image in images]
    shown = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"role": "user", "content": [*shown, {"type": "text", "text": text}]}


def answers_of(server: Served, body: dict[str, Any]) -> list[str]:
    """Return the answers to a request, of a stream put together from its chunks."""
    status, answer, _ = server.ask({"max_tokens": MAX_TOKENS, **body})
    assert status == 200, answer
    if not body.get("stream"):
        return [choice["message"]["content"] for choice in answer["choices"]]
    texts = [""] * body.get("n", 1)
    lines = [line[6:] for line in answer.split("\n") if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    for line in lines:
        for choice in json.loads(line)["choices"]:
            texts[choice["index"]] += choice["delta"].get("content", "")
    return texts


def session_of(parts, **sampling: Any) -> ChatSession:
    return ChatSession(*parts, sampling=SamplingParams(max_new_tokens=MAX_TOKENS, **sampling))


def test_fifty_mixed_requests_at_once_equal_the_command_line(server, parts):
    images = [png(color) for color in COLORS] + [png("red", (64, 160))]
    asked = []
    for number in range(50):
        shown = [images[(number + step) % len(images)] for step in range(number % 3)]
        sampling = {"temperature": 0.0} if number % 2 else {"temperature": 1.0, "seed": number, "top_p": 0.9}
        asked.append((QUESTIONS[number % len(QUESTIONS)], shown, sampling, number % 4 < 2))

    def ask(case) -> str:
        text, shown, sampling, is_stream = case
        (answer,) = answers_of(server, {"messages": [message(text, shown)], "stream": is_stream, **sampling})
        return answer

    with ThreadPoolExecutor(50) as threads:
        found = list(threads.map(ask, asked))
    for (text, shown, sampling, _), answer in zip(asked, found, strict=True):
        assert answer == session_of(parts, **sampling).ask(text, shown)
    assert len(set(found)) > 10


def test_second_turn_equals_that_of_a_session_and_is_known_by_then(server, parts):
    session, messages = session_of(parts), [{"role": "system", "content": "Be brief."}]
    session.system = "Be brief."
    for text, shown in (("What is in the image?", [png("blue")]), ("What color is it?", []), ("Sure?", [png("red")])):
        messages.append(message(text, shown))
        _, answer, _ = server.ask({"messages": messages, "temperature": 0, "max_tokens": MAX_TOKENS})
        content = answer["choices"][0]["message"]["content"]
        assert content == session.ask(text, shown)
        usage = answer["usage"]
        assert usage["prompt_tokens"] + usage["completion_tokens"] >= session.num_tokens - 1
        messages.append({"role": "assistant", "content": content})
    assert usage["prompt_tokens_details"]["cached_tokens"] > 0


def test_several_answers_have_the_seeds_after_the_first(server, parts):
    body = {"messages": [message("Hello", [])], "n": 3, "seed": 7, "temperature": 1.2}
    expected = [session_of(parts, temperature=1.2, seed=7 + index).ask("Hello") for index in range(3)]
    assert answers_of(server, body) == expected == answers_of(server, {**body, "stream": True})


def test_logprobs_of_a_greedy_answer_are_the_highest_and_spell_it(server):
    body = {"messages": [message("What is this?", [png("red")])], "temperature": 0, "max_tokens": 6}
    _, answer, _ = server.ask({**body, "logprobs": True, "top_logprobs": 3})
    (choice,) = answer["choices"]
    tokens = choice["logprobs"]["content"]
    assert len(tokens) == answer["usage"]["completion_tokens"]
    for token in tokens:
        best, *others = token["top_logprobs"]
        assert token["token"] == best["token"] and len(others) == 2
        assert math.isclose(token["logprob"], best["logprob"], abs_tol=1e-4)
        assert all(other["logprob"] <= best["logprob"] for other in others)
    spelled = b"".join(bytes(token["bytes"]) for token in tokens).decode().strip()
    assert choice["message"]["content"] in spelled


def test_raw_prompt_is_continued_and_echoed(server):
    _, answer, _ = server.ask(
        {"prompt": ["a", "b"], "max_tokens": 3, "temperature": 0, "echo": True}, "/v1/completions"
    )
    assert [choice["text"][0] for choice in answer["choices"]] == ["a", "b"]
    assert answer["usage"]["completion_tokens"] <= 6


def test_prompt_longer_than_the_context_is_refused_with_its_counts(server):
    status, answer, _ = server.ask({"messages": [message("word " * 5000, [png("red")])]})
    error = answer["error"]
    assert status == 400 and error["code"] == "context_length_exceeded"
    limit = server.ask(None, "/v1/models")[1]["data"][0]["max_model_len"]
    assert str(limit) in error["message"] and "image" in error["message"]


def test_json_object_is_parsed_by_a_json_reader(server):
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    schema["additionalProperties"] = False
    body = {"messages": [message("Is it red?", [png("red")])], "temperature": 0, "max_tokens": 60}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    _, answer, _ = server.ask({**body, "response_format": wanted})
    assert set(json.loads(answer["choices"][0]["message"]["content"])) == {"ok"}
