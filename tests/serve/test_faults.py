"""What clients and machines do wrong is answered or survived by a real server, and disturbs no one else."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import signal
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from served_process import CHAT, Served, served, until

NUM_ACTIVE = 2 * 4 + 4  # two workers with four answers each, and four that wait
PAUSE_SECONDS = 0.05  # between the questions of the client that must not be disturbed

if not Path("/proc/self/task").is_dir():
    pytest.skip("the processes of the server are found in /proc", allow_module_level=True)


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served("--workers", "2", "--max-running", "4", "--max-queue", "4") as server:
        yield server
        assert not [line for line in server.log if "Traceback" in line], "\n".join(server.log)


def chat(text: Any = "Hello", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 8, "temperature": 0, **fields}


ENDLESS = chat(max_tokens=900, ignore_eos=True)


def text_of(answer: dict[str, Any]) -> str:
    return answer["choices"][0]["message"]["content"]


@contextlib.contextmanager
def undisturbed(server: Served) -> Iterator[None]:
    """Ask the same question over and over; each answer must be the same, at any time."""
    expected, failures, is_over = text_of(server.ask(chat())[1]), [], threading.Event()

    def ask() -> None:
        while not is_over.wait(PAUSE_SECONDS):
            try:
                status, answer, _ = server.ask(chat())
                if status != 200 or text_of(answer) != expected:
                    failures.append((status, answer))
            except OSError as error:
                failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
    assert failures == []


def is_idle(server: Served) -> bool:
    status = server.status()
    return status["num_running"] == status["num_waiting"] == 0


def raw(server: Served, data: bytes) -> socket.socket:
    """Open a connection and send bytes."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    connection.sendall(data)
    return connection


def answer_to(connection: socket.socket) -> tuple[int, Any]:
    """Return the status and the parsed answer that a connection gets; it is closed."""
    with connection:
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status, json.loads(response.read())


