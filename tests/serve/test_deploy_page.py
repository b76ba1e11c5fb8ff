"""serving.md: its options are those of the command, its commands run or are valid, its messages are the package's."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from documentation import EXAMPLES, ROOT, SERVING, block_with, blocks, linked_folder, run, sections

from paddlemix.cli import COMMANDS, command_parser
from paddlemix.commands import serve
from paddlemix.serve.cluster.ray_settings import settings_of

FILES = EXAMPLES / "serve"
ADDRESS = "http://127.0.0.1:8000"
ANSWER = "The number of shapes is four."


def section(heading, page=SERVING[0]):
    (found,) = (each for each in sections(page) if each.heading == heading)
    return found


def command_lines():
    """Return the words of every command of the page."""
    text = "".join(blocks(SERVING[0], "bash")).replace("\\\n", " ")
    text = re.sub(r"curl .*?}'$", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [words for words in lines if words]


def without_variables(words):
    """Return a command without the variables before it."""
    return words[next(place for place, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)) :]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Start the server of the first command and return its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    log = tmp_path_factory.mktemp("deploy") / "log"
    with log.open("wb") as file:
        command = [sys.executable, "-m", "paddlemix", "serve", "--port", str(port), "--device", "cpu"]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()
            if "Try:" in log.read_text():
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        assert process.wait(60) == 0, log.read_text()


def test_the_table_of_options_is_that_of_the_command():
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    options = {option for action in parser._actions for option in action.option_strings} - {"-h", "--help"}
    rows = [row.split("|")[1:] for row in re.findall(r"^\| `--.*", section("Options").text, re.MULTILINE)]
    assert {option for row in rows for option in re.findall(r"`(--[\w-]+)`", row[0])} == options
    defaults = {option: action.default for action in parser._actions for option in action.option_strings}
    for names, shown, *_ in rows:
        for option, text in zip(re.findall(r"--[\w-]+", names), shown.split(","), strict=False):
            if re.fullmatch(r"[\d.]+(MB)?|paddlemix", text.strip()):
                assert text.strip() == f"{defaults[option]}".removesuffix(".0"), option


def test_the_help_of_the_key_is_the_text_of_the_page():
    (text,) = (action.help for action in command_parser("serve")._actions if action.option_strings == ["--api-key"])
    assert f"| {text} |" in section("Options").text.replace("`", "")


@pytest.mark.parametrize("page", SERVING, ids=lambda page: page.stem)
def test_the_clients_of_the_page_get_the_answer(address, page, tmp_path):
    folder = linked_folder(tmp_path)
    command = block_with("curl -s", page)
    assert ADDRESS in command
    answer = json.loads(run(command.replace(ADDRESS, address), folder))
    assert answer["choices"][0]["message"]["content"] == ANSWER
    openai, langchain = blocks(page, "python")
    for code, package in ((openai, "openai"), (langchain, "langchain_openai")):
        pytest.importorskip(package)
        assert ADDRESS in code
        (folder / "client.py").write_text(code.replace(ADDRESS, address), encoding="utf-8")
        assert run("python client.py", folder).strip() == ANSWER


def test_the_page_is_at_the_address(address):
    with urllib.request.urlopen(address, timeout=10) as answer:
        assert answer.status == 200 and b"<html" in answer.read()


def test_every_command_of_the_package_is_valid():
    ours = [without_variables(words) for words in command_lines()]
    ours = [words[1:] for words in ours if words[0] == "paddlemix"]
    assert len(ours) >= 11 and {words[0] for words in ours} <= COMMANDS.keys()
    for name, *words in ours:
        command_parser(name).parse(words)


def test_llavas_command_lines_are_valid():
    scripts = [words[1:] for words in command_lines() if words[0] == "python"]
    names = {
        "cli.py": "chat",
        "run_llava.py": "llava-run",
        **{
            f"{name}.py": f"llava-{name.replace('_', '-')}"
            for name in ("controller", "model_worker", "gradio_web_server")
        },
    }
    assert {Path(script).name for script, *_ in scripts} == names.keys()
    for script, *words in scripts:
        assert (ROOT / script).is_file()
        command_parser(names[Path(script).name]).parse(words)


def test_requirement_files_and_shipped_files_of_the_commands_exist():
    words = {word for line in command_lines() for word in line if "/" in word or word.startswith("requirements")}
    named = [word for word in words if word.startswith(("paddlemix/", "requirements"))]
    assert len(named) >= 8
    for name in named:
        assert (ROOT / name).exists(), name


def test_arguments_of_serve_run_are_settings():
    (words,) = (line for line in command_lines() if line[:2] == ["serve", "run"])
    module, _, name = words[2].partition(":")
    assert module == "paddlemix.serve.ray_app" and name == "app"
    served, cluster = settings_of(dict(word.split("=") for word in words[3:]))
    assert str(served.model.model_path) == "/srv/models/llava-v1.5-7b" and cluster.num_replicas == 2


def test_arguments_of_the_ray_file_are_settings():
    yaml = pytest.importorskip("yaml")
    config = yaml.safe_load((FILES / "ray.yaml").read_text(encoding="utf-8"))
    assert config["http_options"]["host"] == "127.0.0.1"
    served, cluster = settings_of(config["applications"][0]["args"])
    assert served.model.max_running == 16 and (cluster.min_replicas, cluster.max_replicas) == (1, 4)


def test_messages_in_the_table_of_errors_are_those_of_the_package():
    sources = (module.read_text(encoding="utf-8") for module in (ROOT / "paddlemix").rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources))
    texts = (
        path.read_text(encoding="utf-8").partition(heading)[2]
        for path, heading in zip(SERVING, ("## Troubleshooting", "## 故障排查"), strict=True)
    )
    messages, others = (re.findall(r"^\| `(.*?)` \|", text, re.MULTILINE) for text in texts)
    assert messages == others and len(messages) >= 15
    for message in messages:
        for part in message.split("..."):
            assert part.strip() in source, message


@pytest.mark.parametrize("kind", ["cpu", "cuda", "ascend"])
def test_container_files_start_the_server_as_a_user_without_weights(kind):
    text = (FILES / f"{kind}.Dockerfile").read_text(encoding="utf-8")
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert bases and all(re.search(r":\S*\d+\.\d+\.\d+", base) for base in bases), "a base without a version"
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE) and text.index("USER 10001") < text.index("ENTRYPOINT")
    assert "HEALTHCHECK" in text and "/health" in text and "STOPSIGNAL SIGTERM" in text
    words = json.loads(re.search(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)[1])
    words += json.loads(re.search(r"^CMD (.*)$", text, re.MULTILINE)[1])
    arguments = command_parser("serve").parse(words[2:])
    assert words[:2] == ["paddlemix", "serve"] and arguments.model_path == "/models/model"
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE)
    assert {name for line in copied for name in line.split()} <= {
        "requirements*.txt", "setup.py", "pyproject.toml", "README.md", "paddlemix"
    }  # fmt: skip


def test_the_compose_file_takes_rights_away():
    yaml = pytest.importorskip("yaml")
    services = yaml.safe_load((FILES / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert services.keys() == {"cpu", "cuda", "ascend"}
    for name, service in services.items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
        assert service["ports"] == ["127.0.0.1:${PORT:-8000}:8000"]
        assert (ROOT / service["build"]["dockerfile"]).is_file() and name in service["image"]
        if "command" in service:
            command_parser("serve").parse(service["command"])


def test_the_systemd_unit_starts_a_valid_command():
    text = (FILES / "paddlemix.service").read_text(encoding="utf-8")
    (line,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    program, name, *words = line.split()
    assert program.endswith("/paddlemix") and name == "serve"
    arguments = command_parser("serve").parse(words)
    stop = int(re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)[1])
    assert stop > arguments.stop_timeout and "NoNewPrivileges=yes" in text and "ProtectSystem=strict" in text


def test_nginx_waits_longer_than_the_server_and_takes_as_large_bodies():
    text = (FILES / "nginx.conf").read_text(encoding="utf-8")
    arguments = command_parser("serve").parse([])
    assert int(re.search(r"proxy_read_timeout (\d+)s;", text)[1]) > arguments.request_timeout
    assert re.search(r"client_max_body_size (\d+)m;", text)[1] + "MB" == arguments.max_body
    assert "proxy_buffering off;" in text and "metrics" in text


def test_the_package_ships_the_files():
    names = {path.name for path in FILES.iterdir() if path.is_file()}
    assert names >= {"nginx.conf", "compose.yaml", "paddlemix.service", "ray.yaml", "grafana.json"}
    linked = set(re.findall(r"/llava/serve/([\w.]+)\)", SERVING[0].read_text(encoding="utf-8")))
    assert linked == {name for name in names if not name.endswith(".py")}
    assert not any(os.access(FILES / name, os.X_OK) for name in linked)
