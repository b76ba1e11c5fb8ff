"""Run `paddlemix prepare`, also until it is killed, and read what it wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from paddlemix.cli import main

ROOT = Path(__file__).resolve().parents[2]
# Runs a command line in a process that is killed, as by `kill -9`, at the given number of calls of a function.
KILLED = """
import importlib, os, signal, sys
module, name, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
owner, _, attribute = name.rpartition(".")
holder = importlib.import_module(module)
holder = getattr(holder, owner) if owner else holder
original, count = getattr(holder, attribute), 0
def counted(*values, **options):
    global count
    count += 1
    if count == number:
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*values, **options)
setattr(holder, attribute, counted)
from paddlemix.cli import main
sys.exit(main(["prepare", *sys.argv[4:]]))
"""


def prepare(*words: object) -> int:
    """Run the command in this process; return its exit code."""
    return main(["prepare", *map(str, words)])


def rows_of(path: Path) -> list[dict]:
    """Return the rows of a file with one a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def llava(name: str, image: str, question: str, answer: str) -> dict:
    """Return a row of LLaVA's format, written out."""
    return {
        "id": name,
        "image": image,
        "conversations": [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}],
    }


def counts(text: str) -> dict[str, int]:
    """Return the reasons and notes that the command printed, with their counts."""
    lines = (line.strip() for line in text.splitlines() if line.startswith("  ") and not line.startswith("    "))
    found: dict[str, int] = {}
    for number, _, reason in (line.removeprefix("dropped ").partition(": ") for line in lines):
        found[reason] = found.get(reason, 0) + int(number)
    return found


def killed_at(module: str, name: str, number: int, *words: object) -> bool:
    """Run the command in a process that is killed at a numbered call of a function; return whether it got that far."""
    command = [sys.executable, "-c", KILLED, module, name, str(number), *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode in (0, -9), done.stderr
    return done.returncode == -9


def tree(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder, without the records beside outputs."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".prepared"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
