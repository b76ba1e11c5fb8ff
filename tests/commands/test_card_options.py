"""`--tensor-parallel N` answers as one process does; here the cards are processes on the CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from gloo import check_connected, connected

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "paddlemix/examples/llava/eval/run_llava.py"
TINY = ROOT / "paddlemix/examples/llava/tiny"

QUESTIONS = "How many shapes are there?\nWhich colors do they have?\n/clear\nHow many shapes are there?\n"


def answered(command: list[str], text: str = "") -> subprocess.CompletedProcess:
    """Run a command whose processes gloo connects."""

    def attempt(_: int) -> subprocess.CompletedProcess:
        done = subprocess.run(command, input=text, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
        check_connected(done.stderr)
        return done

    return connected(attempt)


def chat(*options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "paddlemix", "chat", "--model-path", str(TINY / "model"), "--device", "cpu"]
    command += ["--image-file", str(TINY / "shapes.png"), *options]
    return answered(command, QUESTIONS)


def test_two_processes_that_share_a_decoder_answer_like_one():
    options = ("--temperature", "1", "--load-8bit", "--speculate", "3")
    one, two = chat(*options), chat(*options, "--tensor-parallel", "2")
    assert one.returncode == two.returncode == 0, two.stderr
    assert two.stdout == one.stdout and len(one.stdout.splitlines()) > 3


def test_llavas_script_answers_on_two_cards_like_a_chat():
    words = ["--image-file", str(TINY / "shapes.png"), "--query", "How many shapes are there?", "--num-gpus", "2"]
    command = [
        sys.executable,
        str(SCRIPT),
        "--model-path",
        str(TINY / "model"),
        "--device",
        "cpu",
        "--temperature",
        "0",
    ]
    done = answered([*command, *words])
    assert (done.returncode, done.stdout) == (0, "The number of shapes is four.\n"), done.stderr


def test_a_model_that_cannot_be_divided_in_4_bits_is_refused():
    refused = chat("--tensor-parallel", "2", "--load-4bit")
    assert refused.returncode == 1 and "344 inputs cannot be cut at 0 and 172 in nf4" in refused.stderr, refused.stderr
