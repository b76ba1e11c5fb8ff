"""Standard streams that are closed or full, or whose reader has gone, cause at most one line, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from paddlemix.constants import BUNDLED_MODEL

ROOT = Path(__file__).parents[2]
INSPECT = f"{sys.executable} -m paddlemix.cli inspect {BUNDLED_MODEL}"
CHAT = f"{sys.executable} -m paddlemix.cli chat --device cpu --max-new-tokens 2"


def shell(command: str, *, is_buffered: bool = True, **variables: str) -> tuple[int, str, str]:
    """Run a command line; return its code, output and errors."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "PADDLEMIX_OFFLINE": "1", **variables}
    environment |= {} if is_buffered else {"PYTHONUNBUFFERED": "1"}
    done = subprocess.run(["bash", "-c", command], capture_output=True, env=environment, timeout=600, check=False)
    output, errors = (stream.decode(errors="surrogateescape") for stream in (done.stdout, done.stderr))
    assert "Traceback" not in errors and "Exception ignored" not in errors, errors
    return done.returncode, output, errors


@pytest.mark.parametrize("is_buffered", [True, False], ids=["buffered", "unbuffered"])
def test_a_reader_that_has_gone_ends_a_command_quietly(is_buffered):
    code, output, errors = shell(f"{INSPECT} | true; exit ${{PIPESTATUS[0]}}", is_buffered=is_buffered)
    assert (code, output, errors) == (1, "", "")


def test_a_full_disk_is_one_line():
    code, _, errors = shell(f"{INSPECT} > /dev/full")
    assert code == 1 and errors == "error: standard output cannot be written: No space left on device\n"


def test_closed_output_is_reported_and_written_to_no_file():
    code, _, errors = shell(f"{INSPECT} >&-")
    assert code == 0 and errors == "paddlemix: standard output is closed: its text is lost\n"


def test_closed_errors_do_not_get_into_the_output():
    code, output, _ = shell(f"{INSPECT} 2>&-")
    assert code == 0 and output.endswith("nothing is missing\n")
    assert shell(f"{INSPECT} <&- >&- 2>&-")[0] == 0


def test_chat_ends_without_input_and_continues_without_utf8():
    code, output, _ = shell(f"{CHAT} <&-")
    assert code == 0 and output.endswith("exit...\n")
    odd = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    code, output, errors = shell(f"printf 'caf\\xc3\\xa9 \\xff\\n/help\\n' | {CHAT}", **odd)
    assert code == 0 and "(not sent: " in output and output.count("/clear ") == 1, errors


def test_names_of_files_in_a_command_line_are_made_visible():
    code, _, errors = shell(f"{INSPECT} $'a\\x1b]0;PW\\x07'")
    assert code == 2 and errors.endswith("unrecognized arguments: a\\x1b]0;PW\\x07\n")
    code, _, errors = shell(f"{sys.executable} -m paddlemix.cli sft $'\\x1b[31m.json'")
    assert code == 1 and "\x1b" not in errors and r"\x1b[31m" in errors
