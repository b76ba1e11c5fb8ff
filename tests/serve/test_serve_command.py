"""`paddlemix serve`: its options, what it says, and how it stops."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import urllib3
from fake_backend import INFO
from live_server import chunks_of, question

from paddlemix.cli import command_parser, main
from paddlemix.commands import serve
from paddlemix.constants import BUNDLED_MODEL
from paddlemix.serve.greeting import greet
from paddlemix.serve.guards.access import all_keys, checked_origins
from paddlemix.serve.listener import address_of, open_socket
from paddlemix.serve.settings import ModelOptions, ServeSettings, default_name

SCRIPT = Path(__file__).with_name("fake_serve.py")


def settings_of(*options):
    return serve.settings_of(command_parser("serve").parse(list(options)))


def start(*options, seconds=0.0):
    """Start a server with a fake backend; return its process."""
    command = [sys.executable, str(SCRIPT), str(seconds), "--port", "0", *options]
    folders = os.pathsep.join((str(SCRIPT.parents[2]), str(SCRIPT.parent)))
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONPATH": folders}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def unused_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def wait_for_health(port):
    retries = urllib3.Retry(100, backoff_factor=0.05, backoff_max=0.1)
    assert urllib3.PoolManager().request("GET", f"http://127.0.0.1:{port}/health", retries=retries).status == 200


def address_in(process):
    """Return the address that a server prints, and the rest of what it printed until it was ready."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("Stop:"):
            break
    (page,) = [line.split()[1] for line in lines if line.startswith("Page:")]
    return page.rstrip("/"), "".join(lines)


def test_options_become_settings(tmp_path):
    keys = tmp_path / "keys.txt"
    keys.write_text("# of the team\nalpha\n\nbeta\n")
    found = settings_of(
        *["--served-model-name", "a", "b", "--max-running", "3", "--max-queue", "0", "--cache-gb", "0.5"],
        *[
            "--workers",
            "2",
            "--max-body",
            "5MB",
            "--request-timeout",
            "9",
            "--fp16",
            "--load-8bit",
            "--conv-mode",
            "v0",
        ],
        *["--api-key", "k", "--api-key", f"@{keys}", "--allow-image-urls", "a.example", "*.b.example"],
        *["--max-model-len", "100", "--log-requests", "--metrics-prefix", "vllm", "--max-images", "2"],
    )
    assert found.names == ("a", "b") and found.api_keys == ("k", "alpha", "beta")
    assert found.image_hosts == ("a.example", "*.b.example") and found.num_workers == 2
    assert found.is_logging_requests and found.metrics_prefix == "vllm"
    limits, model = found.limits, found.model
    assert (limits.max_queue, limits.max_images, limits.request_seconds) == (0, 2, 9)
    assert (model.max_running, model.cache_bytes, model.max_model_len) == (3, 1 << 29, 100)
    assert (model.dtype, model.quantization, model.conv_mode) == ("float16", "int8", "v0")


def test_bundled_model_is_called_tiny_also_by_its_path(monkeypatch):
    monkeypatch.chdir(Path(BUNDLED_MODEL).parent)
    assert default_name("model") == default_name(BUNDLED_MODEL) == "tiny" and default_name("a/b") == "b"


def test_defaults_are_a_loopback_server_of_the_tiny_model():
    found = settings_of()
    assert (found.host, found.port, found.names, found.api_keys) == ("127.0.0.1", 8000, ("tiny",), ())
    assert found.image_hosts == found.origins == () and not found.is_logging_requests


def test_options_for_tls_of_other_servers_lead_to_nginx(capsys):
    with pytest.raises(SystemExit):
        settings_of("--ssl-certfile", "a.pem", "--ssl-keyfile", "b.pem")
    assert "unknown option --ssl-certfile: the server does not speak TLS; nginx" in capsys.readouterr().err


def test_key_of_the_environment_counts_too(monkeypatch):
    monkeypatch.setenv("PADDLEMIX_API_KEY", "secret")
    assert all_keys(["given"]) == ("given", "secret")
    assert "secret" not in repr(settings_of())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--api-key", "@/absent"], "the file of keys /absent does not exist"),
        (["--api-key", " "], "--api-key is empty"),
        (["--api-key", "a b"], "a key has spaces"),
        (["--allow-origins", "*"], "needs a key, in $PADDLEMIX_API_KEY or with --api-key @FILE"),
        (["--allow-origins", "chat.example.com"], "expected an origin"),
        (["--load-8bit", "--load-4bit"], "not both: give one of --load-8bit and --load-4bit"),
        (["--max-body", "much"], "--max-body is 'much': expected a size, as 64MB"),
        (["--model-path", "/absent/model"], "/absent/model"),
        (["--host", "192.0.2.1"], "is no address of this machine"),
        (["--port", "70000"], "--port 70000 is no port"),
        (["--replicas", "2"], "--replicas needs --ray; did you mean --workers"),
        (["--max-replicas", "2"], "--max-replicas needs --ray"),
        (["--ray-address", "a:1"], "--ray-address needs --ray"),
        (["--ray", "--tensor-parallel", "2"], "--tensor-parallel is 2, and a replica of --ray has one card"),
        (["--tensor-parallel", "0"], "--tensor-parallel is 0: expected a number of cards from 1 on"),
        (["--model-path", __file__], "test_serve_command.py is a file, not a folder"),
        (["--model-path", ""], "the path of the model is empty"),
    ],
)
def test_wrong_options_are_one_line(options, text, capsys):
    assert main(["serve", "--port", "0", *options]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and text in lines[0]


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("--max-running", "0", "0 is too small: expected at least 1"),
        ("--workers", "x", "expected a whole number, found 'x'"),
        ("--port", "abc", "expected a whole number, found 'abc'"),
        ("--max-model-len", "1", "1 is too small: expected at least 16"),
        ("--request-timeout", "nan", "expected a number above 0, found 'nan'"),
        ("--cache-gb", "much", "expected a number above 0, found 'much'"),
        ("--allow-image-urls", "http://a.com/x", "expected a host, as a.com, found the URL or path 'http://a.com/x'"),
    ],
)
def test_values_that_no_option_takes_are_refused_in_words(option, value, text, capsys):
    with pytest.raises(SystemExit):
        main(["serve", option, value])
    assert f"argument {option}: {text}" in capsys.readouterr().err


