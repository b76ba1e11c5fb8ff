"""LLaVA's three commands: workers register with the controller, and the page's port passes connections to them."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from paddlemix.cli import command_parser
from paddlemix.commands import llava_model_worker
from paddlemix.serve.llava_protocol.forwarding import forward
from paddlemix.serve.llava_protocol.registration import post, register_when_ready, worker_for_page
from paddlemix.serve.llava_protocol.worker_registry import SECONDS_TO_LOSS, WorkerRegistry, controller_server

SCRIPTS = Path(__file__).parents[2] / "paddlemix" / "examples" / "llava" / "serve"
A, B = "http://127.0.0.1:1001", "http://127.0.0.1:1002"


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@contextmanager
def in_thread(server):
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def controller():
    with in_thread(controller_server(WorkerRegistry(), "127.0.0.1", 0)) as address:
        yield address


class Worker(BaseHTTPRequestHandler):
    """A server that is ready and streams three words."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for word in (b"one ", b"two ", b"three"):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(word), word))
            self.wfile.flush()
            time.sleep(0.1)
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format, *arguments):
        pass


@contextmanager
def worker():
    with in_thread(ThreadingHTTPServer(("127.0.0.1", 0), Worker)) as address:
        yield address


@contextmanager
def page(find_worker):
    """Yield the address of a forwarding server that runs in a thread."""
    loop, stopped, ports, started = asyncio.new_event_loop(), asyncio.Event(), [], threading.Event()

    async def serve():
        server = await forward("127.0.0.1", 0, find_worker)
        ports.append(server.sockets[0].getsockname()[1])
        started.set()
        await stopped.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert started.wait(5)
    try:
        yield f"http://127.0.0.1:{ports[0]}"
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join()
        loop.close()


