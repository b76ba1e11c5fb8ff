"""A client that sends as much as it may keeps nobody else waiting."""

from __future__ import annotations

import threading

import pytest
import requests
from live_server import fake_server, question

from paddlemix.serve.api import chat_route, completions_route
from paddlemix.serve.api.beside_loop import LARGE
from paddlemix.serve.images import image_sources

DATA = "data:image/png;base64," + "A" * LARGE


@pytest.fixture(scope="module")
def server():
    with fake_server() as (address, _):
        yield address


@pytest.mark.parametrize(
    ("module", "name", "path", "body"),
    [
        (chat_route, "read_messages", "/v1/chat/completions", question("a" * LARGE)),
        (completions_route, "read_prompts", "/v1/completions", {"prompt": "a" * LARGE}),
        (image_sources, "data_of", "/v1/chat/completions",
         question([{"type": "image_url", "image_url": {"url": DATA}}])),
    ],
    ids=["chat", "completion", "image"],
)  # fmt: skip
def test_others_are_answered_while_a_large_body_is_read(server, monkeypatch, module, name, path, body):
    is_reading, may_go_on, read = threading.Event(), threading.Event(), getattr(module, name)

    def slow(*arguments, **options):
        is_reading.set()
        assert may_go_on.wait(30)
        return read(*arguments, **options)

    monkeypatch.setattr(module, name, slow)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(requests.post(f"{server}{path}", json=body, timeout=60)))
    thread.start()
    try:
        assert is_reading.wait(30)
        assert requests.get(f"{server}/health", timeout=10).status_code == 200
    finally:
        may_go_on.set()
        thread.join(60)
    assert answers[0].status_code == 200, answers[0].text
