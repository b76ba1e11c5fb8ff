"""Shell completion: what the Tab key proposes, asked as the shells ask."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paddlemix.cli import COMMANDS, main
from paddlemix.commands import completion

pytest.importorskip("argcomplete")
ROOT = Path(__file__).parents[2]


def asked(line, folder, code="from paddlemix.cli import main; main()"):
    """Return what is proposed for a command line up to the cursor, and the modules that were loaded."""
    answers = folder / ".answers"
    variables = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answers),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
        "PYTHONPATH": str(ROOT),
    }
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **variables}, cwd=folder, timeout=600, check=True)
    return [word.rstrip() for word in answers.read_text().split("\n") if word.strip()]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("paddlemix ch", ["chat"]),
        ("paddlemix ex", ["extract-projector"]),
        ("paddlemix --ver", ["--version"]),
        ("paddlemix chat --load-in", ["--load-in-8bit", "--load-in-4bit"]),
        ("paddlemix chat --dtype ", ["float32", "float16", "bfloat16"]),
        ("paddlemix chat --conv-mode llama", ["llama_2", "llama_3"]),
        ("paddlemix chat --image-file pic", ["pictures/"]),
        ("paddlemix eval ru", ["run"]),
        ("paddlemix eval run pope --data-", ["--data-dir"]),
        ("paddlemix prepare vali", ["validate"]),
        ("paddlemix sft a", ["a.json"]),
        ("paddlemix sft a.json --learn", ["--learning_rate"]),
        ("paddlemix pretrain a.json --dry", ["--dry_run"]),
        ("paddlemix doctor a.json --max_len", ["--max_length"]),
    ],
)
def test_commands_options_settings_and_paths_are_proposed(line, expected, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "a.json").write_text("{}")
    assert asked(line, tmp_path) == expected


def test_all_commands_are_proposed(tmp_path):
    assert set(COMMANDS) <= set(asked("paddlemix ", tmp_path))


def test_an_answer_loads_no_framework(tmp_path):
    probe = (
        "import os, sys; from paddlemix.cli import main\n"
        "os._exit = lambda code: sys.exit(code)\n"
        "try: main()\n"
        "finally: open('loaded', 'w').write(' '.join(sys.modules))"
    )
    for line in ("paddlemix chat --", "paddlemix sft a.json --", "paddlemix serve --"):
        asked(line, tmp_path, probe)
        assert not {"paddle", "paddlenlp"} & set((tmp_path / "loaded").read_text().split()), line


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_code_for_the_shell_is_valid(shell, tmp_path, capsys):
    assert main(["completion", shell]) == 0
    code = capsys.readouterr().out
    assert "paddlemix" in code
    if shutil.which(shell):
        file = tmp_path / "code"
        file.write_text(code)
        subprocess.run([shell, "-n", str(file)], check=True, timeout=60)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_with_the_tab_key(tmp_path):
    program = tmp_path / "paddlemix"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m paddlemix.cli "$@"\n')
    program.chmod(0o755)
    import pty

    here, there = pty.openpty()
    variables = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "TERM": "dumb", "PS1": "$ "}
    bash = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"], stdin=there, stdout=there, stderr=there, env=variables, cwd=tmp_path
    )
    os.close(there)
    try:
        os.write(here, b'eval "$(paddlemix completion bash)"; echo re""ady\n')
        read_until(here, "ready")
        os.write(here, b"paddlemix chat --image-f\t")
        read_until(here, "--image-file ")
    finally:
        bash.kill()
        bash.wait()
        os.close(here)


def read_until(descriptor, text, seconds=60):
    """Read a pseudo-terminal until a text has come."""
    import select

    found, end = "", time.monotonic() + seconds
    while text not in found:
        assert time.monotonic() < end, found
        if select.select([descriptor], [], [], 0.2)[0]:
            found += os.read(descriptor, 4096).decode(errors="replace")


def test_missing_package_is_named(monkeypatch, capsys):
    monkeypatch.setattr(completion.importlib.util, "find_spec", lambda name: None)
    assert main(["completion", "bash"]) == 1
    assert capsys.readouterr().err == f"error: {completion.MISSING}\n"
