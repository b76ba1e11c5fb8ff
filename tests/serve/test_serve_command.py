"""`paddlemix serve`: its options, what it says, and how it stops."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import urllib3
from live_server import chunks_of, question

from paddlemix.cli import command_parser, main
from paddlemix.commands import serve
from paddlemix.serve.guards.access import all_keys, checked_origins
from paddlemix.serve.web_server import address_of, open_socket

SCRIPT = Path(__file__).with_name("fake_serve.py")


def settings_of(*options):
    return serve.settings_of(command_parser("serve").parse(list(options)))


def start(*options, seconds=0.0):
    """Start a server with a fake backend; return its process."""
    command = [sys.executable, str(SCRIPT), str(seconds), "--port", "0", *options]
    folders = os.pathsep.join((str(SCRIPT.parents[2]), str(SCRIPT.parent)))
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONPATH": folders}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def address_in(process):
    """Return the address that a server prints, and the rest of what it printed until it was ready."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("Try:"):
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


def test_defaults_are_a_loopback_server_of_the_tiny_model():
    found = settings_of()
    assert (found.host, found.port, found.names, found.api_keys) == ("127.0.0.1", 8000, ("tiny",), ())
    assert found.image_hosts == found.origins == () and not found.is_logging_requests


def test_key_of_the_environment_counts_too(monkeypatch):
    monkeypatch.setenv("PADDLEMIX_API_KEY", "secret")
    assert all_keys(["given"]) == ("given", "secret")
    assert "secret" not in repr(settings_of())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--api-key", "@/absent"], "/absent cannot be read"),
        (["--api-key", " "], "--api-key is empty"),
        (["--api-key", "a b"], "a key has spaces"),
        (["--allow-origins", "*"], "needs --api-key"),
        (["--allow-origins", "chat.example.com"], "expected an origin"),
        (["--load-8bit", "--load-4bit"], "not both"),
        (["--max-body", "much"], "'much' is not understood"),
        (["--model-path", "/absent/model"], "/absent/model"),
        (["--host", "192.0.2.1"], "is no address of this machine"),
        (["--port", "70000"], "--port 70000 is no port"),
    ],
)
def test_wrong_options_are_one_line(options, text, capsys):
    assert main(["serve", "--port", "0", *options]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and text in lines[0]


@pytest.mark.parametrize("options", [["--max-running", "0"], ["--request-timeout", "nan"], ["--workers", "x"]])
def test_numbers_out_of_range_are_refused(options, capsys):
    with pytest.raises(SystemExit):
        main(["serve", *options])
    assert options[0] in capsys.readouterr().err


def test_busy_port_is_found_before_the_model_is_looked_for(capsys):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        assert main(["serve", "--port", port, "--model-path", "/absent/model"]) == 1
    assert f"port {port} of 127.0.0.1 is in use" in capsys.readouterr().err


def test_missing_extra_is_one_line_with_the_command(monkeypatch, capsys):
    monkeypatch.setattr(serve, "PACKAGES", ("fastapi", "no_such_package"))
    assert main(["serve"]) == 1
    assert "pip install 'paddlemix[serve]'" in capsys.readouterr().err


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


def test_second_interrupt_ends_at_once():
    process = start(seconds=0.5)
    address, _ = address_in(process)
    response = urllib3.PoolManager().request(
        "POST", address + "/v1/chat/completions", json=question(stream=True), preload_content=False
    )
    process.send_signal(signal.SIGINT)
    assert "Ctrl-C again stops at once" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(2) == 130
    response.close()


def test_model_that_cannot_be_loaded_is_one_line():
    process = start(seconds=-1)
    out, errors = process.communicate(timeout=20)
    assert process.returncode == 1 and out == "" and errors == "error: the device is not there\n"


def test_arguments_are_read_without_loading_anything():
    parser = command_parser("serve")
    assert isinstance(parser, argparse.ArgumentParser) and parser.get_default("sets_environment")