def reset(connection: socket.socket) -> None:
    """Close a connection as a client that dies does, without a farewell."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def head(length: str, *lines: str) -> bytes:
    rest = "".join(f"{line}\r\n" for line in lines)
    return (
        f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{length}\r\n{rest}\r\n".encode()
    )


def test_clients_that_vanish_free_their_places(server):
    with undisturbed(server):
        body = json.dumps(ENDLESS).encode()
        whole = [raw(server, head(f"Content-Length: {len(body)}") + body) for _ in range(3)]
        body = json.dumps({**ENDLESS, "stream": True}).encode()
        streams = [raw(server, head(f"Content-Length: {len(body)}") + body) for _ in range(3)]
        for connection in streams:
            received = b""
            while received.count(b"data:") < 3:
                received += connection.recv(4096)
        until(lambda: server.status()["num_running"] >= 3)
        for connection in (*whole[:2], *streams[:2]):
            reset(connection)
        for connection in (whole[2], streams[2]):
            connection.close()
    until(lambda: is_idle(server))


def test_half_requests_hold_up_nobody(server):
    with undisturbed(server):
        halves = [
            b"POST ",
            head("Content-Length: 100000") + b'{"messages',
            head("Transfer-Encoding: chunked") + b"ff\r\nx",
        ]
        open_ones = [raw(server, half) for half in halves * 20]
        time.sleep(1)
        for connection in open_ones[::2]:
            connection.close()
        for connection in open_ones[1::2]:
            reset(connection)


def test_bodies_of_200_mb_are_refused_and_not_kept(server):
    def sent(connection: socket.socket, frame) -> tuple[int, Any]:
        piece = b"x" * (1 << 20)
        with contextlib.suppress(ConnectionError):  # the server may close at once
            for _ in range(200):
                connection.sendall(frame(piece))
        return answer_to(connection)

    before = server.memory()
    with undisturbed(server):
        stated = head(f"Content-Length: {200 << 20}")
        assert answer_to(raw(server, stated))[0] == 413
        chunked = head("Transfer-Encoding: chunked")
        status, answer = sent(raw(server, chunked), lambda piece: b"%x\r\n%b\r\n" % (len(piece), piece))
        assert status == 413 and answer["error"]["code"] == "request_too_large"
    assert server.memory() - before < 150 << 20


def png(width: int, height: int) -> bytes:
    """Return a file of some bytes that says it is an image of this size."""
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (b"IHDR", size), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def with_image(data: bytes) -> dict[str, Any]:
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    return chat([{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}])


FAULTS = {
    "image of 60000 x 60000": with_image(png(60_000, 60_000)),
    "image of 4 billion x 4 billion": with_image(png(4_000_000_000, 4_000_000_000)),
    "cut image": with_image(png(100, 100)),
    "no image": with_image(b"<svg/>"),
    "NaN": b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}',
    "infinity": b'{"messages": [{"role": "user", "content": "a"}], "temperature": -Infinity}',
    "huge number": b'{"messages": [{"role": "user", "content": "a"}], "temperature": 1e999}',
    "huge integer": b'{"messages": [{"role": "user", "content": "a"}], "seed": ' + b"9" * 100_000 + b"}",
    "10,000 stop strings": chat(stop=["x"] * 10_000),
    "long stop string": chat(stop="x" * 100_000),
    "deep list": b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep ignored field": b'{"metadata": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    "half of a surrogate pair": b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    "no UTF-8": b'{"messages": [{"role": "user", "content": "\xff"}]}',
    "no JSON": b"{",
    "no object": b"[]",
    "no body": b"",
    "ten million letters": chat("a" * 10_000_000),
    "marks of images as text": chat("<image>" * 100_000),
    "100,000 messages": {"messages": [{"role": "user", "content": "a"}] * 100_000},
    "many answers": chat(n=100_000),
    "many biases": chat(logit_bias={str(number): 1 for number in range(100_000)}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_of_a_request_is_told(server, name):
    status, answer, headers = server.ask(FAULTS[name])
    assert status == 400 and answer["error"]["type"] == "invalid_request_error", answer
    assert 10 < len(answer["error"]["message"]) < 1000 and headers["x-request-id"]


def test_faults_of_many_requests_at_once_disturb_nobody(server):
    with undisturbed(server), ThreadPoolExecutor(4) as pool:
        assert {status for status, _, _ in pool.map(server.ask, FAULTS.values())} == {400}


def test_schema_of_hours_is_refused_and_holds_up_nobody(server):
    pytest.importorskip("llguidance")
    patterns = [{"type": "string", "pattern": f".*[a-m]{{{number}}}.*"} for number in range(1, 60)]
    asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"allOf": patterns}}}
    with undisturbed(server):
        status, answer, _ = server.ask(chat(response_format=asked))
    assert status == 400 and "takes too long" in answer["error"]["message"]


def test_noise_on_the_socket_is_survived(server):
    hello = bytes.fromhex("16030100c8010000c40303") + os.urandom(190)  # of TLS
    noise = [
        os.urandom(2000),
        hello,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\r\n" * 1000,
        b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * 1_000_000,
        head("Content-Length: -1"),
        head("Content-Length: 3", "Content-Length: 5") + b"{}...",
        head("Transfer-Encoding: chunked") + b"zz\r\n",
        head("Transfer-Encoding: chunked").replace(b"127.0.0.1", b"another") + b"zz\r\n",  # answered before it is read
        head("Transfer-Encoding: chunked") + b"ffffffffffffffff\r\n",
    ]
    with undisturbed(server):
        for data in noise:
            with contextlib.suppress(ConnectionError), raw(server, data) as connection:
                connection.settimeout(0.3)
                with contextlib.suppress(TimeoutError):
                    assert b" 500 " not in connection.recv(4096)


def test_full_queue_refuses_some_with_a_time_and_answers_the_rest_rightly(server):
    short = chat(max_tokens=60, ignore_eos=True)
    expected = text_of(server.ask(short)[1])
    with ThreadPoolExecutor(40) as pool:
        results = list(pool.map(server.ask, [short] * 40))
    answers = [text_of(answer) for status, answer, _ in results if status == 200]
    refused = [(answer, headers) for status, answer, headers in results if status == 429]
    assert len(answers) >= NUM_ACTIVE and len(answers) + len(refused) == 40 and refused
    assert set(answers) == {expected}
    for answer, headers in refused:
        assert answer["error"]["code"] == "queue_full" and 1 <= int(headers["retry-after"]) <= 60
    until(lambda: is_idle(server))


def read_stream(response: http.client.HTTPResponse) -> tuple[str, dict[str, Any] | None]:
    """Return the text of a stream to its end, and its error if it has one."""
    text, error = "", None
    for line in response.read().decode().splitlines():
        if line.startswith("data: {"):
            chunk = json.loads(line[6:])
            error = chunk.get("error", error)
            text += "".join(choice["delta"].get("content") or "" for choice in chunk.get("choices", []))
    return text, error


def test_worker_killed_during_answers_takes_only_its_own_with_it(server):
    until(lambda: len(server.workers()) == 2)
    questions = [chat(f"What is {n}?", max_tokens=900, ignore_eos=True) for n in range(4)]
    streams = [server.stream(question) for question in questions]  # two for each worker
    for pid in server.workers():  # as a service that stops sends to all its processes, which only the web process obeys
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    os.kill(server.workers()[0], signal.SIGKILL)
    results = [read_stream(response) for _, response in streams]
    errors = [error for _, error in results if error is not None]
    assert 1 <= len(errors) <= 2  # one may have ended already
    assert {error["code"] for error in errors} == {"worker_died"} and "signal 9" in errors[0]["message"]
    assert server.ask(None, "/ready")[0] == 200
    for question, (text, error), (connection, _) in zip(questions, results, streams, strict=True):
        connection.close()
        assert error is not None or text == text_of(server.ask(question)[1])
    until(lambda: len(server.workers()) == 2)


def test_without_any_worker_requests_are_refused_with_a_time_until_one_is_back(server):
    until(lambda: len(server.workers()) == 2)
    expected = text_of(server.ask(chat())[1])
    for pid in server.workers():
        os.kill(pid, signal.SIGKILL)
    until(lambda: server.ask(None, "/ready")[0] == 503)
    status, answer, headers = server.ask(chat())
    assert status == 503 and answer["error"]["code"] == "no_worker" and int(headers["retry-after"]) >= 1
    assert server.ask(None, "/health")[0] == 200
    until(lambda: server.ask(None, "/ready")[0] == 200, 60)
    assert text_of(server.ask(chat())[1]) == expected