def eventually(check, seconds=10):
    end = time.monotonic() + seconds
    while not (found := check()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def test_the_controller_gives_the_worker_with_the_fewest_connections():
    registry = WorkerRegistry()
    for address in (A, B):
        registry.register(address, ("m",))
    assert {registry.address_for("m") for _ in range(2)} == {A, B} and registry.address_for("other") == ""
    registry.beat(A, 5)
    assert [registry.address_for("m") for _ in range(3)] == [B] * 3
    assert WorkerRegistry("lottery").address_for("m") == ""


def test_a_worker_without_heartbeats_is_forgotten_and_has_to_register():
    clock = Clock()
    registry = WorkerRegistry(clock=clock)
    registry.register(A, ("m",))
    clock.now = SECONDS_TO_LOSS - 1
    assert registry.beat(A, 0) and not registry.beat(B, 0)
    clock.now += SECONDS_TO_LOSS + 1
    assert registry.models() == [] and not registry.beat(A, 0)


@pytest.mark.parametrize("address", ["ftp://x:1", "http://", "http://u:p@host:1", "http://host:1/path", "file:///etc"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(ValueError, match="expected http://HOST:PORT"):
        WorkerRegistry().register(address, ("m",))


def test_the_controller_answers_llavas_routes_and_names_what_is_superseded():
    with controller() as url:
        status = {"model_names": ["m"], "speed": 1, "queue_length": 0}
        post(f"{url}/register_worker", {"worker_name": A, "check_heart_beat": True, "worker_status": status})
        assert post(f"{url}/list_models", {}) == {"models": ["m"]}
        assert post(f"{url}/get_worker_address", {"model": "m"}) == {"address": A}
        assert post(f"{url}/receive_heart_beat", {"worker_name": A, "queue_length": 0}) == {"exist": True}
        assert post(f"{url}/refresh_all_workers", {}) is None
        for path, data, code in [("/worker_generate_stream", b"{}", 404), ("/list_models", b"[", 400)]:
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(urllib.request.Request(url + path, data), timeout=5)
            assert caught.value.code == code
            assert code == 400 or "/v1/chat/completions" in json.loads(caught.value.read())["error"]


def test_a_worker_registers_when_it_is_ready_and_the_page_streams_from_it():
    with controller() as url, worker() as address:
        assert worker_for_page(url) == ""
        register_when_ready(url, address, "m", address)
        assert eventually(lambda: worker_for_page(url)) == address
        with page(lambda: worker_for_page(url)) as front, urllib.request.urlopen(front, timeout=5) as answer:
            first = time.monotonic() if answer.read(4) == b"one " else None
            assert answer.read() == b"two three" and time.monotonic() - first > 0.1


def test_the_page_says_why_there_is_no_answer_and_tries_again():
    def without_controller():
        raise ValueError("<http://x> does not answer")

    for find_worker, text in [(lambda: "", "start model_worker"), (without_controller, "&lt;http://x&gt; does not")]:
        with page(find_worker) as front:
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(front, timeout=5)
            body = caught.value.read().decode()
            assert caught.value.code == 503 and text in body and 'http-equiv="refresh"' in body


def test_without_a_worker_the_api_gives_an_error_in_openais_shape():
    with page(lambda: "") as front:
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{front}/v1/chat/completions", b"x" * 3_000_000, timeout=5)
        error = json.loads(caught.value.read())["error"]
        assert caught.value.code == 503 and caught.value.headers["Retry-After"]
        assert (error["type"], error["code"]) == ("unavailable_error", "no_worker")


def test_reasons_have_no_names_or_numbers_of_errors():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(ValueError, match=r"/list_models does not answer: Connection refused$"):
        worker_for_page(closed)
    with page(lambda: closed) as front, pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(front, timeout=5)
    body = caught.value.read().decode()
    assert f"the worker {closed} cannot be reached" in body and "color-scheme: light dark" in body


def test_the_log_says_when_a_worker_comes_and_goes(caplog):
    clock = Clock()
    registry = WorkerRegistry(clock=clock)
    for _ in range(2):
        registry.register(A, ("m",))
    clock.now = SECONDS_TO_LOSS + 1
    for _ in range(2):
        registry.forget_lost()
    assert caplog.messages == [
        f"worker {A} is registered, with m",
        f"worker {A} is gone: no sign of it for 30 seconds",
    ]
    caplog.clear()
    with socket.create_server(("127.0.0.1", 0)) as listener, page(lambda: next(answers)) as front:
        here = f"http://127.0.0.1:{listener.getsockname()[1]}"
        answers = iter(["", "", here, here])
        for _ in range(4):
            with pytest.raises(OSError):
                urllib.request.urlopen(front, timeout=0.3)
    assert caplog.messages == [
        "no worker answers: none is registered; start model_worker",
        f"the worker {here} answers",
    ]


def test_the_controller_says_in_a_browser_what_it_is():
    with controller() as url, urllib.request.urlopen(url, timeout=5) as answer:
        found = json.loads(answer.read())
        assert found["models"] == [] and "controller of LLaVA's demo" in found["about"]


@pytest.mark.parametrize("name", ["controller", "gradio_web_server"])
def test_a_busy_port_is_told_in_the_words_of_serve(name):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        code, errors = script_output(name, "--host", "127.0.0.1", "--port", port)
    assert code == 1 and f"error: port {port} of 127.0.0.1 is in use: stop the program" in errors


def test_a_connection_that_ends_is_ended_at_the_worker():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with page(lambda: address) as front:
            client = socket.create_connection(("127.0.0.1", int(front.rpartition(":")[2])))
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            there, _ = listening.accept()
            there.settimeout(5)
            assert there.recv(100).startswith(b"GET")
            client.close()
            assert there.recv(100) == b""
            there.close()


def words_of(*words):
    return llava_model_worker.serve_words(command_parser("llava-model-worker").parse(list(words)))


def test_the_workers_options_become_those_of_serve():
    words = words_of("--model-path", "a/checkpoint-7/", "--device", "cuda:1", "--load-4bit", "--port", "9")
    pairs = dict(zip(words[::2], words[1::2], strict=False))
    assert pairs["--served-model-name"] == "a_checkpoint-7" and pairs["--device"] == "gpu:1"
    assert pairs["--port"] == "9" and pairs["--host"] == "localhost" and pairs["--max-running"] == "5"
    assert words[-1] == "--load-4bit" and "--model-base" not in words
    assert words_of("--model-path", "x/llava", "--model-name", "n")[-3:-2] == ["n"]
    assert words_of("--num-gpus", "2")[-2:] == ["--tensor-parallel", "2"]


def script_output(name, *words):
    result = subprocess.run(
        [sys.executable, str(SCRIPTS / f"{name}.py"), *words], capture_output=True, text=True, timeout=60
    )
    return result.returncode, result.stderr


@pytest.mark.parametrize(
    ("script", "words", "text"),
    [
        ("gradio_web_server", ["--share"], "--share: there is no public tunnel"),
        ("gradio_web_server", ["--moderate"], "--moderate: questions are not sent"),
        ("model_worker", ["--num-gpus", "0", "--no-register"], "--tensor-parallel is 0: expected a number of cards"),
    ],
)
def test_an_option_that_cannot_be_followed_is_an_error_that_says_so(script, words, text):
    code, errors = script_output(script, *words)
    assert code == 1 and text in errors and "Traceback" not in errors


@pytest.mark.parametrize(("name", "options"), [("controller", []), ("gradio_web_server", ["--embed"])])
def test_the_commands_say_what_is_plainer_and_end_with_ctrl_c(name, options):
    command = [sys.executable, str(SCRIPTS / f"{name}.py"), "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        line = ""
        while "paddlemix serve" not in line:
            line = process.stderr.readline()
            assert line, "the process has ended"
            assert "--embed is not used" in line or "paddlemix serve" in line
        process.send_signal(2)
        assert process.wait(10) == 0 and process.stderr.read() == ""
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
