"""`paddlemix serve --tensor-parallel 2`: the cards of a worker answer like one, and live and die with it."""

from __future__ import annotations

import base64
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from served_process import Served, children, served, until

from paddlemix import ChatSession, LlavaForConditionalGeneration, LlavaProcessor, SamplingParams
from paddlemix.constants import BUNDLED_MODEL

SECONDS = 120.0  # for a worker to end and to load the model again, on a busy machine
IMAGE = Path(BUNDLED_MODEL).with_name("shapes.png")
QUESTIONS = ("How many shapes are there?", "Which colors do they have?")

if not Path("/proc/self/task").is_dir():
    pytest.skip("the processes of the server are found in /proc", allow_module_level=True)


@pytest.fixture(scope="module")
def server(npu_sim) -> Iterator[Served]:
    environment = {**npu_sim.card_environment(2), "OMP_NUM_THREADS": "1"}
    with served("--device", "npu", "--tensor-parallel", "2", environment=environment) as server:
        yield server
        processes = all_processes(server)
    until(lambda: not any(is_alive(pid) for pid in processes), SECONDS)


def all_processes(server: Served) -> list[int]:
    """Return the worker and its follower; fewer while they are started."""
    workers = server.workers()
    return workers + [pid for worker in workers for pid in children(worker)]


def is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def ask(server: Served, *texts: str, **fields) -> tuple[int, dict]:
    """Ask about the image; texts: questions and answers in turn."""
    image = f"data:image/png;base64,{base64.b64encode(IMAGE.read_bytes()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": texts[0]}]
    roles = ("user", "assistant") * len(texts)
    messages = [{"role": role, "content": text} for role, text in zip(roles, (content, *texts[1:]), strict=False)]
    return server.ask({"messages": messages, "max_tokens": 24, "temperature": 0, **fields})[:2]


def text_of(answer: dict) -> str:
    return answer["choices"][0]["message"]["content"]


@pytest.fixture(scope="module")
def expected() -> list[str]:
    model, processor = (kind.from_pretrained(BUNDLED_MODEL) for kind in (LlavaForConditionalGeneration, LlavaProcessor))
    session = ChatSession(model, processor, sampling=SamplingParams(max_new_tokens=24))
    return [session.ask(QUESTIONS[0], [IMAGE]), session.ask(QUESTIONS[1])]


def test_cards_that_share_a_model_serve_what_a_chat_answers(server, expected):
    status, answer = ask(server, QUESTIONS[0])
    assert (status, text_of(answer)) == (200, expected[0])
    other = {"messages": [{"role": "user", "content": "Hello, who are you, and what can you see?"}], "max_tokens": 4}
    assert server.ask(other)[0] == 200  # takes the place of the conversation in the cache
    status, answer = ask(server, QUESTIONS[0], expected[0], QUESTIONS[1])
    assert (status, text_of(answer)) == (200, expected[1])
    usage = answer["usage"]
    # All whole blocks of the first turn, which the prefix stores of both cards have.
    assert usage["prompt_tokens_details"]["cached_tokens"] > usage["prompt_tokens"] * 0.7


def test_signals_to_all_processes_of_a_service_leave_followers_alone(server, expected):
    for pid in all_processes(server):
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    assert text_of(ask(server, QUESTIONS[0])[1]) == expected[0]


def test_worker_whose_follower_dies_is_started_again_with_a_new_one(server, expected):
    before = all_processes(server)
    assert len(before) == 2
    os.kill(before[1], signal.SIGKILL)
    until(lambda: not any(is_alive(pid) for pid in before), SECONDS)
    until(lambda: len(set(all_processes(server)) - set(before)) == 2, SECONDS)
    until(lambda: server.ask(None, "/ready")[0] == 200, SECONDS)
    assert text_of(ask(server, QUESTIONS[0])[1]) == expected[0]


def test_worker_that_is_killed_takes_its_follower_with_it(server):
    before = all_processes(server)
    assert len(before) == 2
    os.kill(before[0], signal.SIGKILL)
    until(lambda: not any(is_alive(pid) for pid in before), SECONDS)