def test_key_that_is_the_name_of_a_file_is_said_to_be_one(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_text("alpha\n")
    assert all_keys(["secret"]) == all_keys(["@secret"]) == ("alpha",)
    (printed,) = caplog.messages
    assert "--api-key names a file: the 1 key in it" in printed and "secret" not in printed


def test_busy_port_is_found_before_the_model_is_looked_for(capsys):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        assert main(["serve", "--port", port, "--model-path", "/absent/model"]) == 1
    assert f"port {port} of 127.0.0.1 is in use" in capsys.readouterr().err


def test_missing_extra_is_one_line_with_the_command(monkeypatch, capsys):
    monkeypatch.setattr(serve, "PACKAGES", ("fastapi", "no_such_package"))
    assert main(["serve"]) == 1
    assert "a server needs no_such_package: pip install " in capsys.readouterr().err


def test_origins_are_kept_without_a_slash():
    assert checked_origins(["https://a.example/", "http://b.example:8080"], has_keys=False) == (
        "https://a.example",
        "http://b.example:8080",
    )


def test_address_of_all_interfaces_is_that_of_this_machine():
    assert address_of("0.0.0.0", 80) == address_of("::", 80) == "http://127.0.0.1:80"
    assert address_of("::1", 80) == "http://[::1]:80"
    with open_socket("127.0.0.1", 0) as listener:
        assert listener.getsockname()[1] > 0


def test_server_that_stops_finishes_its_answers_and_refuses_new_ones():
    process = start("--host", "0.0.0.0", seconds=0.05)
    address, printed = address_in(process)
    assert f"curl {address}/v1/chat/completions" in printed and "tiny" in printed
    texts = []
    body = question("a question that takes a while", stream=True)
    pool = urllib3.PoolManager(maxsize=4)
    response = pool.request("POST", address + "/v1/chat/completions", json=body, preload_content=False)
    reader = threading.Thread(target=lambda: texts.append(response.read().decode()))
    reader.start()
    process.send_signal(signal.SIGTERM)
    statuses = []
    while process.poll() is None and 503 not in statuses:
        try:
            statuses.append(pool.request("POST", address + "/v1/chat/completions", json=body, retries=False).status)
        except urllib3.exceptions.HTTPError:
            break
    assert process.wait(20) == 0
    reader.join(5)
    *_, last, done = chunks_of(texts[0])
    assert done == "[DONE]" and last["choices"][0]["finish_reason"] == "stop" and 503 in statuses
    errors = process.stderr.read()
    assert "WARNING: the server listens at 0.0.0.0 without a key" in errors and "Traceback" not in errors
    assert errors.index("PADDLEMIX_API_KEY") < errors.index("--api-key @FILE")


@pytest.mark.parametrize(("name", "keys"), [("tiny", ()), ("llava-v1.6-vicuna-13b-finetuned-on-charts", ("secret",))])
def test_first_words_fit_a_terminal_and_say_how_to_ask_and_to_stop(name, keys, capsys):
    settings = ServeSettings(ModelOptions(Path("m"), quantization="nf4"), (name,), api_keys=keys)
    info = dataclasses.replace(INFO, template="vicuna_v1", max_model_len=4096, device="gpu:0", dtype="float16")
    greet(settings, info, "http://127.0.0.1:8000", "4 workers")
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines) and lines[-1] == "Stop:  Ctrl-C"
    assert " ".join(" ".join(lines).split()).startswith(
        f"Serving {name} (vicuna_v1, 4096 tokens of context) on gpu:0 in float16 with NF4 weights, 4 workers Page:"
    )
    words = shlex.split("\n".join(lines).partition("Try:")[2].partition("Stop:")[0])
    assert words[:2] == ["curl", "http://127.0.0.1:8000/v1/chat/completions"]
    assert json.loads(words[-1])["messages"] and ("Authorization: Bearer KEY" in words) == bool(keys)


def test_second_interrupt_ends_at_once():
    process = start(seconds=0.5)
    address, _ = address_in(process)
    response = urllib3.PoolManager().request(
        "POST", address + "/v1/chat/completions", json=question(stream=True), preload_content=False
    )
    process.send_signal(signal.SIGINT)
    assert "stopping: 1 running request may take 30 s; Ctrl-C again stops at once" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(2) == 130 and "stopped at once: 1 request broken off" in process.stderr.read()
    response.close()


def test_idle_server_stops_without_words_of_answers():
    process = start()
    address_in(process)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0 and process.stderr.read() == "paddlemix: stopping\n"


def test_interrupt_while_the_model_is_loaded_is_130():
    process = start("--port", str(free_port := unused_port()), seconds=-2)
    wait_for_health(free_port)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130 and process.stderr.read() == "stopped\n"


def test_model_that_cannot_be_loaded_is_one_line():
    process = start(seconds=-1)
    out, errors = process.communicate(timeout=20)
    assert process.returncode == 1 and out == "" and errors == "error: the device is not there\n"


def test_arguments_are_read_without_loading_anything():
    parser = command_parser("serve")
    assert isinstance(parser, argparse.ArgumentParser) and parser.get_default("sets_environment")
