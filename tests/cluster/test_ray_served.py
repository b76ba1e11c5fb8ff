"""`paddlemix serve --ray` with two replicas of the bundled model: answers, streams, sessions, a killed replica."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed: make test-cluster")
pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
TINY = ROOT / "paddlemix" / "examples" / "llava" / "tiny"
IMAGE = TINY / "shapes.png"
QUESTIONS = ("How many shapes are there?", "Which shape is green?", "Where is the star?", "Describe the picture.")
START_SECONDS = 240


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def children(pid):
    """Return the processes below one, with their command lines."""
    found, parents = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended meanwhile
    level = {pid}
    while level:
        level = {child for child, parent in parents.items() if parent in level}
        found.update({child: command_of(child) for child in level})
    return found


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def eventually(check, seconds=60, pause=0.2):
    end = time.monotonic() + seconds
    while not (found := check()) and time.monotonic() < end:
        time.sleep(pause)
    return found


class Server:
    """A server process with its log."""

    def __init__(self, command, folder, port):
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "log"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )

    def wait(self, num_replicas):
        def is_up():
            assert self.process.poll() is None, self.log.read_text()
            return len(self.replicas()) == num_replicas and self.is_ready()

        assert eventually(is_up, START_SECONDS), self.log.read_text()

    def is_ready(self):
        try:
            return self.get("/ready")["status"] == "ready"
        except OSError:
            return False

    def replicas(self):
        """Return the processes that have loaded the model."""
        names = children(self.process.pid).items()
        return {pid for pid, name in names if "ModelReplica" in name and "initialize" not in name}

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return json.loads(answer.read())

    def open(self, **body):
        body = {"temperature": 0, **body}
        request = urllib.request.Request(
            f"{self.url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        return urllib.request.urlopen(request, timeout=60)

    def ask(self, messages, **body):
        with self.open(messages=messages, **body) as answer:
            return json.loads(answer.read())

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        finally:
            for pid in children(self.process.pid):
                os.kill(pid, signal.SIGKILL)
            self.process.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    port = free_port()
    options = ["--ray", "--replicas", "2", "--port", str(port), "--device", "cpu", "--stop-timeout", "5"]
    running = Server([sys.executable, "-m", "paddlemix", "serve", *options], tmp_path_factory.mktemp("ray"), port)
    try:
        running.wait(2)
        yield running
    finally:
        running.stop()


def user(text, *images):
    parts = [{"type": "image_url", "image_url": {"url": uri}} for uri in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def data_uri():
    return "data:image/png;base64," + base64.b64encode(IMAGE.read_bytes()).decode()


def text_of(answer):
    return answer["choices"][0]["message"]["content"]


def conversation(server, question):
    """Ask a question about the image and then another one; return both answers of the server."""
    messages = [user(question, data_uri())]
    first = server.ask(messages)
    messages += [{"role": "assistant", "content": text_of(first)}, user("Is there a yellow star?")]
    return first, server.ask(messages)


def all_at_once(function, values):
    found = {}
    threads = [threading.Thread(target=lambda value=value: found.update({value: function(value)})) for value in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[value] for value in values]


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_two_turns_are_those_of_a_chat_and_stay_with_their_replica(server):
    from paddlemix import ChatSession, LlavaForConditionalGeneration, LlavaProcessor, SamplingParams

    model = LlavaForConditionalGeneration.from_pretrained(TINY / "model")
    processor = LlavaProcessor.from_pretrained(TINY / "model")
    before = {pid: cpu_seconds(pid) for pid in server.replicas()}
    answers = all_at_once(lambda question: conversation(server, question), QUESTIONS)
    for question, (first, second) in zip(QUESTIONS, answers, strict=True):
        session = ChatSession(model, processor, sampling=SamplingParams(temperature=0))
        expected = [session.ask(question, [str(IMAGE)]), session.ask("Is there a yellow star?")]
        assert [text_of(first), text_of(second)] == [text.strip() for text in expected]
    assert len(before) == 2
    for pid, seconds in before.items():
        assert cpu_seconds(pid) > seconds + 0.03, "one of the replicas was not used"
    num_kept = 0
    for question in QUESTIONS:  # one after the other: Ray asks another replica instead of one that is busy
        first, second = conversation(server, f"Please: {question}")
        known = second["usage"]["prompt_tokens_details"]["cached_tokens"]
        num_kept += known >= first["usage"]["prompt_tokens"]
    assert num_kept >= len(QUESTIONS) - 1


def test_its_first_lines_are_those_of_a_server_without_ray(server):
    assert eventually(lambda: "Try:" in server.log.read_text())
    lines = server.log.read_text().splitlines()
    (first,) = (number for number, line in enumerate(lines) if line.startswith("Serving "))
    assert re.fullmatch(r"Serving \S+ \(\S+, \d+ tokens of context\) on cpu in float32, 2 replicas", lines[first])
    assert [line.split()[0] for line in lines[first + 1 : first + 4]] == ["Page:", "API:", "Try:"]


def test_a_stream_comes_piece_by_piece(server):
    times = []
    body = {"messages": [user("Hello")], "max_tokens": 200, "stream": True, "ignore_eos": True}
    with server.open(**body) as answer:
        lines = [line for line in answer if times.append(time.monotonic()) is None and line.startswith(b"data")]
    assert lines[-1].strip() == b"data: [DONE]" and len(lines) > 50
    assert times[len(times) // 2] - times[0] > 0.05


def test_a_client_that_leaves_ends_its_answers(server):
    body = {"messages": [user("Hello")], "max_tokens": 900, "stream": True, "ignore_eos": True, "n": 16}
    answer = server.open(**body)
    answer.readline()
    assert eventually(lambda: server.get("/v1/status")["num_running"] > 0, 5)
    answer.close()
    started = time.monotonic()
    assert eventually(lambda: server.get("/v1/status")["num_running"] == 0, 30)
    assert time.monotonic() - started < 10


def test_a_wrong_request_is_an_error_of_the_api(server):
    with pytest.raises(urllib.error.HTTPError) as caught:
        server.ask([user("x " * 5000)])
    error = json.loads(caught.value.read())["error"]
    assert caught.value.code == 400 and error["code"] == "context_length_exceeded"


def test_a_killed_replica_fails_only_its_answers_and_comes_back(server):
    before = server.replicas()
    body = {"max_tokens": 900, "stream": True, "ignore_eos": True}

    def stream(number):
        with server.open(messages=[user(f"Hello {number}")], **body) as answer:
            return [line.strip() for line in answer if line.startswith(b"data")]

    killed = []

    def kill():
        time.sleep(0.7)
        killed.append(min(before))
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    answers = all_at_once(stream, range(8))
    thread.join()
    failed = [lines for lines in answers if b"worker_died" in b"".join(lines)]
    assert 0 < len(failed) < 8 and all(lines[-1] == b"data: [DONE]" for lines in answers)
    assert text_of(server.ask([user(QUESTIONS[0], data_uri())]))
    assert eventually(lambda: len(server.replicas() - set(killed)) == 2, 90)


def test_sigterm_ends_the_server_and_all_its_processes(server):
    below = children(server.process.pid)
    assert server.stop() == 0, server.log.read_text()
    assert eventually(lambda: not [pid for pid, name in below.items() if name and command_of(pid) == name], 20)


def test_serve_run_takes_the_options_as_arguments(tmp_path):
    """The port is that of Ray's proxies: 8000, which may be taken; a file for `serve run` sets another."""
    import yaml

    port = free_port()
    config = yaml.safe_load((TINY.parent / "serve" / "ray.yaml").read_text(encoding="utf-8"))
    config["http_options"]["port"] = port
    (application,) = config["applications"]
    application["args"] = {"model_path": str(TINY / "model"), "device": "cpu", "replicas": "1", "max_queue": 3}
    (tmp_path / "ray.yaml").write_text(yaml.safe_dump(config))
    command = [Path(sys.executable).with_name("serve"), "run", str(tmp_path / "ray.yaml")]
    running = Server(command, tmp_path, port)
    try:
        running.wait(1)
        assert running.get("/v1/status")["limits"]["max_queue"] == 3
        assert text_of(running.ask([user(QUESTIONS[0], data_uri())]))
    finally:
        running.stop()
