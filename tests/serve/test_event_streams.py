"""Streams on a real socket: pings, clients that go away, errors in the middle, limits of bodies."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import time

import pytest
import urllib3
from fake_backend import FakeBackend
from live_server import chunks_of, fake_server, question

from paddlemix.serve.api import sse
from paddlemix.serve.api.job_events import opened
from paddlemix.serve.api.sse import EventStream, with_pauses
from paddlemix.serve.errors import ApiError
from paddlemix.serve.guards import body_limit, connections
from paddlemix.serve.guards.body_limit import Body, BodyReader
from paddlemix.serve.protocol import Accepted, Delta, Ended, Failed
from paddlemix.serve.settings import Limits

CHAT = "/v1/chat/completions"
OPENING = [Accepted("x", 10), Delta("x", 0, "some", (1,))]


def connect(address):
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def raw_request(body: bytes, *, length: int | None = None, headers: str = "") -> bytes:
    """Return the bytes of a chat request. length: that it states."""
    length = len(body) if length is None else length
    head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n{headers}\r\n"
    return head.encode() + body


def answer_from(client: socket.socket) -> http.client.HTTPResponse:
    """Return the next answer on a connection."""
    answer = http.client.HTTPResponse(client)
    answer.begin()
    return answer


def wait_for(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


@pytest.mark.parametrize("is_stream", [True, False])
def test_client_that_goes_away_ends_its_job_and_disturbs_nobody(is_stream):
    script = [*OPENING, *(Delta("x", 0, "more", (2,)) for _ in range(1000))]
    with fake_server(FakeBackend(script=script, seconds=0.02)) as (address, backend):
        with connect(address) as client:
            client.sendall(raw_request(json.dumps(question(stream=is_stream)).encode()))
            if is_stream:
                assert client.recv(100).startswith(b"HTTP/1.1 200")
            else:
                wait_for(lambda: backend.num_running == 1)
        assert backend.has_cancelled.wait(5)
        wait_for(lambda: backend.num_running == 0)
        assert b'client_disconnects_total{engine="0",model_name="tiny"} 1.0' in metrics_of(address)
        assert urllib3.request("GET", address + "/health").status == 200


def metrics_of(address):
    return urllib3.request("GET", address + "/metrics").data


def test_waiting_stream_has_comments_that_clients_skip(monkeypatch):
    monkeypatch.setattr(sse, "PING_SECONDS", 0.02)
    with fake_server(FakeBackend(script=[*OPENING, Ended("x", 0, "stop", 1)], seconds=0.2)) as (address, _):
        text = urllib3.request("POST", address + CHAT, json=question(stream=True)).data.decode()
    assert text.count(": ping\n\n") >= 3 and len(chunks_of(text)) == 4


@pytest.mark.parametrize(
    ("event", "code"), [(Failed("x", 504, "too slow", type="timeout_error", code="timeout"), "timeout"), (None, None)]
)
def test_error_in_a_stream_is_an_event_and_then_done(event, code, capsys):
    class Broken:  # an event that no backend sends
        pass

    with fake_server(FakeBackend(script=[*OPENING, event or Broken()])) as (address, _):
        response = urllib3.request("POST", address + CHAT, json=question(stream=True))
        *_, error, done = chunks_of(response.data.decode())
    assert response.status == 200 and done == "[DONE]" and error["error"]["code"] == code
    assert error["error"]["message"] and "Broken" not in error["error"]["message"]


def test_unexpected_error_is_a_500_without_its_text(capsys):
    with fake_server(FakeBackend(answer_error=RuntimeError("secret"))) as (address, _):
        response = urllib3.request("POST", address + CHAT, json=question(), retries=False)
    assert response.status == 500 and b"secret" not in response.data
    assert response.json()["error"]["type"] == "server_error"
    assert response.headers["x-request-id"] in response.json()["error"]["message"]


def test_failure_of_one_prompt_ends_the_others():
    with fake_server(FakeBackend(script=[*OPENING, Failed("x", 500, "gone", type="server_error")])) as (
        address,
        backend,
    ):
        body = {"prompt": ["a", "b", "c"]}
        response = urllib3.request("POST", address + "/v1/completions", json=body, retries=False)
        assert response.status == 500 and response.json()["error"]["message"] == "gone"
        wait_for(lambda: backend.num_running == 0)


def test_body_that_states_too_much_is_refused_at_once():
    with fake_server(max_body_bytes=1000) as (address, _), connect(address) as client:
        client.sendall(raw_request(b"{", length=200 << 20, headers="Expect: 100-continue\r\n"))
        answer = answer_from(client)
        assert answer.status == 413 and b"request_too_large" in answer.read()


def test_chunked_body_is_counted():
    with fake_server(max_body_bytes=1000) as (address, _):
        response = urllib3.request("POST", address + CHAT, body=iter([b"x" * 600] * 2), retries=False)
        assert response.status == 413


def test_half_a_body_is_given_up_after_its_time():
    with fake_server(body_seconds=0.2) as (address, _), connect(address) as client:
        client.sendall(raw_request(b'{"messages"', length=100))
        assert answer_from(client).status == 408
        assert urllib3.request("POST", address + CHAT, json=question()).status == 200


@pytest.mark.parametrize("is_second", [False, True])
def test_half_a_head_is_given_up_after_its_time_and_a_slow_answer_is_not(monkeypatch, is_second):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    with fake_server(FakeBackend(script=[*OPENING, Ended("x", 0, "stop", 1)], seconds=0.8)) as (address, _):
        with connect(address) as client:
            if is_second:
                client.sendall(raw_request(json.dumps(question()).encode()))
                answer = answer_from(client)
                assert answer.status == 200 and answer.read()
            client.sendall(b"GET /health HTTP/1.1\r\nHost: ")
            assert client.recv(4096) == b""
        with connect(address) as silent:
            assert silent.recv(4096) == b""


def test_memory_of_all_bodies_is_bounded_and_freed(monkeypatch):
    monkeypatch.setattr(body_limit, "SMALL", 10)
    reader = BodyReader(Limits(max_body_bytes=100))
    bodies = [Body(reader) for _ in range(body_limit.MAX_BODIES + 1)]
    for body in bodies[:-1]:
        body.add(b"x" * 50)
        body.add(b"x" * 50)
    with pytest.raises(ApiError) as caught:
        bodies[-1].add(b"x" * 50)
    assert caught.value.status == 429 and "Retry-After" in caught.value.headers
    bodies[-1].add(b"small")
    bodies[0].release()
    bodies[0].release()
    bodies[-1].add(b"x" * 95)
    with pytest.raises(ApiError) as caught:
        bodies[-1].add(b"x")
    assert caught.value.status == 413


def test_pauses_do_not_lose_items_and_closing_ends_the_source():
    closed = []

    async def source():
        try:
            for number in range(3):
                await asyncio.sleep(0.03)
                yield number
        finally:
            closed.append(True)

    async def run():
        items = [item async for item in with_pauses(source(), 0.01)]
        assert [item for item in items if item is not None] == [0, 1, 2] and None in items
        early = with_pauses(source(), 0.01)
        assert await anext(early) is None
        await early.aclose()

    asyncio.run(run())
    assert closed == [True, True]


def test_client_that_is_gone_before_the_first_chunk_ends_the_jobs():
    closed, ends = [], []

    async def source():
        try:
            yield 0, OPENING[0]
            await asyncio.sleep(60)
        finally:
            closed.append(True)

    async def run():
        events = await opened(source())
        stream = EventStream(events, events, lambda error, is_gone: ends.append((error, is_gone)), 5.0, {})

        async def receive():
            return {"type": "http.disconnect"}

        async def send(message):
            await asyncio.sleep(60)

        await stream({"type": "http"}, receive, send)

    asyncio.run(run())
    assert closed == [True] and ends == [(None, True)]


def test_client_that_does_not_read_is_left_after_the_limit():
    ends = []

    async def run():
        events = await opened(aiter_of([(0, OPENING[0])]))
        stream = EventStream(events, events, lambda error, is_gone: ends.append(is_gone), 0.05, {})
        await stream({"type": "http"}, lambda: asyncio.sleep(60), lambda message: asyncio.sleep(60))

    asyncio.run(run())
    assert ends == [True]


async def aiter_of(items):
    for item in items:
        yield item


def test_compressed_body_is_refused_with_the_reason():
    with fake_server() as (address, _):
        headers = {"Content-Encoding": "gzip"}
        response = urllib3.request("POST", address + CHAT, body=b"\x1f\x8b", headers=headers, retries=False)
        assert response.status == 400 and "encoded as 'gzip'" in response.json()["error"]["message"]
